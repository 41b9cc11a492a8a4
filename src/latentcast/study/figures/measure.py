"""The numbers behind Fig. 2: the distortion model against recorded trajectories and the real codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from latentcast.codec.refinement import encode_refinement
from latentcast.delivery.timeline import Decode, psnr_db
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, Trajectory
from latentcast.errors import ParameterError
from latentcast.policy.distortion import diffusion_distortion, quantization_distortion
from latentcast.study.episodes.latent_block import Trajectories

__all__ = ["Estimate", "Quantization", "Recorded", "Validation", "default_pairs", "measure_validation"]

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

# The pairs (t_p, t) of Fig. 2b at T = 50: a long refinement, a first transfer, two last refinements; their
# variances are far enough apart for four lines on one figure.
_PAIRS_OF_50 = ((40, 20), (50, 25), (10, 0), (5, 0))


class Recorded(Trajectories, Protocol):
    """Recorded trajectories of one noise path; a `Recording` is one."""

    @property
    def path(self) -> NoisePath:
        """The path."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A mean over trajectories.

    Attributes:
        mean: float64.
        standard_error: Of the mean, same shape; NaN for a single trajectory.
        count: Trajectories.
    """

    mean: Array
    standard_error: Array
    count: int

    @classmethod
    def of(cls, values: Array) -> Estimate:
        """From one row per trajectory."""
        count = len(values)
        spread = values.std(axis=0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
        return cls(mean=values.mean(axis=0), standard_error=spread / count**0.5, count=count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """D_quant of one pair of steps against bits (Fig. 2b).

    Attributes:
        reference_step: t_p.
        step: t.
        bits: b, int64 (levels,).
        predicted: sigma^2 D_base(b), eq. 10 with Panter-Dite; float64 (levels,).
        simulated: Error of the codec's reconstruction of x_t, from the exact x_tp.
        carried: The same from x_tp as a first transfer of b bits left it at the device; None for t_p = T,
            which the device holds exactly.
    """

    reference_step: int
    step: int
    bits: npt.NDArray[np.int64]
    predicted: Array
    simulated: Estimate
    carried: Estimate | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """Everything in Fig. 2.

    Attributes:
        predicted: D_diff(t), eq. 9; float64 (T + 1,).
        simulated: (1/M) ||x_t - x_0||^2.
        clean: (1/M) ||xhat0(t) - x_0||^2 of the clean estimate that came with x_t.
        inverse_psnr: 1 / PSNR in 1/dB of the picture decoded from x_t against that of x_0; None without
            decoder.
        quantization: One per pair.
    """

    predicted: Array
    simulated: Estimate
    clean: Estimate
    inverse_psnr: Estimate | None
    quantization: tuple[Quantization, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The numbers as the rows of a tidy table, predictions with neither error nor count."""
        steps = np.arange(len(self.predicted))
        series: dict[str, Array | Estimate] = {
            "predicted D_diff": self.predicted,
            "simulated D_diff": self.simulated,
            "clean": self.clean,
        }
        if self.inverse_psnr is not None:
            series["1/PSNR"] = self.inverse_psnr
        for quantity, values in series.items():
            for step in steps.tolist():
                yield _row("2a", quantity, step, None, None, values, step)
        for pair in self.quantization:
            of_pair: dict[str, Array | Estimate] = {
                "predicted D_quant": pair.predicted,
                "simulated D_quant": pair.simulated,
            }
            if pair.carried is not None:
                of_pair["carried D_quant"] = pair.carried
            for quantity, values in of_pair.items():
                for index, bits in enumerate(pair.bits.tolist()):
                    yield _row("2b", quantity, pair.step, pair.reference_step, bits, values, index)


def default_pairs(num_steps: int) -> tuple[tuple[int, int], ...]:
    """Pairs (t_p, t) for Fig. 2b, those of T = 50 scaled to another T.

    Example:
        >>> default_pairs(50), default_pairs(25)[0]
        (((40, 20), (50, 25), (10, 0), (5, 0)), (20, 10))
    """
    scaled = ((round(high * num_steps / 50), round(low * num_steps / 50)) for high, low in _PAIRS_OF_50)
    return tuple(dict.fromkeys(pair for pair in scaled if pair[1] < pair[0]))


def measure_validation(
    recording: Recorded,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    bits: Sequence[int] = tuple(range(1, 11)),
    decode: Decode | None = None,
    num_pictures: int = 64,
    progress: Progress | None = None,
) -> Validation:
    """Measure the paper's distortion model on recorded trajectories.

    Args:
        recording: The trajectories.
        pairs: (t_p, t) of Fig. 2b; None for `default_pairs`.
        bits: b, each 1..15.
        decode: The model's decoder, for 1/PSNR.
        num_pictures: Trajectories that are decoded, at all their steps; decoding is what takes time.
        progress: Called with trajectories done and in all.

    Returns:
        The numbers.

    Raises:
        ParameterError: If there is no trajectory, or a pair or bits are out of range.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> class Two:
        ...     num_items, path = 2, NoisePath.stable_diffusion(50)
        ...     def trajectory(self, index):
        ...         return Trajectory.record(GaussianSource((4, 8, 8), self.path), "", seed=index)
        >>> validation = measure_validation(Two(), pairs=[(40, 20)], bits=[4])
        >>> validation.simulated.mean.shape, validation.quantization[0].carried.mean.shape
        ((51,), (1,))
    """
    path = recording.path
    pairs = default_pairs(path.num_steps) if pairs is None else [(int(high), int(low)) for high, low in pairs]
    _check(recording, pairs, bits)
    predicted = [
        np.array([float(quantization_distortion(path, low, high, level)) for level in bits])
        for high, low in pairs
    ]
    samples, clean, pictures, exact, carried = [], [], [], [], []
    for index in range(recording.num_items):
        trajectory = recording.trajectory(index)
        samples.append(_errors(trajectory.samples, trajectory.samples[0]))
        clean.append(_errors(trajectory.clean_estimates, trajectory.samples[0]))
        if decode is not None and index < num_pictures:
            shown = decode(trajectory.samples)
            pictures.append([1.0 / psnr_db(picture, shown[0]) for picture in shown])
        pair_errors = [[_quantization_errors(trajectory, pair, level) for level in bits] for pair in pairs]
        exact.append([[error for error, _ in row] for row in pair_errors])
        carried.append([[error for _, error in row] for row in pair_errors])
        if progress is not None:
            progress(index + 1, recording.num_items)
    exact_errors, carried_errors = np.array(exact), np.array(carried)
    return Validation(
        predicted=diffusion_distortion(path, np.arange(path.num_steps + 1)),
        simulated=Estimate.of(np.array(samples)),
        clean=Estimate.of(np.array(clean)),
        inverse_psnr=Estimate.of(np.array(pictures)) if pictures else None,
        quantization=tuple(
            Quantization(
                reference_step=high,
                step=low,
                bits=np.array(bits, np.int64),
                predicted=predicted[number],
                simulated=Estimate.of(exact_errors[:, number]),
                carried=Estimate.of(carried_errors[:, number]) if high < path.num_steps else None,
            )
            for number, (high, low) in enumerate(pairs)
        ),
    )


def _quantization_errors(trajectory: Trajectory, pair: tuple[int, int], bits: int) -> tuple[float, float]:
    """Error of x_t refined from the exact x_tp, and from x_tp as a first transfer left it."""
    high, low = pair
    path, samples, last = trajectory.path, trajectory.samples, trajectory.num_steps

    def refined(step: int, reference: FloatArray, reference_step: int) -> FloatArray:
        return encode_refinement(
            samples[step], reference, path=path, step=step, reference_step=reference_step, bits=bits
        ).reconstruction

    exact = float(_errors(refined(low, samples[high], high)[None], samples[low])[0])
    if high == last:
        return exact, np.nan
    held = refined(high, samples[last], last)
    return exact, float(_errors(refined(low, held, high)[None], samples[low])[0])


def _errors(latents: FloatArray, wanted: FloatArray) -> Array:
    difference = latents.astype(np.float64) - wanted
    return np.asarray(np.mean(difference**2, axis=(1, 2, 3)))


def _check(recording: Recorded, pairs: Sequence[tuple[int, int]], bits: Sequence[int]) -> None:
    last = recording.path.num_steps
    if recording.num_items < 1:
        raise ParameterError("the recording holds no trajectory; record at least one prompt")
    for high, low in pairs:
        if not 0 <= low < high <= last:
            raise ParameterError(f"pair ({high}, {low}) is no (t_p, t); it needs 0 <= t < t_p <= {last}")
    if not pairs or not bits:
        raise ParameterError("Fig. 2b needs at least one pair (t_p, t) and one number of bits")
    for level in bits:
        if not 1 <= level <= 15:
            raise ParameterError(f"bits is {level!r}; Fig. 2b takes 1..15, as 16 is lossless")


def _row(
    figure: str,
    quantity: str,
    step: int,
    reference_step: int | None,
    bits: int | None,
    values: Array | Estimate,
    index: int,
) -> dict[str, Any]:
    measured = values if isinstance(values, Estimate) else None
    mean = values if not isinstance(values, Estimate) else values.mean
    return {
        "figure": figure,
        "quantity": quantity,
        "step": step,
        "reference_step": reference_step,
        "bits": bits,
        "mean": float(mean[index]),
        "standard_error": None if measured is None else float(measured.standard_error[index]),
        "count": None if measured is None else measured.count,
    }
