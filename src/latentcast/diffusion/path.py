"""Noise paths: the signal and noise coefficients of every denoising step.

The latent at step t is x_t = a_t x_0 + s_t eps with unit normal eps (eq. 2 of the paper, where a_t =
sqrt(abar_t) and s_t = sqrt(1 - abar_t)). Step T is noise and step 0 the final latent. NumPy alone is needed
here.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.errors import ParameterError

__all__ = ["NoisePath", "stable_diffusion_training_steps"]

FloatArray: TypeAlias = NDArray[np.float64]

NUM_TRAINING_STEPS = 1000
BETA_FIRST = 0.00085
BETA_LAST = 0.012

# A path given in float32 keeps a^2 + s^2 = 1 to about 1e-7 only.
VARIANCE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisePath:
    """Signal and noise coefficients a_t, s_t of x_t = a_t x_0 + s_t eps, for t = 0..T.

    Eq. 2 of the paper in general form, so that variance-preserving, variance-exploding and flow-matching
    models fit alike. Paths compare and hash by their values; the arrays are read-only.

    Attributes:
        signal: a_t, float64, shape (T + 1,), with a_0 = 1.
        noise: s_t, float64, shape (T + 1,), with s_0 = 0.

    Raises:
        ParameterError: if the arrays are not two equally long vectors of finite, non-negative numbers, if x
            at step 0 is not x_0 itself, or if the signal-to-noise ratio does not fall strictly from step to
            step.

    Example:
        >>> path = NoisePath(signal=[1.0, 0.8, 0.6], noise=[0.0, 0.6, 0.8])
        >>> path.num_steps, path.alpha_bar.round(6).tolist()
        (2, [1.0, 0.64, 0.36])
    """

    signal: FloatArray
    noise: FloatArray

    def __post_init__(self) -> None:
        signal = _vector("signal", self.signal)
        noise = _vector("noise", self.noise)
        if signal.size != noise.size:
            raise ParameterError(
                f"signal has {signal.size} entries and noise {noise.size}; both need T + 1, for steps 0..T"
            )
        if signal[0] != 1.0 or noise[0] != 0.0:
            raise ParameterError(
                f"step 0 has signal {signal[0]:g} and noise {noise[0]:g}; the final latent needs 1 and 0"
            )
        if np.any((signal == 0.0) & (noise == 0.0)):
            raise ParameterError("signal and noise are both 0 at one step; at least one must be positive")
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "noise", noise)
        if not np.all(np.isfinite(self.alpha_bar)):
            step = int(np.argmin(np.isfinite(self.alpha_bar)))
            raise ParameterError(
                f"step {step} has signal {signal[step]:g} and noise {noise[step]:g}, whose squares leave the "
                "range of float64; keep both within 1e-150..1e150"
            )
        if np.any(np.diff(self.alpha_bar) >= 0.0):
            step = int(np.argmax(np.diff(self.alpha_bar) >= 0.0)) + 1
            raise ParameterError(
                f"the signal-to-noise ratio does not fall from step {step - 1} to step {step}; "
                "order the path from the clean latent (step 0) to noise (step T)"
            )

    @property
    def num_steps(self) -> int:
        """T, the number of denoising steps."""
        return int(self.signal.size) - 1

    @cached_property
    def alpha_bar(self) -> FloatArray:
        """abar_t = a_t^2 / (a_t^2 + s_t^2), float64, shape (T + 1,), read-only."""
        with np.errstate(over="ignore", invalid="ignore"):
            power = self.signal**2
            alpha_bar = power / (power + self.noise**2)
        alpha_bar.flags.writeable = False
        return alpha_bar

    @cached_property
    def is_variance_preserving(self) -> bool:
        """Whether a_t^2 + s_t^2 = 1 at every step, as eqs. 6, 7 and 9 of the paper need."""
        return bool(np.all(np.abs(self.signal**2 + self.noise**2 - 1.0) <= VARIANCE_TOLERANCE))

    @classmethod
    def from_alpha_bar(cls, alpha_bar: ArrayLike) -> "NoisePath":
        """The variance-preserving path with a_t = sqrt(abar_t), s_t = sqrt(1 - abar_t) (eq. 2).

        Args:
            alpha_bar: abar_t for t = 0..T, shape (T + 1,), from 1 strictly falling, not below 0.

        Raises:
            ParameterError: if the values are not such a sequence.

        Example:
            >>> NoisePath.from_alpha_bar([1.0, 0.64, 0.0]).signal.round(6).tolist()
            [1.0, 0.8, 0.0]
        """
        values = _vector("alpha_bar", alpha_bar)
        if values.max() > 1.0:
            raise ParameterError(f"alpha_bar reaches {values.max():g}; it must stay within 0..1")
        return cls(signal=np.sqrt(values), noise=np.sqrt(1.0 - values))

    @classmethod
    def stable_diffusion(cls, num_steps: int = 50) -> "NoisePath":
        """The path of Stable Diffusion v1-5 sampled in `num_steps` steps.

        1000 training steps with scaled-linear beta from 0.00085 to 0.012, on the grid of
        `stable_diffusion_training_steps`.

        Args:
            num_steps: T, 1..1000.

        Raises:
            ParameterError: if num_steps is outside 1..1000.

        Example:
            >>> path = NoisePath.stable_diffusion(50)
            >>> [round(float(path.alpha_bar[t]), 6) for t in (0, 1, 25, 50)]
            [1.0, 0.998296, 0.302296, 0.005776]
        """
        return _stable_diffusion(_checked_num_steps(num_steps))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoisePath):
            return NotImplemented
        return np.array_equal(self.signal, other.signal) and np.array_equal(self.noise, other.noise)

    def __hash__(self) -> int:
        return hash((self.signal.tobytes(), self.noise.tobytes()))

    def __repr__(self) -> str:
        return (
            f"NoisePath(num_steps={self.num_steps}, alpha_bar={self.alpha_bar[0]:g}..{self.alpha_bar[-1]:g})"
        )


def stable_diffusion_training_steps(num_steps: int) -> NDArray[np.int64]:
    """Training step of every sampling step of Stable Diffusion v1-5.

    The "leading" grid with offset 1: step t is training step (1000 // T)(t - 1) + 1. Of T = 1000 the offset
    would leave the training range, so that grid is the training steps 0..999 themselves.

    Args:
        num_steps: T, 1..1000.

    Returns:
        Training steps, int64, shape (T + 1,); entry 0 is -1, because the clean latent has none.

    Raises:
        ParameterError: if num_steps is outside 1..1000.

    Example:
        >>> stable_diffusion_training_steps(50)[[0, 1, 2, 50]].tolist()
        [-1, 1, 21, 981]
    """
    num_steps = _checked_num_steps(num_steps)
    offset = 1 if num_steps < NUM_TRAINING_STEPS else 0
    grid = NUM_TRAINING_STEPS // num_steps * np.arange(num_steps, dtype=np.int64) + offset
    return np.concatenate((np.array([-1], dtype=np.int64), grid))


@lru_cache(maxsize=64)
def _stable_diffusion(num_steps: int) -> NoisePath:
    beta = np.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, NUM_TRAINING_STEPS) ** 2
    trained = np.cumprod(1.0 - beta)
    # Index -1 of the grid picks the 1 appended for the clean latent.
    return NoisePath.from_alpha_bar(np.append(trained, 1.0)[stable_diffusion_training_steps(num_steps)])


def _checked_num_steps(num_steps: int) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)):
        raise ParameterError(
            f"num_steps is {num_steps!r}; it must be a whole number, 1..{NUM_TRAINING_STEPS}"
        )
    if not 1 <= num_steps <= NUM_TRAINING_STEPS:
        raise ParameterError(f"num_steps is {num_steps}; it must be 1..{NUM_TRAINING_STEPS}")
    return int(num_steps)


def _vector(name: str, values: ArrayLike) -> FloatArray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} is not an array of numbers; it needs T + 1 of them") from None
    if array.ndim != 1 or array.size < 2:
        raise ParameterError(f"{name} has shape {array.shape}; it needs (T + 1,) with T at least 1")
    if not np.all(np.isfinite(array)) or array.min() < 0.0:
        raise ParameterError(f"{name} holds negative or non-finite values; every entry must be 0 or more")
    array.flags.writeable = False
    return array
