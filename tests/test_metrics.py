"""Picture metrics: against literal definitions, and against values of the published programs."""

import math

import numpy as np
import pytest

from latentcast.delivery.timeline import psnr_db
from latentcast.errors import ParameterError
from latentcast.study.metrics.catalog import METRICS, make_metric
from latentcast.study.metrics.flip import flip, flip_map
from latentcast.study.metrics.pairs import FloatArray, PictureArray, luma, score_pairs
from latentcast.study.metrics.psnr import psnr
from latentcast.study.metrics.ssim import ms_ssim, num_scales, ssim

WITHOUT_WEIGHTS = [name for name in METRICS if name != "lpips"]


def pairs(height: int, width: int) -> tuple[PictureArray, PictureArray]:
    """A colourful picture beside a shifted one, its dimmed self, and its negative."""
    row, column = np.mgrid[:height, :width]
    channels = [(3 * column + row) % 256, 5 * row % 256, column * row // 7 % 256]
    wanted = np.stack(channels, axis=-1).astype(np.uint8)
    return np.stack([wanted] * 3), np.stack([np.roll(wanted, 3, axis=0), wanted // 2 + 60, 255 - wanted])


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_contract(name: str) -> None:
    metric = make_metric(name)
    wanted, shown = pairs(40, 33)
    scores = metric(wanted, shown)
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    perfect = {"psnr": 10 * math.log10(12 * 255**2), "ssim": 1.0, "ms-ssim": 1.0, "flip": 0.0}[name]
    assert metric(shown, shown).tolist() == [perfect] * 3
    better = scores < perfect if METRICS[name].direction == "higher" else scores > perfect
    assert better.all()
    assert np.array_equal(metric(shown, wanted), scores)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_score_depends_on_its_pair_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = make_metric(name)
    wanted, shown = pairs(40, 33)
    scores = metric(wanted, shown)
    for index in range(3):
        assert metric(wanted[index : index + 1], shown[index : index + 1]).tolist() == [scores[index]]
    # Bands of a larger array are not contiguous; portions of a batch are cut anywhere.
    assert np.array_equal(metric(wanted[::2], shown[::2]), scores[::2])
    monkeypatch.setattr("latentcast.study.metrics.pairs.PIXELS_AT_ONCE", 2 * 40 * 33)
    assert np.array_equal(metric(wanted, shown), scores)
    assert metric(wanted[:0], shown[:0]).shape == (0,)


def test_psnr_is_that_of_the_timeline() -> None:
    wanted, shown = pairs(20, 30)
    expected = [psnr_db(picture, reference) for picture, reference in zip(shown, wanted, strict=True)]
    assert psnr(wanted, shown) == pytest.approx(expected, rel=1e-12)


def literal_similarities(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Luminance and contrast-structure window by window, as eqs. 13-16 of the 2004 paper tell it."""
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance, structure = [], []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (picture[top : top + 11, left : left + 11] for picture in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance.append((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1))
            structure.append((2 * covariance + c2) / (variance_a + variance_b + c2))
    return np.array(luminance), np.array(structure)


def test_ssim_is_its_definition() -> None:
    wanted, shown = pairs(24, 19)
    expected = []
    for x, y in zip(luma(wanted), luma(shown), strict=True):
        luminance, structure = literal_similarities(x, y)
        expected.append((luminance * structure).mean())
    assert ssim(wanted, shown) == pytest.approx(expected, abs=1e-10)


def test_ssim_of_scikit_image() -> None:
    # structural_similarity of scikit-image 0.26.0 on the luma, with gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=255.
    wanted, shown = pairs(48, 40)
    assert ssim(wanted, shown)[[0]] == pytest.approx([0.9369917480064647], rel=1e-12)


def test_ms_ssim_is_its_definition() -> None:
    wanted, shown = pairs(23, 46)
    expected = []
    for x, y in zip(luma(wanted), luma(shown), strict=True):
        _, fine = literal_similarities(x, y)
        # 23 x 46 becomes 12 x 23: the last row counts twice.
        x, y = (np.concatenate((picture, picture[-1:])) for picture in (x, y))
        x, y = (picture.reshape(12, 2, 23, 2).mean(axis=(1, 3)) for picture in (x, y))
        luminance, structure = literal_similarities(x, y)
        means = max(fine.mean(), 0.0), max((luminance * structure).mean(), 0.0)
        share = 1.0001 / (0.0448 + 0.2856)
        expected.append(means[0] ** (0.0448 * share) * means[1] ** (0.2856 * share))
    assert ms_ssim(wanted, shown) == pytest.approx(expected, abs=1e-10)
    assert expected[2] == 0.0


def test_ms_ssim_of_pytorch_msssim() -> None:
    # ms_ssim of pytorch-msssim 1.0.0 on the luma in float64, at a size that halves evenly four times.
    wanted, shown = pairs(192, 176)
    expected = [0.766275808464666, 0.8196136694852929, 0.0]
    assert ms_ssim(wanted, shown) == pytest.approx(expected, rel=1e-9)


def test_scales_end_where_the_window_does() -> None:
    for side in range(11, 600):
        sides = [side]
        while len(sides) < 5 and math.ceil(sides[-1] / 2) >= 11:
            sides.append(math.ceil(sides[-1] / 2))
        assert num_scales(side, 600) == num_scales(600, side) == len(sides)


# Mean errors by flip-evaluator 1.7, which computes in float32.
PUBLISHED_FLIP = {
    67.0206432765823: [0.38183173537254333, 0.9210746884346008],
    30.0: [0.34831878542900085, 0.9168930649757385],
}


@pytest.mark.parametrize("pixels_per_degree", list(PUBLISHED_FLIP))
def test_flip_of_the_published_program(pixels_per_degree: float) -> None:
    wanted, shown = pairs(48, 40)
    shown[2] = 255 - wanted[2] // 2
    scores = flip(wanted, shown, pixels_per_degree=pixels_per_degree)
    assert scores[[0, 2]] == pytest.approx(PUBLISHED_FLIP[pixels_per_degree], abs=3e-6)
    assert flip(wanted, shown)[0] == pytest.approx(PUBLISHED_FLIP[67.0206432765823][0], abs=3e-6)


def test_flip_beside_the_published_program() -> None:
    program = pytest.importorskip("flip_evaluator")
    wanted, shown = pairs(70, 55)
    noise = np.random.default_rng(0).normal(0.0, 20.0, wanted[2].shape)
    shown[2] = np.clip(wanted[2] + noise, 0, 255).astype(np.uint8)
    for reference, picture in zip(wanted, shown, strict=True):
        floats = [array.astype(np.float32) / np.float32(255) for array in (reference, picture)]
        errors, mean, _ = program.evaluate(*floats, "LDR", applyMagma=False)
        # Single precision, raised to powers down to 0.
        assert np.abs(flip_map(reference, picture) - errors[..., 0]).max() < 1e-4
        assert flip(reference[None], picture[None])[0] == pytest.approx(mean, abs=1e-5)


def test_flip_sees_less_from_afar() -> None:
    # A chequerboard of black and white beside the grey that it is from far away: half the light.
    wanted = np.full((1, 64, 64, 3), 188, np.uint8)
    shown = np.zeros_like(wanted)
    shown[:, ::2, ::2] = shown[:, 1::2, 1::2] = 255
    errors = [flip(wanted, shown, pixels_per_degree=ppd)[0] for ppd in (10.0, 30.0, 90.0)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("score", [psnr, ssim, ms_ssim, flip])
def test_bad_pictures_are_refused(score) -> None:  # type: ignore[no-untyped-def]
    good = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ParameterError, match="reference is float64"):
        score(good / 255, good)
    with pytest.raises(ParameterError, match=r"picture is uint8 of shape \(16, 16, 3\)"):
        score(good, good[0])
    with pytest.raises(ParameterError, match="picture is a list"):
        score(good, good.tolist())
    with pytest.raises(ParameterError, match="must be the same"):
        score(good, good[:1])
    with pytest.raises(ParameterError, match="must be uint8"):
        score(good[..., :1], good[..., :1])


@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_pictures_smaller_than_the_window_are_refused(score) -> None:  # type: ignore[no-untyped-def]
    small = np.zeros((1, 16, 10, 3), np.uint8)
    with pytest.raises(ParameterError, match="at least 11 x 11"):
        score(small, small)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, True, "67"])
def test_bad_viewing_conditions_are_refused_at_once(value: object) -> None:
    with pytest.raises(ParameterError, match="pixels_per_degree is"):
        make_metric("flip", pixels_per_degree=value)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ParameterError, match="unknown metric 'SSIM'; choose psnr"):
        make_metric("SSIM")
    with pytest.raises(ParameterError, match="metric psnr has no option 'peak'; it has none"):
        make_metric("psnr", peak=1.0)
    with pytest.raises(ParameterError, match="metric flip has no option 'ppd'; it has pixels_per_degree"):
        make_metric("flip", ppd=67)


def test_portions_keep_their_order() -> None:
    wanted = np.zeros((5, 400, 400, 3), np.uint8)
    shown = wanted + np.arange(5, dtype=np.uint8)[:, None, None, None]
    sizes = []

    def first_pixel(_: PictureArray, picture: PictureArray) -> FloatArray:
        sizes.append(len(picture))
        return picture[:, 0, 0, 0].astype(np.float64)

    assert score_pairs(first_pixel, wanted, shown).tolist() == [0, 1, 2, 3, 4]
    assert sizes == [3, 2]
