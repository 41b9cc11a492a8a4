import numpy as np
import pytest
from numpy.typing import NDArray

from latentcast.codec.entropy import (
    BASE_CLASSES,
    CLASSES_PER_OCTAVE,
    MAX_CLASS,
    NUM_SHAPES,
    NUM_SYMBOLS,
    PRICE,
    TOTAL_BITS,
    class_deviation,
    entropy_model,
    scale_class,
    train_tables,
)
from latentcast.codec.progressive import FINAL_MIN_CLASS
from latentcast.codec.trellis import search

IntArray = NDArray[np.int64]

SHAPES = range(NUM_SHAPES)
NUMBERS = 20_000


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_are_whole_and_sum_to_one(shape: int) -> None:
    cumulative = entropy_model(shape).cumulative
    assert cumulative.shape == (BASE_CLASSES, 2, NUM_SYMBOLS + 1)
    assert cumulative.dtype == np.int64
    assert not cumulative[..., 0].any()
    assert (cumulative[..., -1] == 1 << TOTAL_BITS).all()
    assert np.diff(cumulative).min() >= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_an_octave_higher_costs_a_bit_more(shape: int) -> None:
    model = entropy_model(shape)
    assert model.rate_bits.shape == model.distortion.shape == (MAX_CLASS + 1,)
    lower, higher = slice(BASE_CLASSES - CLASSES_PER_OCTAVE, -CLASSES_PER_OCTAVE), slice(BASE_CLASSES, None)
    assert np.array_equal(model.rate_bits[higher], model.rate_bits[lower] + 1)
    assert np.array_equal(model.distortion[higher], model.distortion[lower])
    # The lowest classes round to zero, all of them at the least cost that a table can state.
    assert np.all(np.diff(model.rate_bits) >= 0)
    assert np.all(np.diff(model.rate_bits[FINAL_MIN_CLASS - 1 :]) > 0)


def test_scale_classes_round_trip() -> None:
    numbers = np.arange(MAX_CLASS + 1)
    deviations = np.array([class_deviation(int(number)) for number in numbers])
    assert np.array_equal(scale_class(deviations), numbers)
    # A class reaches half an eighth of an octave to both sides.
    for sign in (-1, 1):
        assert np.array_equal(scale_class(deviations * 2.0 ** (sign * 0.12)), numbers)
        moved = scale_class(deviations * 2.0 ** (sign * 0.13))
        assert np.array_equal(moved, np.minimum(numbers + sign, MAX_CLASS))
    assert scale_class(np.array([0.0, 1e-9, 1e30])).tolist() == [-1, -1, MAX_CLASS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [0, 4, 8, 14, 19, 25, 40])
def test_expected_rate_and_distortion_are_the_measured(shape: int, number: int) -> None:
    rng = np.random.default_rng(number)
    unit = rng.standard_normal(NUMBERS) if shape == 0 else rng.laplace(size=NUMBERS) / np.sqrt(2)
    spread = 2.0 ** (rng.uniform(-0.5, 0.5, NUMBERS) / CLASSES_PER_OCTAVE)
    values = (unit * spread * class_deviation(number)).astype(np.float32)
    model = entropy_model(shape)
    k, quantizer = search(
        values,
        np.full(NUMBERS, number, np.int32),
        model.cost_bits,
        model.offset,
        PRICE,
        BASE_CLASSES,
        CLASSES_PER_OCTAVE,
    )
    shift = max(0, (number - BASE_CLASSES) // CLASSES_PER_OCTAVE + 1)
    row, magnitude = number - shift * CLASSES_PER_OCTAVE, np.abs(k)
    high = (magnitude + np.where(quantizer == 1, (1 << shift) - 1, (1 << shift) // 2)) >> shift
    symbol = np.minimum(high, NUM_SYMBOLS - 1)
    excess = np.maximum(high - NUM_SYMBOLS + 1, 0)
    bits = (
        model.cost_bits[row, quantizer, symbol]
        + (magnitude > 0)
        + np.where(high > 0, shift, np.where(quantizer == 0, max(0, shift - 1), 0))
        + np.where(symbol == NUM_SYMBOLS - 1, 1 + 2 * np.floor(np.log2(excess + 1)), 0)
    )
    point = 2.0 * magnitude - quantizer - (model.offset[row, quantizer, symbol] if shift == 0 else 0.0)
    error = (np.abs(values) - np.where(magnitude > 0, point, 0.0)) ** 2
    # The tables count an escape as a symbol only; its rest is below a hundredth of a bit.
    allowed = 5 * bits.std() / np.sqrt(NUMBERS) + 0.05
    assert bits.mean() == pytest.approx(model.rate_bits[number], abs=allowed)
    allowed = 5 * error.std() / np.sqrt(NUMBERS)
    # From an octave above the tables on, reconstruction points are the levels: at most 2 % worse.
    assert error.mean() == pytest.approx(model.distortion[number], abs=allowed, rel=0.03)


@pytest.fixture(scope="module")
def trained() -> IntArray:
    return train_tables(num_values=NUMBERS, rounds=12, seed=1).astype(np.int64)


@pytest.mark.parametrize("shape", SHAPES)
def test_shipped_tables_are_what_training_makes(shape: int, trained: IntArray) -> None:
    shipped = entropy_model(shape)
    # What the quantiser minimises. The tables themselves may differ: at about a bit per number it does as
    # well with zeros in both quantisers as with zeros in one.
    rate, error = trained[shape, 2, :, 0, 0] / 4096, trained[shape, 2, :, 0, 1] / 4096
    expected = shipped.distortion[:BASE_CLASSES] + PRICE * shipped.rate_bits[:BASE_CLASSES]
    # The square of a Laplacian number deviates by sqrt(5) times its mean.
    assert error + PRICE * rate == pytest.approx(expected, rel=4 * np.sqrt(5 / NUMBERS))


@pytest.mark.slow
def test_shipped_tables_are_those_of_the_command() -> None:
    made = train_tables().astype(np.int64)
    for shape in SHAPES:
        assert np.abs(made[shape, 0] - np.diff(entropy_model(shape).cumulative)).max() <= 8
        assert np.abs(made[shape, 1] - entropy_model(shape).offset_units).max() <= 1


def test_training_is_reproducible(trained: IntArray) -> None:
    assert np.array_equal(trained[:, 0].sum(axis=-1), np.full((NUM_SHAPES, BASE_CLASSES, 2), 1 << TOTAL_BITS))
    small = [train_tables(num_values=500, rounds=2, seed=3) for _ in range(2)]
    assert np.array_equal(small[0], small[1])
