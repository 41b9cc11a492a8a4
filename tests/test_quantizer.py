import math

import numpy as np
import pytest
from scipy import integrate, stats

from latentcast.codec.quantizer import lloyd_max, panter_dite_mse
from latentcast.errors import ParameterError

PUBLISHED_MSE = [0.363380, 0.117482, 0.034548, 0.009501, 0.0025047, 0.00064424, 0.00016348]


@pytest.mark.parametrize(("bits", "mse"), list(enumerate(PUBLISHED_MSE, start=1)))
def test_published_errors(bits: int, mse: float) -> None:
    assert lloyd_max(bits).mse == pytest.approx(mse, abs=6e-7)


def test_one_bit_is_the_half_normal_mean() -> None:
    quantizer = lloyd_max(1)
    assert quantizer.levels == pytest.approx([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)], rel=1e-15)
    assert quantizer.thresholds.tolist() == [0.0]
    assert quantizer.mse == pytest.approx(1 - 2 / math.pi, rel=1e-14)


@pytest.mark.parametrize("bits", range(1, 16))
def test_codebooks_are_ordered_and_symmetric(bits: int) -> None:
    quantizer = lloyd_max(bits)
    assert quantizer.levels.shape == (2**bits,)
    assert quantizer.thresholds.shape == (2**bits - 1,)
    assert np.all(np.diff(quantizer.levels) > 0.0)
    assert np.array_equal(quantizer.levels, -quantizer.levels[::-1])
    assert np.array_equal(quantizer.thresholds, 0.5 * (quantizer.levels[:-1] + quantizer.levels[1:]))


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 10])
def test_levels_are_the_means_of_their_cells(bits: int) -> None:
    quantizer = lloyd_max(bits)
    edges = np.concatenate(([-np.inf], quantizer.thresholds, [np.inf]))
    mass = np.diff(stats.norm.cdf(edges))
    means = -np.diff(stats.norm.pdf(edges)) / mass
    # Differences of the distribution function lose digits in narrow cells and far out, where mass is small.
    assert quantizer.levels == pytest.approx(means, abs=1e-9)


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_error_is_the_integral_of_the_squared_error(bits: int) -> None:
    quantizer = lloyd_max(bits)
    edges = [-12.0, *quantizer.thresholds, 12.0]
    error = sum(
        integrate.quad(lambda x, c=level: (x - c) ** 2 * stats.norm.pdf(x), low, high, epsabs=1e-14)[0]
        for low, high, level in zip(edges[:-1], edges[1:], quantizer.levels, strict=True)
    )
    assert quantizer.mse == pytest.approx(error, rel=1e-9)


def test_error_falls_by_six_decibels_per_bit() -> None:
    decibels = [10 * math.log10(lloyd_max(bits).mse) for bits in range(8, 16)]
    assert np.diff(decibels) == pytest.approx(-20 * math.log10(2), abs=0.02)


def test_panter_dite_is_the_limit() -> None:
    ratios = [panter_dite_mse(bits) / lloyd_max(bits).mse for bits in range(1, 16)]
    assert np.all(np.diff(ratios) < 0.0)
    assert ratios[0] == pytest.approx(1.87, abs=0.005)
    assert ratios[-1] == pytest.approx(1.0, abs=1e-4)


def test_no_perturbed_codebook_is_better() -> None:
    rng = np.random.default_rng(0)
    quantizer = lloyd_max(3)
    samples = rng.standard_normal(200_000)

    def error(levels: np.ndarray) -> float:
        cells = np.searchsorted(0.5 * (levels[:-1] + levels[1:]), samples)
        return float(np.mean((samples - levels[cells]) ** 2))

    assert error(quantizer.levels) == pytest.approx(quantizer.mse, rel=0.02)
    for _ in range(20):
        perturbed = np.sort(quantizer.levels + rng.normal(0.0, 0.1, 8))
        assert error(perturbed) > error(quantizer.levels)


def test_codebooks_are_made_once_and_read_only() -> None:
    assert lloyd_max(4) is lloyd_max(4)
    with pytest.raises(ValueError, match="read-only"):
        lloyd_max(4).levels[0] = 0.0


@pytest.mark.parametrize("bits", [0, 16, -1, 2.0, True, "3"])
def test_bad_bits_are_refused(bits: int) -> None:
    with pytest.raises(ParameterError, match="bits is"):
        lloyd_max(bits)


@pytest.mark.parametrize("bits", [0, 1.5, False])
def test_panter_dite_needs_whole_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match="bits is"):
        panter_dite_mse(bits)
