"""The innovation as a ring of groups: how much energy each has, which a packet refines, and in which step.

Coefficients lie in groups; seen from a start, the first and the last may be the parts of one.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from latentcast.codec.entropy import (
    CLASSES_PER_OCTAVE,
    MAX_CLASS,
    SMALLEST_DEVIATION,
    EntropyModel,
    class_deviation,
    class_of_octave,
    scale_class,
)

__all__ = ["NUM_STEPS", "Innovation", "group_size", "step_size"]

FloatArray: TypeAlias = NDArray[np.float32]

STEPS_PER_OCTAVE = 32
TOP_EXPONENT = 4
NUM_STEPS = 1024

# A group's scale class, in bits.
_CLASS_BITS = 2.5
# How much more than a packet holds is quantised for it, for what its entropy may turn out to be.
_SLACK = 1.15
_STEPS_PER_CLASS = STEPS_PER_OCTAVE // CLASSES_PER_OCTAVE
# The class of deviation 1 in half steps.
_UNIT_CLASS = int(scale_class(np.ones(1))[0])


def group_size(latent_size: int) -> int:
    """Coefficients in a group: small ones follow the statistics, large ones cost less to describe.

    Example:
        >>> group_size(16384), group_size(1024)
        (128, 64)
    """
    return 64 if latent_size < 8192 else 128


def step_size(index: int) -> np.float32:
    """Half step number `index`, 2^(4 - index / 32).

    Example:
        >>> float(step_size(128)), float(step_size(1023)) < 4e-9
        (1.0, True)
    """
    octave, part = divmod(index, STEPS_PER_OCTAVE)
    # Only the fraction is rounded: powers of two are exact.
    return np.float32(
        np.float32(2.0 ** (-part / STEPS_PER_OCTAVE)) * np.float32(2.0 ** (TOP_EXPONENT - octave))
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Innovation:
    """What the device lacks, as runs of coefficients from a start around the ring.

    Attributes:
        values: target - held, float32 (M,), in scan order.
        start: the coefficient where the first run begins.
        edges: where runs begin, from the start, int64 (runs + 1).
        octave: binary logarithm of each run's deviation, float64.
        shape: which tables fit the values, scaled by their runs, better.
    """

    values: FloatArray
    start: int
    edges: NDArray[np.int64]
    octave: NDArray[np.float64]
    shape: int

    @classmethod
    def seen_from(cls, start: int, values: FloatArray) -> "Innovation":
        """Measure the runs.

        Example:
            >>> Innovation.seen_from(70, np.ones(128, np.float32)).edges.tolist()
            [0, 58, 122, 128]
        """
        edges, octave, shape = _measure(values, start, group_size(values.size))
        return cls(values=values, start=start, edges=edges, octave=octave, shape=shape)

    def classes(self, index: int) -> NDArray[np.int32]:
        """Scale class of every run at a step."""
        return class_of_octave(self.octave - (TOP_EXPONENT - index / STEPS_PER_OCTAVE))

    def finest_step(self) -> int:
        """The finest step at which no run lies above the highest class."""
        reach = TOP_EXPONENT + np.log2(class_deviation(MAX_CLASS)) - float(self.octave.max())
        return int(np.clip(reach * STEPS_PER_OCTAVE, 0, NUM_STEPS - 1))

    def step_for(self, model: EntropyModel, bits: float, min_class: int) -> int:
        """The coarsest step whose refinements take at least that many bits, of all steps the finest."""
        # Always a float: another type would be compiled anew, while somebody waits.
        return int(
            _coarsest_step(
                self.edges, self.octave, model.rate_bits, float(bits), min_class - 0.5, self.finest_step()
            )
        )

    def bits_to_next_step(self, index: int, min_class: int) -> float:
        """What the next finer step takes more: one bit for every number refined would halve the step.

        Example:
            >>> Innovation.seen_from(0, np.ones(128, np.float32)).bits_to_next_step(160, min_class=4)
            4.0
        """
        worth = self.classes(index) >= min_class
        return float(np.diff(self.edges)[worth].sum()) / STEPS_PER_OCTAVE

    def refined(self, index: int, model: EntropyModel, max_bytes: int, min_class: int) -> NDArray[np.int64]:
        """Scale classes of the runs with the most energy of those worth refining, -1 for all others.

        Energies are told apart by octaves, and groups within one follow each other: a jump costs six bits.
        What is left of a group that the last packet began comes first. All is somewhat more than a packet
        holds.
        """
        chosen: NDArray[np.int64] = _most_energetic(
            self.edges,
            self.octave,
            self.classes(index),
            model.rate_bits,
            8.0 * max_bytes * _SLACK,
            min_class,
            self.start % group_size(self.values.size) != 0,
        )
        return chosen

    def scaled(self, index: int, classes: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.int32]]:
        """The values of the refined runs in half steps, float32, and the class of each, int32."""
        values: FloatArray
        values, per_value = _scaled(self.values, self.start, self.edges, classes, step_size(index))
        return values, per_value


@numba.njit(cache=True)
def _measure(values: Any, start: Any, group_size: Any) -> Any:
    """Edges and octaves of the runs, and which shape of distribution is theirs."""
    size = values.size
    most = size // group_size + 3
    edges = np.zeros(most + 1, np.int64)
    octave = np.empty(most)
    run, low = 0, 0
    scaled, counted = 0.0, 0
    while low < size:
        place = (start + low) % size
        length = min(min(group_size - place % group_size, size - place), size - low)
        squares = total = 0.0
        for position in range(place, place + length):
            value = np.float64(values[position])
            squares += value * value
            total += abs(value)
        deviation = np.sqrt(squares / length)
        octave[run] = np.log2(max(deviation, SMALLEST_DEVIATION))
        if deviation > 0.0:
            scaled += total / deviation
            counted += length
        low += length
        run += 1
        edges[run] = low
    # Mean magnitude over deviation is 0.798 for Gaussian numbers and 0.707 for Laplacian ones.
    shape = int(counted > 0 and scaled < 0.755 * counted)
    return edges[: run + 1], octave[:run], shape


@numba.njit(cache=True)
def _most_energetic(
    edges: Any, octave: Any, classes: Any, rate_bits: Any, most_bits: Any, min_class: Any, goes_on: Any
) -> Any:
    """Classes of the runs to refine, -1 for all others."""
    top = octave.max()
    # Half octaves below the top; equals keep their order.
    below = np.floor(2.0 * (top - octave))
    if goes_on:
        below[0] = -1.0
    chosen = np.full(classes.size, np.int64(-1))
    bits, more = 0.0, 2
    for run in np.argsort(below, kind="mergesort"):
        if classes[run] < min_class:
            continue
        bits += rate_bits[classes[run]] * (edges[run + 1] - edges[run])
        if bits >= most_bits:
            more -= 1
            if more < 0:
                break
        chosen[run] = classes[run]
    return chosen


@numba.njit(cache=True)
def _coarsest_step(edges: Any, octave: Any, rate_bits: Any, bits: Any, least_class: Any, finest: Any) -> Any:
    low, high = -1, finest
    while high - low > 1:
        middle = (low + high) // 2
        total = 0.0
        for run in range(octave.size):
            # As scale_class, but between classes, too.
            number = (
                (octave[run] - TOP_EXPONENT) * CLASSES_PER_OCTAVE + middle / _STEPS_PER_CLASS + _UNIT_CLASS
            )
            if number >= least_class:
                whole = min(max(int(number), 0), rate_bits.size - 2)
                rate = rate_bits[whole] + (number - whole) * (rate_bits[whole + 1] - rate_bits[whole])
                total += rate * (edges[run + 1] - edges[run]) + _CLASS_BITS
        if total >= bits:
            high = middle
        else:
            low = middle
    return high


@numba.njit(cache=True)
def _scaled(values: Any, start: Any, edges: Any, classes: Any, step: Any) -> Any:
    count = 0
    for run in range(classes.size):
        if classes[run] >= 0:
            count += edges[run + 1] - edges[run]
    out, per_value = np.empty(count, np.float32), np.empty(count, np.int32)
    count = 0
    for run in range(classes.size):
        if classes[run] >= 0:
            place = (start + edges[run]) % values.size
            for position in range(place, place + edges[run + 1] - edges[run]):
                out[count] = values[position] / step
                per_value[count] = classes[run]
                count += 1
    return out, per_value
