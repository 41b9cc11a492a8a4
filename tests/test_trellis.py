from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from latentcast.codec.entropy import (
    BASE_CLASSES,
    CLASSES_PER_OCTAVE,
    PRICE,
    class_deviation,
    entropy_model,
    scale_class,
)
from latentcast.codec.trellis import NEXT_STATE, NUM_STATES, OFFSET_UNIT, QUANTIZER, search

FloatArray = NDArray[np.float64]
NUMBERS = 60_000


def quantise(values: FloatArray, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    model = entropy_model(0)
    classes = np.full(values.size, number, np.int32)
    k, quantizer = search(
        values.astype(np.float32),
        classes,
        model.cost_bits,
        model.offset,
        PRICE,
        BASE_CLASSES,
        CLASSES_PER_OCTAVE,
    )
    return k.astype(np.int64), quantizer.astype(np.int64)


def bits_and_points(
    k: NDArray[np.int64], quantizer: NDArray[np.int64], number: int
) -> tuple[FloatArray, FloatArray]:
    """Ideal code length and reconstruction point of every number of a class."""
    model = entropy_model(0)
    shift = max(0, (number - BASE_CLASSES) // CLASSES_PER_OCTAVE + 1)
    row = number - shift * CLASSES_PER_OCTAVE
    magnitude, last = np.abs(k), model.offset.shape[-1] - 1
    high = (magnitude + np.where(quantizer == 1, (1 << shift) - 1, (1 << shift) // 2)) >> shift
    symbol = np.minimum(high, last)
    bits = model.cost_bits[row, quantizer, symbol] + (magnitude > 0)
    bits += np.where(high > 0, shift, np.where(quantizer == 0, max(0, shift - 1), 0))
    bits += np.where(high >= last, 1 + 2 * np.floor(np.log2(np.maximum(high - last, 0) + 1)), 0)
    point = 2.0 * magnitude - quantizer
    if shift == 0:
        point = point - model.offset[row, quantizer, symbol]
    return bits, np.where(magnitude > 0, np.sign(k) * point, 0.0)


def gaussian(number: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(NUMBERS) * class_deviation(number)


def rate_and_gap_db(number: int) -> tuple[float, float]:
    """Bits per number, and how far the error lies above the rate-distortion function of a Gaussian."""
    values = gaussian(number)
    bits, points = bits_and_points(*quantise(values, number), number)
    rate, error = float(bits.mean()), float(np.mean((points - values) ** 2))
    return rate, 10 * np.log10(error / class_deviation(number) ** 2) + 20 * np.log10(2) * rate


def class_of_rate(rate_bits: float) -> int:
    return int(np.argmin(np.abs(entropy_model(0).rate_bits - rate_bits)))


def scalar_gap_db(rate_bits: float) -> float:
    """The gap of a uniform quantiser with centroids and an ideal entropy code, by numerical integration."""

    def rate_and_error(step: float) -> tuple[float, float]:
        edges = (np.arange(-np.ceil(8 / step), np.ceil(8 / step) + 2) - 0.5) * step
        chance = np.maximum(np.diff(norm.cdf(edges)), 1e-30)
        moment = np.diff(norm.pdf(edges))
        return float(-np.sum(chance * np.log2(chance))), float(1 - np.sum(moment**2 / chance))

    step = brentq(lambda s: rate_and_error(s)[0] - rate_bits, 0.05, 6.0)
    return float(10 * np.log10(rate_and_error(step)[1]) + 20 * np.log10(2) * rate_bits)


def test_states_form_a_trellis() -> None:
    # Two ways into every state, from every state two ways out, and the quantiser is a state's parity.
    assert np.bincount(NEXT_STATE.ravel()).tolist() == [2] * NUM_STATES
    assert np.array_equal(QUANTIZER, np.arange(NUM_STATES) % 2)


@pytest.mark.parametrize("number", [2, 7, 12, 22])
def test_search_is_exhaustive(number: int) -> None:
    values = np.random.default_rng(number).standard_normal((12, 5)) * class_deviation(number)
    for sequence in values:
        k, quantizer = quantise(sequence, number)
        found = cost(k, quantizer, sequence, number)
        nearest = np.rint(sequence / 2).astype(int)
        options = [sorted({0, *range(n - 2, n + 3)}) for n in nearest]
        least = min(
            cost(np.array(choice), quantizers_of(choice), sequence, number) for choice in product(*options)
        )
        assert quantizer.tolist() == quantizers_of(k.tolist()).tolist()
        assert found == pytest.approx(least, rel=1e-6)


def quantizers_of(k: list[int] | tuple[int, ...]) -> NDArray[np.int64]:
    state, used = 0, []
    for number in k:
        used.append(int(QUANTIZER[state]))
        state = int(NEXT_STATE[state, number & 1])
    return np.array(used)


def cost(k: NDArray[np.int64], quantizer: NDArray[np.int64], values: FloatArray, number: int) -> float:
    bits, points = bits_and_points(k, quantizer, number)
    return float(np.sum((points - values) ** 2) + PRICE * bits.sum())


@pytest.mark.parametrize(("rate_bits", "limit_db"), [(1, 0.75), (2, 0.65), (3, 0.6)])
def test_gap_to_the_rate_distortion_function(rate_bits: float, limit_db: float) -> None:
    rate, gap = rate_and_gap_db(class_of_rate(rate_bits))
    # Relative deviations of error and of sample variance (both about sqrt(2 / n)) and of the rate.
    tolerance = 5 * (10 / np.log(10) * np.sqrt(2 / NUMBERS) + 6.02 * 1.5 / np.sqrt(NUMBERS))
    assert abs(rate - rate_bits) < 0.15
    assert gap + tolerance > 0
    assert gap < limit_db + tolerance
    if rate_bits > 1:
        # Sampling deviates both alike.
        assert gap < scalar_gap_db(rate) - 0.5


def test_error_falls_by_six_decibels_a_bit() -> None:
    numbers = np.array([class_of_rate(rate) for rate in (4, 5, 6, 7, 8)])
    points = [rate_and_gap_db(int(number)) for number in numbers]
    gaps = np.array([gap for _, gap in points])
    # Along the function itself the gap is constant.
    slope = np.polyfit([rate for rate, _ in points], gaps, 1)[0] - 20 * np.log10(2)
    assert slope == pytest.approx(-6.02, abs=0.06)


def test_offsets_are_whole_sixty_fourths() -> None:
    for shape in (0, 1):
        model = entropy_model(shape)
        assert np.array_equal(model.offset * OFFSET_UNIT, model.offset_units)
        # Zero is exact, and so is the escape, whose numbers differ.
        assert not model.offset_units[..., [0, -1]].any()


def test_signs_are_symmetric() -> None:
    values = gaussian(8)[:2_000]
    assert np.array_equal(quantise(values, 8)[0], -quantise(-values, 8)[0])
    assert scale_class(np.array([class_deviation(8)])) == 8
