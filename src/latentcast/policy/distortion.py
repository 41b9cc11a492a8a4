"""The paper's distortion model of the latent at the deadline (Section IV-A), per dimension."""

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.codec.predictor import refinement_variance
from latentcast.codec.quantizer import LOSSLESS_BITS, lloyd_max, panter_dite_mse
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

__all__ = [
    "DistortionBase",
    "base_distortion",
    "diffusion_distortion",
    "quantization_distortion",
    "total_distortion",
]

FloatArray: TypeAlias = NDArray[np.float64]
DistortionBase: TypeAlias = Literal["panter-dite", "lloyd-max"]


def base_distortion(bits: int, base: DistortionBase = "panter-dite") -> float:
    """D_base(b), the error of quantising one N(0, 1) number with b bits; 0 for the lossless 16.

    Args:
        bits: b, 1..16.
        base: "panter-dite", the paper's high-rate formula, or "lloyd-max", the exact error.

    Raises:
        ParameterError: if bits or base is none of these.

    Example:
        >>> round(base_distortion(3), 6), round(base_distortion(3, "lloyd-max"), 6), base_distortion(16)
        (0.042511, 0.034548, 0.0)
    """
    if base not in get_args(DistortionBase):
        raise ParameterError(f"base is {base!r}; it must be 'panter-dite' or 'lloyd-max'")
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= LOSSLESS_BITS:
        raise ParameterError(f"bits is {bits!r}; it must be a whole number, 1..{LOSSLESS_BITS}")
    if bits == LOSSLESS_BITS:
        return 0.0
    return panter_dite_mse(bits) if base == "panter-dite" else lloyd_max(bits).mse


def diffusion_distortion(path: NoisePath, step: ArrayLike) -> FloatArray:
    """D_diff(t), how far x_t is from x_0 (eq. 9).

    (1 - a_t)^2 + s_t^2, which is 2 (1 - sqrt(abar_t)) on a variance-preserving path, for a latent of unit
    variance. At t = T the formula takes x_T as noised x_0; the device's own noise is independent of x_0 and
    really 2 away.

    Args:
        path: the noise path.
        step: t, 0..T, a number or an array of any shape.

    Returns:
        D_diff, float64, shape of step.

    Raises:
        ParameterError: if a step is out of range.

    Example:
        >>> path = NoisePath.stable_diffusion(50)
        >>> diffusion_distortion(path, [0, 25, 50]).round(3).tolist()
        [0.0, 0.9, 1.848]
    """
    steps = _steps("step", step, path)
    table = (1.0 - path.signal) ** 2 + path.noise**2
    return np.asarray(table[steps], dtype=np.float64)


def quantization_distortion(
    path: NoisePath,
    step: ArrayLike,
    reference_step: ArrayLike,
    bits: int,
    *,
    base: DistortionBase = "panter-dite",
) -> FloatArray:
    """D_quant(t, t_p, b) = sigma^2_(t,tp) D_base(b), the refinement's quantisation error (eq. 10).

    sigma^2 is `refinement_variance`. The error that the device already carries is neglected.

    Args:
        path: a variance-preserving noise path.
        step: t, a number or an array.
        reference_step: t_p > t, a number or an array that broadcasts with step.
        bits: b, 1..16; 16 gives 0.
        base: D_base; see `base_distortion`.

    Returns:
        D_quant, float64, the broadcast shape.

    Raises:
        ParameterError: if steps, bits or base are out of range, a step is not below its reference, or the
            path is not variance preserving.

    Example:
        >>> path = NoisePath.stable_diffusion(50)
        >>> quantization_distortion(path, [0, 20], [50, 40], 3).round(4).tolist()
        [0.0425, 0.4028]
    """
    targets, held = _steps("step", step, path), _steps("reference_step", reference_step, path)
    if np.any(targets >= held):
        raise ParameterError(
            f"step is {step!r} and reference_step {reference_step!r}; the step must be below"
        )
    return np.asarray(refinement_variance(path, targets, held) * base_distortion(bits, base))


def total_distortion(
    path: NoisePath,
    step: ArrayLike,
    reference_step: ArrayLike,
    bits: int,
    *,
    base: DistortionBase = "panter-dite",
) -> FloatArray:
    """D_total(t, t_p, b) = D_diff(t) + D_quant(t, t_p, b), with both errors taken as uncorrelated (eq. 8).

    Arguments, result and errors are those of `quantization_distortion`.

    Example:
        >>> path = NoisePath.stable_diffusion(50)
        >>> round(float(total_distortion(path, 25, 50, 3)), 4)
        0.9429
    """
    return diffusion_distortion(path, step) + quantization_distortion(
        path, step, reference_step, bits, base=base
    )


def _steps(name: str, values: ArrayLike, path: NoisePath) -> NDArray[np.int64]:
    steps = np.asarray(values)
    if not np.issubdtype(steps.dtype, np.integer):
        raise ParameterError(f"{name} is {values!r}; it must be a whole number, 0..{path.num_steps}")
    if np.any(steps < 0) or np.any(steps > path.num_steps):
        raise ParameterError(f"{name} is {values!r}; it must be 0..{path.num_steps}")
    return steps.astype(np.int64)
