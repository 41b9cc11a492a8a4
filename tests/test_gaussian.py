"""The Gaussian sources against the paper's formulas, with tolerances from the sample size."""

import numpy as np
import pytest
from scipy import fft, stats

from latentcast.diffusion.gaussian import GaussianSource, natural_spectrum
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Trajectory, shared_noise
from latentcast.errors import ParameterError

SHAPE = (4, 16, 16)
PATH = NoisePath.stable_diffusion(50)
BATCH = 48
COUNT = BATCH * 1024


@pytest.fixture(scope="module", params=["white", "natural"])
def source(request: pytest.FixtureRequest) -> GaussianSource:
    return GaussianSource(SHAPE, PATH) if request.param == "white" else GaussianSource.natural(SHAPE, PATH)


@pytest.fixture(scope="module")
def run(source: GaussianSource) -> tuple[np.ndarray, np.ndarray]:
    """x_t and clean estimates of a batch, float64, indexed by t."""
    steps = list(source.steps([""] * BATCH, list(range(BATCH))))[::-1]
    assert [step.index for step in steps] == list(range(51))
    return (
        np.stack([step.sample for step in steps]).astype(np.float64),
        np.stack([step.clean_estimate for step in steps]).astype(np.float64),
    )


def variances(source: GaussianSource) -> np.ndarray:
    """Variance of each DCT coefficient of x_0."""
    if source.mmse[10] == GaussianSource(SHAPE, PATH).mmse[10]:
        return np.ones(SHAPE[1:])
    return natural_spectrum(*SHAPE[1:])


def mean_square_tolerance(spectrum: np.ndarray, count: int) -> float:
    """Four standard errors of the mean square of Gaussians with these variances."""
    return float(4 * np.sqrt(2 * np.mean(spectrum**2) / count))


def test_marginals_have_unit_variance(source: GaussianSource, run: tuple[np.ndarray, np.ndarray]) -> None:
    v = variances(source)
    for t in (0, 1, 10, 25, 40, 50):
        marginal = PATH.signal[t] ** 2 * v + PATH.noise[t] ** 2
        assert np.mean(run[0][t] ** 2) == pytest.approx(1.0, abs=mean_square_tolerance(marginal, COUNT))


def test_spectrum_of_the_final_latent(source: GaussianSource, run: tuple[np.ndarray, np.ndarray]) -> None:
    coefficients = fft.dctn(run[0][0], axes=(-2, -1), norm="ortho")
    measured = np.mean(coefficients**2, axis=(0, 1))
    ratio = measured / variances(source)
    # Each ratio is a mean of BATCH * 4 squared normals; 256 of them, so the bound is at five standard errors.
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / (BATCH * 4))


def test_diffusion_distortion_is_eq_9(source: GaussianSource, run: tuple[np.ndarray, np.ndarray]) -> None:
    v = variances(source)
    for t in (1, 5, 15, 25, 35, 45, 50):
        measured = np.mean((run[0][t] - run[0][0]) ** 2)
        spectrum = (1 - PATH.signal[t]) ** 2 * v + PATH.noise[t] ** 2
        assert measured == pytest.approx(
            2 * (1 - np.sqrt(PATH.alpha_bar[t])), abs=mean_square_tolerance(spectrum, COUNT)
        )


@pytest.mark.parametrize(("t", "reference"), [(40, 49), (20, 40), (5, 25), (0, 5), (30, 31)])
def test_standardised_refinement_is_standard_normal(
    run: tuple[np.ndarray, np.ndarray], t: int, reference: int
) -> None:
    # Eqs. 6 and 7: the law of z does not depend on the spectrum of x_0, because z is the forward noise.
    abar = PATH.alpha_bar
    sigma = np.sqrt((abar[t] - abar[reference]) / abar[reference])
    z = (run[0][t] - np.sqrt(abar[t] / abar[reference]) * run[0][reference]) / sigma
    assert np.mean(z**2) == pytest.approx(1.0, abs=4 * np.sqrt(2 / COUNT))
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01


def test_white_reverse_step_is_the_posterior() -> None:
    # x_(t-1) given x_t has mean sqrt(alpha_t) x_t and variance 1 - alpha_t.
    source = GaussianSource((4, 64, 64), PATH)
    samples = Trajectory.record(source, "", seed=2).samples.astype(np.float64)
    for t in (50, 25, 2):
        alpha = PATH.alpha_bar[t] / PATH.alpha_bar[t - 1]
        fresh = (samples[t - 1] - np.sqrt(alpha) * samples[t]) / np.sqrt(1 - alpha)
        assert np.mean(fresh**2) == pytest.approx(1.0, abs=4 * np.sqrt(2 / fresh.size))
        assert abs(np.mean(fresh * samples[t])) < 4 / np.sqrt(fresh.size)


def test_mmse_is_the_error_of_the_clean_estimate(
    source: GaussianSource, run: tuple[np.ndarray, np.ndarray]
) -> None:
    v = variances(source)
    for t in (0, 5, 15, 30, 45, 49, 50):
        measured = np.mean((run[1][t] - run[0][0]) ** 2)
        a, s = (PATH.signal[t + 1], PATH.noise[t + 1]) if t < 50 else (0.0, 1.0)
        spectrum = v * s**2 / (a**2 * v + s**2)
        assert source.mmse[t] == pytest.approx(np.mean(spectrum), rel=1e-12)
        assert measured == pytest.approx(source.mmse[t], abs=mean_square_tolerance(spectrum, COUNT))


def test_clean_estimates_are_a_martingale(source: GaussianSource, run: tuple[np.ndarray, np.ndarray]) -> None:
    for t, s in ((45, 40), (40, 20), (20, 5), (5, 0)):
        increment, held = run[1][s] - run[1][t], run[1][t]
        # Per latent, so that the standard error comes from independent items.
        products = np.mean(increment * held, axis=(1, 2, 3))
        assert abs(products.mean()) < 4.5 * products.std(ddof=1) / np.sqrt(BATCH)
        squares = np.mean(increment**2, axis=(1, 2, 3))
        difference = source.mmse[t] - source.mmse[s]
        assert abs(squares.mean() - difference) < 4.5 * squares.std(ddof=1) / np.sqrt(BATCH)


def test_estimate_comes_from_the_sample_before(
    source: GaussianSource, run: tuple[np.ndarray, np.ndarray]
) -> None:
    assert np.allclose(run[1][20], source.denoise(run[0][21], 21), atol=1e-5)
    assert not run[1][50].any()


def test_white_starts_from_the_shared_noise() -> None:
    first = next(iter(GaussianSource(SHAPE, PATH).steps(["", ""], [7, 8])))
    assert np.array_equal(first.sample[1], shared_noise(8, SHAPE))


def test_item_does_not_depend_on_the_batch(source: GaussianSource) -> None:
    alone = list(source.steps([""], [11]))
    together = list(source.steps(["", "", ""], [10, 11, 12]))
    for one, three in zip(alone, together, strict=True):
        assert np.array_equal(one.sample[0], three.sample[1])
        assert np.array_equal(one.clean_estimate[0], three.clean_estimate[1])


def test_general_path_is_followed() -> None:
    # Flow matching: x_t = (1 - u) x_0 + u eps, not variance preserving.
    u = np.linspace(0, 0.99, 21)
    path = NoisePath(signal=1 - u, noise=u)
    samples = Trajectory.record(GaussianSource((4, 64, 64), path), "", seed=1).samples.astype(np.float64)
    for t in (0, 10, 20):
        expected = path.signal[t] ** 2 + path.noise[t] ** 2
        assert np.mean(samples[t] ** 2) == pytest.approx(expected, rel=4 * np.sqrt(2 / samples[t].size))
    assert np.mean(samples[10] * samples[0]) == pytest.approx(
        path.signal[10], abs=4 / np.sqrt(samples[0].size)
    )


@pytest.mark.parametrize("gain", [0.0, 2.0, 4.6, 10.0])
def test_coding_gain(gain: float) -> None:
    v = natural_spectrum(16, 16, coding_gain_db=gain)
    assert v.mean() == pytest.approx(1.0, rel=1e-12)
    assert 10 * np.log10(v.mean() / np.exp(np.log(v).mean())) == pytest.approx(gain, abs=1e-9)


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match="coding_gain_db"):
        natural_spectrum(16, 16, coding_gain_db=float("nan"))
    with pytest.raises(ParameterError, match="latent_shape"):
        GaussianSource((4, 0, 4), PATH)
    with pytest.raises(ParameterError, match="shape"):
        GaussianSource(SHAPE, PATH, spectrum=np.ones((4, 4)))
    with pytest.raises(ParameterError, match="mean 1"):
        GaussianSource(SHAPE, PATH, spectrum=np.full((16, 16), 2.0))
    with pytest.raises(ParameterError, match="one seed per prompt"):
        GaussianSource(SHAPE, PATH).steps(["a"], [1, 2])
