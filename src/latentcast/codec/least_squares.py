"""Least squares of x_0 on what the server holds, from second moments per step and band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.diffusion.source import Trajectory

__all__ = ["Moments"]

Array: TypeAlias = NDArray[np.float64]

# Keeps a step solvable whose two features are the same, or 0.
_RIDGE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean products of clean estimate e, sample x and final latent f at t = 0..T-1.

    Attributes:
        estimate: E[e e], float64 (..., T, n), where n counts coefficients or bands.
        cross: E[e x].
        sample: E[x x].
        estimate_final: E[e f].
        sample_final: E[x f].
        final: E[f f], float64 (..., 1, n).
    """

    estimate: Array
    cross: Array
    sample: Array
    estimate_final: Array
    sample_final: Array
    final: Array

    @classmethod
    def of_run(cls, run: Trajectory, bands: Bands) -> Moments:
        """Those of one run, by band."""
        estimate = bands.forward(run.clean_estimates[:-1]).astype(np.float64)
        sample = bands.forward(run.samples[:-1]).astype(np.float64)
        final = sample[:1]
        return cls(
            estimate=estimate**2,
            cross=estimate * sample,
            sample=sample**2,
            estimate_final=estimate * final,
            sample_final=sample * final,
            final=final**2,
        ).by_band(bands)

    @classmethod
    def stack(cls, runs: Sequence[Moments]) -> Moments:
        """Those of many runs, with a leading axis."""
        return cls(**{f.name: np.stack([getattr(run, f.name) for run in runs]) for f in fields(cls)})

    def by_band(self, bands: Bands) -> Moments:
        """Means over the coefficients of each band."""
        starts = np.flatnonzero(np.diff(bands.band_of, prepend=-1))
        sizes = np.bincount(bands.band_of)
        return self._each(lambda values: np.add.reduceat(values, starts, axis=-1) / sizes)

    def mean(self) -> Moments:
        """Means over the leading axis."""
        return self._each(lambda values: values.mean(axis=0))

    def without_each(self) -> Moments:
        """For every run the means over all the others, two runs at least."""
        return self._each(lambda values: (values.sum(axis=0) - values) / (len(values) - 1))

    def weights(self) -> Array:
        """The alpha and beta of least squared error, float64 (..., T, n, 2)."""
        # Ridge in units of each feature's energy, so that scale does not matter.
        estimate = self.estimate * (1.0 + _RIDGE) + 1e-30
        sample = self.sample * (1.0 + _RIDGE) + 1e-30
        determinant = estimate * sample - self.cross**2
        alpha = (sample * self.estimate_final - self.cross * self.sample_final) / determinant
        beta = (estimate * self.sample_final - self.cross * self.estimate_final) / determinant
        return np.stack([alpha, beta], axis=-1)

    def error(self, weights: Array) -> Array:
        """Mean squared error of the target by any weights, float64 (..., T, n)."""
        alpha, beta = weights[..., 0], weights[..., 1]
        linear = alpha * self.estimate_final + beta * self.sample_final
        square = alpha**2 * self.estimate + 2.0 * alpha * beta * self.cross + beta**2 * self.sample
        return self.final - 2.0 * linear + square

    def _each(self, function: Callable[[Array], Array]) -> Moments:
        return Moments(**{f.name: function(getattr(self, f.name)) for f in fields(self)})
