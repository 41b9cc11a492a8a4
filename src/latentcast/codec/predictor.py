"""Predictors: what the device's latent says about the sample to come, and how far off that is."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

__all__ = ["Prediction", "paper_prediction", "refinement_variance"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """x_t is predicted as gain * x_hat_tp, with an error of standard deviation scale per dimension.

    Attributes:
        gain: factor on the device's latent; 0 where it says nothing.
        scale: standard deviation of the error, positive.
    """

    gain: float
    scale: float


def refinement_variance(
    path: NoisePath, step: int | NDArray[np.int64], reference_step: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """The variance sigma^2_(t,tp) that a refinement has by the forward process (eq. 7), per dimension.

    abar_t / abar_tp - 1, and 1 for t_p = T, where x_t itself is coded (Section IV-A).

    Args:
        path: a variance-preserving noise path.
        step: t, within 0..T-1; a number or an array.
        reference_step: t_p, within t+1..T; a number or an array that broadcasts with step.

    Returns:
        sigma^2, float64, the broadcast shape.

    Raises:
        ParameterError: if the path is not variance preserving.

    Example:
        >>> refinement_variance(NoisePath.stable_diffusion(50), 20, np.array([40, 50])).round(4).tolist()
        [9.4759, 1.0]
    """
    if not path.is_variance_preserving:
        raise ParameterError("eq. 7 needs a path with a_t^2 + s_t^2 = 1 at every step")
    initial = np.asarray(reference_step) == path.num_steps
    # abar_T may be 0, and is not needed.
    held = np.where(initial, 1.0, path.alpha_bar[reference_step])
    # The difference first: it is exact for close steps, and stays positive.
    return np.where(initial, 1.0, (path.alpha_bar[step] - held) / held)


def paper_prediction(path: NoisePath, step: int, reference_step: int) -> Prediction:
    """The paper's forward-process predictor (eq. 7).

    x_hat_tp + mu = sqrt(abar_t / abar_tp) x_hat_tp with sigma^2 = abar_t / abar_tp - 1. From the initial
    noise, t_p = T, x_t itself is coded: gain 0 and scale 1 (Section IV-A). The device's quantisation error,
    which the gain amplifies, is neglected as in the paper.

    Args:
        path: a variance-preserving noise path.
        step: t, 0..T-1.
        reference_step: t_p, the step of the device's latent, t+1..T.

    Raises:
        ParameterError: if the steps are out of range or order, or the path is not variance preserving.

    Example:
        >>> prediction = paper_prediction(NoisePath.stable_diffusion(50), 20, 40)
        >>> round(prediction.gain, 4), round(prediction.scale**2, 4)
        (3.2366, 9.4759)
    """
    for name, value in (("step", step), ("reference_step", reference_step)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ParameterError(f"{name} is {value!r}; it must be a whole number, 0..{path.num_steps}")
    if not 0 <= step < reference_step <= path.num_steps:
        raise ParameterError(
            f"step is {step} and reference_step {reference_step}; "
            f"they need 0 <= step < reference_step <= {path.num_steps}"
        )
    scale = math.sqrt(float(refinement_variance(path, step, reference_step)))
    if reference_step == path.num_steps:
        return Prediction(gain=0.0, scale=scale)
    return Prediction(
        gain=math.sqrt(float(path.alpha_bar[step]) / float(path.alpha_bar[reference_step])), scale=scale
    )
