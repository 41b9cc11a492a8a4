"""How well a model's trajectories fit the theory that transmission is planned with, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from latentcast.codec.calibration import Calibration
from latentcast.codec.predictor import paper_prediction
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, Trajectory
from latentcast.errors import ParameterError
from latentcast.policy.distortion import diffusion_distortion
from latentcast.study.figures.measure import Estimate, Progress, Recorded, default_pairs

__all__ = ["Fit", "Refinement", "Spectrum", "measure_fit"]

Array = npt.NDArray[np.float64]

_GRID = 10
_RINGS = 16
# Shares of T at which the spectrum of x_t is looked at.
_SPECTRUM_SHARES = (0.0, 0.2, 0.4, 0.6, 1.0)


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """The refinement from x_tp to x_t in units of eq. 7: (x_t - r x_tp) / sigma, all entries pooled.

    Attributes:
        reference_step: t_p; T stands for a first transfer, which codes x_t itself.
        step: t.
        variance: Mean square, 1 in theory.
        variance_error: Standard error of it.
        kurtosis: Fourth moment over the squared second, 3 in theory.
    """

    reference_step: int
    step: int
    variance: float
    variance_error: float
    kurtosis: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Power of x_t by radial frequency.

    Attributes:
        step: t.
        measured: Mean power per DCT coefficient in each ring, float64 (rings,).
        predicted: a_t^2 S_0 + s_t^2 with the measured S_0 of x_0, same shape.
    """

    step: int
    measured: Array
    predicted: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What `measure_fit` found.

    Attributes:
        predicted: D_diff(t), eq. 9; float64 (T + 1,).
        simulated: (1/M) ||x_t - x_0||^2.
        white_mmse: Error of the best estimate of white Gaussian x_0 from x_t; float64 (T + 1,).
        mmse: The same measured: of the calibrated estimate, on runs that its weights have not seen.
        clean: Error of the model's own clean estimate that came with x_t.
        refinements: On a grid of steps.
        frequencies: Of the rings, in half cycles per place; float64 (rings,).
        spectra: From x_0 to x_T.
        final_variance: Mean square of x_0.
        final_kurtosis: Of x_0, all entries pooled.
        coding_gain_db: Arithmetic over geometric mean of the power of x_0's DCT coefficients; from n
            trajectories it comes out some 4.3 / n dB too high.
    """

    predicted: Array
    simulated: Estimate
    white_mmse: Array
    mmse: Array
    clean: Estimate
    refinements: tuple[Refinement, ...]
    frequencies: Array
    spectra: tuple[Spectrum, ...]
    final_variance: float
    final_kurtosis: float
    coding_gain_db: float

    @property
    def num_trajectories(self) -> int:
        """Sample size."""
        return self.simulated.count

    @property
    def pairs(self) -> tuple[Refinement, ...]:
        """The refinements of Fig. 2b's pairs, which stand for all in a short table."""
        shown = default_pairs(len(self.predicted) - 1)
        return tuple(item for item in self.refinements if (item.reference_step, item.step) in shown)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_trajectories": self.num_trajectories,
            "d_diff": {"predicted": self.predicted.tolist(), **_plain(self.simulated)},
            "mmse": {"white": self.white_mmse.tolist(), "measured": self.mmse.tolist()},
            "clean_estimate": _plain(self.clean),
            "refinements": [vars(item) for item in self.refinements],
            "final_latent": {
                "variance": self.final_variance,
                "kurtosis": self.final_kurtosis,
                "coding_gain_db": self.coding_gain_db,
            },
            "spectrum": {
                "frequencies": self.frequencies.tolist(),
                "steps": [
                    {
                        "step": item.step,
                        "measured": item.measured.tolist(),
                        "predicted": item.predicted.tolist(),
                    }
                    for item in self.spectra
                ],
            },
        }


def measure_fit(recording: Recorded, *, progress: Progress | None = None) -> Fit:
    """Measure on recorded trajectories what the theory predicts.

    Args:
        recording: Trajectories of one model.
        progress: Called with trajectories done and in all.

    Returns:
        The numbers, from one pass over the recording.

    Raises:
        ParameterError: If there are fewer than two trajectories.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> class Four:
        ...     num_items, path = 4, NoisePath.stable_diffusion(50)
        ...     def trajectory(self, index):
        ...         return Trajectory.record(GaussianSource((4, 8, 8), self.path), "", seed=index)
        >>> fit = measure_fit(Four())
        >>> fit.simulated.mean.shape, len(fit.refinements), bool(abs(fit.coding_gain_db) < 2.0)
        ((51,), 55, True)
    """
    if recording.num_items < 2:
        raise ParameterError(f"there are {recording.num_items} trajectories; a fit needs at least 2")
    path = recording.path
    looked_at = tuple(dict.fromkeys(round(share * path.num_steps) for share in _SPECTRUM_SHARES))
    pairs = _grid(path.num_steps)
    errors, clean, seconds, fourths, power, finals = [], [], [], [], [], []

    def passed() -> Iterator[Trajectory]:
        for index in range(recording.num_items):
            run = recording.trajectory(index)
            final = run.samples[0].astype(np.float64)
            errors.append(np.mean((run.samples - final) ** 2, axis=(1, 2, 3)))
            clean.append(np.mean((run.clean_estimates - final) ** 2, axis=(1, 2, 3)))
            second, fourth = zip(*(_moments(run, path, pair) for pair in pairs), strict=True)
            seconds.append(second)
            fourths.append(fourth)
            some = run.samples[list(looked_at)].astype(np.float64)
            power.append(dctn(some, axes=(-2, -1), norm="ortho") ** 2)
            finals.append((np.mean(final**2), np.mean(final**4)))
            if progress is not None:
                progress(index + 1, recording.num_items)
            yield run

    mmse = Calibration.fit(passed()).mmse
    variance = Estimate.of(np.array(seconds))
    kurtosis = np.mean(fourths, axis=0) / variance.mean**2
    mean_power = np.mean(power, axis=0)
    frequencies, rings = _by_ring(mean_power)
    final_second, final_fourth = np.mean(finals, axis=0)
    return Fit(
        predicted=diffusion_distortion(path, np.arange(path.num_steps + 1)),
        simulated=Estimate.of(np.array(errors)),
        white_mmse=Calibration.white(path).mmse,
        mmse=mmse,
        clean=Estimate.of(np.array(clean)),
        refinements=tuple(
            Refinement(
                reference_step=high,
                step=low,
                variance=float(variance.mean[number]),
                variance_error=float(variance.standard_error[number]),
                kurtosis=float(kurtosis[number]),
            )
            for number, (high, low) in enumerate(pairs)
        ),
        frequencies=frequencies,
        spectra=tuple(
            Spectrum(
                step=step,
                measured=rings[number],
                predicted=path.signal[step] ** 2 * rings[0] + path.noise[step] ** 2,
            )
            for number, step in enumerate(looked_at)
        ),
        final_variance=float(final_second),
        final_kurtosis=float(final_fourth / final_second**2),
        coding_gain_db=_coding_gain_db(mean_power[0]),
    )


def _grid(num_steps: int) -> list[tuple[int, int]]:
    """Pairs (t_p, t) of multiples of a tenth of T, and Fig. 2b's."""
    marks = sorted({round(tenth * num_steps / _GRID) for tenth in range(_GRID + 1)})
    pairs = {(high, low) for high in marks for low in marks if low < high}
    return sorted(pairs | set(default_pairs(num_steps)))


def _moments(run: Trajectory, path: NoisePath, pair: tuple[int, int]) -> tuple[float, float]:
    """Second and fourth moment of the standardised refinement of one run."""
    high, low = pair
    prediction = paper_prediction(path, low, high)
    held: FloatArray = run.samples[high]
    standardised = (run.samples[low] - prediction.gain * held.astype(np.float64)) / prediction.scale
    squares = standardised**2
    return float(squares.mean()), float(np.mean(squares**2))


def _by_ring(power: Array) -> tuple[Array, Array]:
    """Mean power in rings of radial frequency.

    Args:
        power: Of DCT coefficients, float64 (steps, channels, height, width).

    Returns:
        Mean frequency of each ring, float64 (rings,), and power, float64 (steps, rings).
    """
    _, _, height, width = power.shape
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    # A small latent leaves some rings empty.
    place = np.floor(radius / max(float(radius.max()), 1e-9) * _RINGS * 0.999)
    _, ring = np.unique(place, return_inverse=True)
    ring = ring.reshape(-1)
    size = np.bincount(ring)
    flat = power.mean(axis=1).reshape(len(power), -1)
    rings = np.stack([np.bincount(ring, row) for row in flat]) / size
    return np.bincount(ring, radius.reshape(-1)) / size, rings


def _coding_gain_db(power: Array) -> float:
    return float(10.0 * (np.log10(power.mean()) - np.mean(np.log10(np.maximum(power, 1e-12)))))


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean.tolist(), "standard_error": estimate.standard_error.tolist()}
