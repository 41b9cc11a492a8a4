"""The transform of the progressive codec: orthonormal for every shape, in the order that it states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcast.codec.bands import Bands
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 21), st.integers(1, 21))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_orthonormal_for_any_shape(shape: tuple[int, int, int], seed: int) -> None:
    bands = Bands(shape)
    latents = np.random.default_rng(seed).standard_normal((2, 3, *shape)).astype(np.float32)
    coefficients = bands.forward(latents)
    assert coefficients.shape == (2, 3, bands.size)
    assert coefficients.dtype == np.float32
    # Float32 in sums of at most some dozens of terms.
    np.testing.assert_allclose(bands.inverse(coefficients), latents, atol=2e-5)
    np.testing.assert_allclose(np.sum(coefficients**2, -1), np.sum(latents**2, (-3, -2, -1)), rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_bands_rise_without_gaps(shape: tuple[int, int, int]) -> None:
    bands = Bands(shape)
    assert bands.size == np.prod(shape)
    assert bands.band_of[0] == 0
    assert set(np.diff(bands.band_of)) <= {0, 1}
    assert bands.num_bands == bands.band_of[-1] + 1 == len(set(bands.band_of.tolist()))


def test_the_mean_comes_first() -> None:
    bands = Bands((4, 16, 16))
    level = np.broadcast_to(np.arange(1.0, 5.0)[:, None, None], (4, 16, 16)).astype(np.float32)
    coefficients = bands.forward(level)
    # 16 places in each of two directions: a level c has the coefficient 16 c.
    np.testing.assert_allclose(coefficients[:4], [16, 32, 48, 64], rtol=1e-6)
    np.testing.assert_allclose(coefficients[4:], 0, atol=1e-4)


def test_batch_does_not_matter() -> None:
    bands = Bands((3, 9, 14))
    latents = np.random.default_rng(0).standard_normal((5, 3, 9, 14)).astype(np.float32)
    together = bands.forward(latents)
    for item in range(5):
        np.testing.assert_array_equal(bands.forward(latents[item]), together[item])


def test_variances_of_a_shaped_source() -> None:
    source = GaussianSource.natural((4, 16, 16), NoisePath.stable_diffusion(2))
    bands = Bands(source.latent_shape)
    count = 300
    *_, last = source.steps([""] * count, range(count))
    measured = np.bincount(bands.band_of, np.mean(bands.forward(last.sample) ** 2, axis=0))
    assert source.spectrum is not None
    variances = bands.in_scan_order(source.spectrum)
    expected = np.bincount(bands.band_of, variances)
    assert expected.sum() == pytest.approx(1024)
    # Correlation between coefficients of a band raises the spread above that of independent ones, at most to
    # that of one coefficient.
    error = 4 * np.sqrt(2 / count) * expected
    assert np.all(np.abs(measured - expected) < error)
    # Scan order goes from large to small, band by band.
    assert np.all(np.diff(expected / np.bincount(bands.band_of))[:3] < 0)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4), (1, 2, -3)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="each at least 1"):
        Bands(shape)  # type: ignore[arg-type]
