"""The entropy model: integer tables of how likely a magnitude is, given quantiser and scale.

A scale class c stands for numbers of standard deviation 2^((c - 4) / 4) half steps. Classes below
`BASE_CLASSES` have a table for each quantiser; a class an octave higher uses the same tables on k >> 1 and
writes the low bit plainly, and so on, so that any scale is covered. Tables are whole numbers that sum to 2^15
and never depend on a reconstruction: every device decodes the same symbols.

They were made by `train_tables` on Gaussian and on Laplacian numbers; `python -m latentcast.codec.entropy`
makes them anew.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.trellis import OFFSET_UNIT, search

__all__ = [
    "BASE_CLASSES",
    "CLASSES_PER_OCTAVE",
    "MAX_CLASS",
    "NUM_SHAPES",
    "NUM_SYMBOLS",
    "PRICE",
    "SMALLEST_DEVIATION",
    "TOTAL_BITS",
    "EntropyModel",
    "class_deviation",
    "class_of_octave",
    "entropy_model",
    "scale_class",
    "train_tables",
]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

CLASSES_PER_OCTAVE = 4
FIRST_CLASS = -4
BASE_CLASSES = 20
MAX_CLASS = 107
SMALLEST_DEVIATION = 2.0**-40
"""What is smaller, zero above all, counts as this where a logarithm is taken; no class reaches so low."""
NUM_SYMBOLS = 24
TOTAL_BITS = 15
SHAPES = ("gaussian", "laplacian")
NUM_SHAPES = len(SHAPES)

PRICE = 0.45
"""What a bit may cost, in squared half steps: the quantiser's own trade at all but the lowest rates."""

HIGH_RATE_ERROR = 0.265
"""Squared error that the quantiser leaves at high rates, in squared half steps."""

_FILE = Path(__file__).parent / "tables.npy"


def class_deviation(number: int) -> float:
    """Standard deviation in half steps that a class stands for, 2^((c - 4) / 4).

    Example:
        >>> class_deviation(4), class_deviation(8)
        (1.0, 2.0)
    """
    return float(2.0 ** ((number + FIRST_CLASS) / CLASSES_PER_OCTAVE))


def scale_class(deviation: FloatArray) -> NDArray[np.int32]:
    """The class of a standard deviation in half steps; negative where it is too small to be coded at all.

    Args:
        deviation: float64, any shape, positive or zero.

    Returns:
        int32 of the same shape, at most `MAX_CLASS`.

    Example:
        >>> scale_class(np.array([1.0, 2.1, 0.0])).tolist()
        [4, 8, -1]
    """
    return class_of_octave(np.log2(np.maximum(deviation, SMALLEST_DEVIATION)))


def class_of_octave(octave: FloatArray) -> NDArray[np.int32]:
    """`scale_class` of a binary logarithm of a standard deviation in half steps, float64 of any shape."""
    number = np.rint(CLASSES_PER_OCTAVE * octave) - FIRST_CLASS
    return np.asarray(np.minimum(np.maximum(number, -1), MAX_CLASS), np.int32)


@dataclass(frozen=True, eq=False, kw_only=True)
class EntropyModel:
    """Tables of one shape of distribution.

    Attributes:
        cumulative: cumulated frequencies, int64 (classes, 2, symbols + 1), from 0 to 2^15.
        offset_units: how far reconstruction points lie below their levels in 64ths of a half step, int64
            (classes, 2, symbols).
        cost_bits: bits of every symbol, float64 (classes, 2, symbols).
        offset: `offset_units` in half steps, float64.
        rate_bits: mean bits per number in each class up to `MAX_CLASS`, float64.
        distortion: mean squared error per number in squared half steps, likewise.
    """

    cumulative: IntArray
    offset_units: IntArray
    cost_bits: FloatArray
    offset: FloatArray
    rate_bits: FloatArray
    distortion: FloatArray


@cache
def entropy_model(shape: int) -> EntropyModel:
    """The shipped tables, of shape 0 (Gaussian) or 1 (Laplacian).

    Example:
        >>> model = entropy_model(0)
        >>> model.cumulative.shape, int(model.cumulative[3, 1, -1])
        ((20, 2, 25), 32768)
    """
    stored = np.load(_FILE, allow_pickle=False)[shape].astype(np.int64)
    frequency, offset_units = stored[0, :, :, :], stored[1, :, :, :]
    rate, distortion = stored[2, :, 0, 0] / 4096.0, stored[2, :, 0, 1] / 4096.0
    # An octave higher costs one bit more and leaves the same error; the top octave stands for all above it.
    classes = np.arange(MAX_CLASS + 1)
    octaves = np.maximum(0, (classes - BASE_CLASSES) // CLASSES_PER_OCTAVE + 1)
    rows = classes - octaves * CLASSES_PER_OCTAVE
    return EntropyModel(
        cumulative=np.concatenate(
            (np.zeros((BASE_CLASSES, 2, 1), np.int64), np.cumsum(frequency, axis=-1)), axis=-1
        ),
        offset_units=offset_units,
        cost_bits=TOTAL_BITS - np.log2(frequency),
        offset=offset_units / OFFSET_UNIT,
        rate_bits=rate[rows] + octaves,
        distortion=distortion[rows],
    )


def train_tables(*, num_values: int = 200_000, rounds: int = 32, seed: int = 0) -> NDArray[np.uint16]:
    """Make the tables: quantise by the trellis, count, quantise by the counts, until it settles.

    Numbers are drawn at scales spread evenly, in the logarithm, over the width of a class. What it settles at
    depends on where it begins: at low rates quantiser 1 may keep zero as the likeliest symbol or give it up,
    so it begins with either, and the better tables stay.

    Args:
        num_values: numbers per class and shape.
        rounds: how often tables and quantiser are adapted to each other.
        seed: of the numbers.

    Returns:
        uint16 (shapes, 3, classes, 2, symbols): frequencies, reconstruction offsets in 64ths of a half step,
        and (in the first two entries of a class) rate and distortion in 1/4096.
    """
    tables = np.zeros((NUM_SHAPES, 3, BASE_CLASSES, 2, NUM_SYMBOLS), np.uint16)
    for shape in range(NUM_SHAPES):
        for number in range(BASE_CLASSES):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, shape, number])))
            unit = (
                rng.standard_normal(num_values)
                if SHAPES[shape] == "gaussian"
                else rng.laplace(size=num_values) / np.sqrt(2.0)
            )
            spread = 2.0 ** (rng.uniform(-0.5, 0.5, num_values) / CLASSES_PER_OCTAVE)
            values = (unit * spread * class_deviation(number)).astype(np.float32)
            trained = [_train_class(values, number, rounds, zero_bits) for zero_bits in (0.5, 8.0)]
            tables[shape, :, number] = min(trained, key=_price)
    return tables


def _price(table: NDArray[np.uint16]) -> float:
    """Squared error and bits of a class in one, as the rate-distortion function trades them at high rates."""
    return float(table[2, 0, 1] + 2.0 * np.log(2.0) * HIGH_RATE_ERROR * table[2, 0, 0])


def _train_class(
    values: NDArray[np.float32], number: int, rounds: int, zero_bits: float
) -> NDArray[np.uint16]:
    """The tables of a class, from a start in which a zero of quantiser 1 costs that much."""
    symbols = np.arange(NUM_SYMBOLS)
    deviation = class_deviation(number)
    bits = np.zeros((BASE_CLASSES, 2, NUM_SYMBOLS))
    offset = np.zeros((BASE_CLASSES, 2, NUM_SYMBOLS))
    bits[number] = np.minimum(1.0 + 1.8 * symbols / deviation + np.log2(1.0 + deviation), 20.0)
    bits[number, 1, 0] = zero_bits
    frequency = np.zeros((2, NUM_SYMBOLS), np.int64)
    classes = np.full(values.size, number, np.int32)
    rate = error = 0.0
    for _ in range(rounds):
        k, quantizer = search(values, classes, bits, offset, PRICE, BASE_CLASSES, CLASSES_PER_OCTAVE)
        magnitude = np.abs(k)
        symbol = np.minimum(magnitude, NUM_SYMBOLS - 1)
        level = np.where(magnitude > 0, 2.0 * magnitude - quantizer, 0.0)
        for which in range(2):
            mine = quantizer == which
            counts = np.bincount(symbol[mine], minlength=NUM_SYMBOLS).astype(np.float64)
            frequency[which] = _integer_frequencies(counts + 0.05)
            bits[number, which] = TOTAL_BITS - np.log2(frequency[which])
            below = np.bincount(
                symbol[mine], weights=level[mine] - np.abs(values[mine]), minlength=NUM_SYMBOLS
            )
            mean = np.where(counts > 50, below / np.maximum(counts, 1.0), 0.0)
            mean[[0, -1]] = 0.0
            # Points move toward zero only, and by less than a step.
            offset[number, which] = np.clip(np.rint(mean * OFFSET_UNIT), 0, OFFSET_UNIT) / OFFSET_UNIT
        point = np.where(magnitude > 0, level - offset[number, quantizer, symbol], 0.0)
        error = float(np.mean((np.abs(values) - point) ** 2))
        rate = float(np.mean(bits[number, quantizer, symbol] + (magnitude > 0)))
    table = np.zeros((3, 2, NUM_SYMBOLS), np.uint16)
    table[0], table[1] = frequency, np.rint(offset[number] * OFFSET_UNIT)
    table[2, 0, 0], table[2, 0, 1] = round(rate * 4096), round(error * 4096)
    return table


def _integer_frequencies(counts: FloatArray) -> IntArray:
    """Whole numbers of at least 1 that sum to 2^15."""
    room = (1 << TOTAL_BITS) - counts.size
    frequency = np.asarray(1 + np.floor(room * counts / counts.sum()), np.int64)
    frequency[int(np.argmax(frequency))] += (1 << TOTAL_BITS) - int(frequency.sum())
    return frequency


if __name__ == "__main__":
    np.save(_FILE, train_tables())
