"""Gaussian sources as a study's trajectories: made when they are asked for, so nothing is recorded."""

from __future__ import annotations

import math

from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Trajectory
from latentcast.errors import ParameterError
from latentcast.study.recording.record import item_seeds

__all__ = ["GAUSSIAN_MODELS", "GaussianRuns", "gaussian_source"]

GAUSSIAN_MODELS = ("white-gaussian", "natural-gaussian")
"""Models of a study that are formulas: independent unit numbers, and the spectrum of natural latents."""

CHANNELS = 4


def gaussian_source(model: str, latent_size: int, path: NoisePath) -> GaussianSource:
    """The source of a name of `GAUSSIAN_MODELS`, with square latents of four channels.

    Raises:
        ParameterError: If the size is not four times a square.

    Example:
        >>> gaussian_source("white-gaussian", 1024, NoisePath.stable_diffusion(50)).latent_shape
        (4, 16, 16)
    """
    side = math.isqrt(latent_size // CHANNELS)
    if latent_size != CHANNELS * side**2:
        raise ParameterError(
            f"scenario.latent_size is {latent_size}; a Gaussian latent has four square channels, such as "
            "1024, 4096 or 16384 numbers"
        )
    shape: LatentShape = (CHANNELS, side, side)
    return GaussianSource(shape, path) if model == "white-gaussian" else GaussianSource.natural(shape, path)


class GaussianRuns:
    """Trajectories of a Gaussian source; number i depends on the root seed and i alone.

    Args:
        source: What runs.
        count: How many there are.
        seed: Root seed; see `item_seeds`.

    Attributes:
        source: As given.
        num_items: How many there are.

    Example:
        >>> source = gaussian_source("natural-gaussian", 256, NoisePath.stable_diffusion(10))
        >>> GaussianRuns(source, 3, seed=0).trajectory(2).samples.shape
        (11, 4, 8, 8)
    """

    def __init__(self, source: GaussianSource, count: int, *, seed: int) -> None:
        self.source = source
        self.num_items = count
        self._seeds = item_seeds(seed, count)

    def trajectory(self, index: int) -> Trajectory:
        """One of them, 0..num_items - 1."""
        return Trajectory.record(self.source, "", seed=self._seeds[index])
