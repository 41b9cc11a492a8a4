"""What the progressive codec sends: the linear MMSE estimate of x_0 from what the server holds.

With step t the server holds the clean estimate of the network call that made x_t, and x_t itself, which has
fresh noise in it that the call had not seen: one more noisy observation of x_0. And guided estimates
overshoot early on. Both are put right, in every band b of frequency, by two weights,

    target_b(t) = alpha_b(t) xhat0_b(t) + beta_b(t) x_t,b,

fitted to recorded runs by least squares. Errors of least squares are orthogonal to the estimate, so that what
the device will miss is mmse(t) plus its distance to the target, and nothing else. For white Gaussian latents
alpha = 0 and beta = a_t are exact, and mmse(t) = 1 - abar_t.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, Trajectory
from latentcast.errors import ParameterError

__all__ = ["Calibration"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Weights of the target at every step and in every band, and how good the target is.

    Attributes:
        weights: alpha and beta, float64 (T + 1, bands, 2); one band stands for all frequencies.
        mmse_band: mean squared error of the target per dimension of a band, float64 (T + 1, bands); it never
            rises as t falls.
        mmse: the same over all dimensions, float64 (T + 1,).
        num_trajectories: how many runs it was fitted to; 0 where it is exact.
        seed: root seed of those runs; None where there are none.
        model: what made the runs; None for a closed form.
        latent_shape: (channels, height, width) that the bands belong to; None for any.

    Raises:
        ParameterError: if the arrays do not fit each other, or hold what no calibration can.
    """

    weights: Array = field(repr=False)
    mmse_band: Array = field(repr=False)
    num_trajectories: int = 0
    seed: int | None = None
    model: str | None = None
    latent_shape: LatentShape | None = None

    @property
    def num_steps(self) -> int:
        """T."""
        raise NotImplementedError

    @cached_property
    def mmse(self) -> Array:
        """Mean squared error of the target per dimension, float64 (T + 1,)."""
        raise NotImplementedError

    @classmethod
    def white(cls, path: NoisePath) -> Calibration:
        """The exact one of white Gaussian latents."""
        raise NotImplementedError

    @classmethod
    def gaussian(cls, source: GaussianSource) -> Calibration:
        """The best weights per band for a Gaussian source."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls, trajectories: Iterable[Trajectory], *, model: str | None = None, seed: int | None = None
    ) -> Calibration:
        """Fit the weights by least squares."""
        raise NotImplementedError

    def target(self, step: Step) -> NDArray[np.float32]:
        """The estimate of x_0 in scan order, float32 (batch, M)."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The calibration as JSON text."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        raise NotImplementedError
