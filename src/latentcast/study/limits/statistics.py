"""What the sequential limit needs to know of a source: its variances, and how soon it becomes known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.codec.calibration import Calibration
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Trajectory
from latentcast.errors import ParameterError
from latentcast.link.rayleigh import uplink_slots
from latentcast.scenario import Scenario
from latentcast.study.limits.sequential import gaussian_mmse, sequential_limit

__all__ = ["SourceStatistics"]

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceStatistics:
    """Second moments of a source by band; of a Gaussian one they decide its sequential limit.

    Attributes:
        mmse: error of the best estimate at t = 0..T, float64 (T + 1, bands).
        variances: error before anything arrived, float64 (bands,).
        weights: coefficients in each band, float64 (bands,).

    Example:
        >>> scenario = Scenario.paper(snr_db=0.0)
        >>> statistics = SourceStatistics.white(scenario.path)
        >>> statistics.limit(np.full((1, 60), 4311.0), scenario).round(4).tolist()
        [0.0027]
    """

    mmse: FloatArray
    variances: FloatArray
    weights: FloatArray

    @classmethod
    def white(cls, path: NoisePath) -> SourceStatistics:
        """Of independent normal numbers of unit variance."""
        return cls(mmse=gaussian_mmse(path, [1.0]), variances=np.ones(1), weights=np.ones(1))

    @classmethod
    def gaussian(cls, source: GaussianSource) -> SourceStatistics:
        """Of a Gaussian source: every distinct variance of its spectrum is a band."""
        if source.spectrum is None:
            return cls.white(source.path)
        variances, counts = np.unique(source.spectrum, return_counts=True)
        return cls(
            mmse=gaussian_mmse(source.path, variances),
            variances=variances,
            weights=counts.astype(np.float64),
        )

    @classmethod
    def measured(cls, trajectories: Iterable[Trajectory], calibration: Calibration) -> SourceStatistics:
        """Of recorded runs: the errors of the calibrated estimates, and the variances, band by band.

        Real latents are not Gaussian: of all sources with these moments the Gaussian one needs the most bits,
        so its limit says what a code of second moments could reach, and a code that knows more could beat it.

        Args:
            trajectories: runs of one model, read once.
            calibration: the model's, for their noise path.

        Raises:
            ParameterError: if there is none.
        """
        errors = np.zeros(0)
        energy, count = np.zeros(0), 0
        bands: Bands | None = None
        for run in trajectories:
            bands = Bands(run.latent_shape) if bands is None else bands
            final = bands.forward(run.samples[0]).astype(np.float64)
            missing = np.stack([calibration.target(step)[0] - final for step in run.steps()]) ** 2
            errors = errors + missing if count else missing
            energy = energy + final**2 if count else final**2
            count += 1
        if bands is None:
            raise ParameterError("there are no trajectories to measure; record at least one")
        of = bands.band_of
        weights = np.bincount(of).astype(np.float64)
        variances = np.bincount(of, energy) / weights / count
        # Steps come from T down to 0.
        mmse = np.stack([np.bincount(of, row) for row in errors[::-1]]) / weights / count
        # Knowing more never hurts, and at t = T nothing is known: what is measured otherwise is noise.
        mmse = np.minimum(np.maximum.accumulate(mmse), variances)
        mmse[-1] = variances
        return cls(mmse=mmse, variances=variances, weights=weights)

    def limit(self, rates_bits: FloatArray, scenario: Scenario) -> FloatArray:
        """The sequential limit of a Gaussian source with these moments; see `sequential_limit`.

        Args:
            rates_bits: R_n, shape (episodes, T_d).
            scenario: gives the latent's size and the upload's.

        Returns:
            Mean squared error per number at the deadline, float64 (episodes,).
        """
        return sequential_limit(
            rates_bits,
            latent_size=scenario.latent_size,
            uplink=np.asarray(uplink_slots(rates_bits, scenario.uplink_bits)),
            mmse=self.mmse,
            variances=self.variances,
            weights=self.weights,
        )
