"""The shipped weights load as any pipeline folder, fit the paper's forward process, and follow prompts."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from latentcast.codec.predictor import paper_prediction
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.diffusion.scenes import weights_folder
from latentcast.diffusion.scenes.captions import full_caption
from latentcast.diffusion.scenes.dataset import draw_scenes
from latentcast.policy.distortion import diffusion_distortion

NUM_PROMPTS = 32


@cache
def model(num_steps: int = 50) -> DiffusersModel:
    return load_pipeline("scenes", num_steps=num_steps)


@cache
def trajectories() -> npt.NDArray[np.float32]:
    """Samples x_t of new scenes at the default settings, (T + 1, NUM_PROMPTS, 4, 16, 16), indexed by t."""
    rng = np.random.default_rng(11)
    prompts = [full_caption(scene, rng) for scene in draw_scenes(NUM_PROMPTS, seed=12)]
    steps = list(model().steps(prompts, list(range(NUM_PROMPTS))))
    return np.stack([step.sample for step in reversed(steps)])


def test_the_folder_is_small_enough_to_ship() -> None:
    size = sum(file.stat().st_size for file in weights_folder().rglob("*") if file.is_file())
    assert size < 26e6


@pytest.mark.slow
def test_latents_have_unit_variance() -> None:
    # 32 pictures of 1024 numbers; the pictures' own variances spread by about 0.1.
    assert np.mean(trajectories()[0] ** 2) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("step", [*range(6, 15), *range(15, 46, 5)])
def test_diffusion_distortion_is_what_eq_9_says(step: int) -> None:
    # Below t = 6 eq. 3, whose variance is that of certain data, takes out less noise than eq. 9 has: 0.93 of
    # it at t = 5. For Gaussian data, whose details no network could predict, it would be half.
    measured = np.mean((trajectories()[step] - trajectories()[0]) ** 2)
    assert measured == pytest.approx(float(diffusion_distortion(model().path, step)), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("reference_step", "step"), [(45, 30), (40, 20), (30, 10), (20, 5), (10, 0)])
def test_standardised_refinements_have_unit_variance(reference_step: int, step: int) -> None:
    prediction = paper_prediction(model().path, step, reference_step)
    refinement = trajectories()[step] - prediction.gain * trajectories()[reference_step]
    assert np.mean((refinement / prediction.scale) ** 2) == pytest.approx(1.0, rel=0.03)


def test_pictures_show_the_colour_that_was_asked_for() -> None:
    prompts = ["a red sphere on a plain floor by day", "a blue sphere on a plain floor by day"]
    *_, last = model(20).steps(prompts, [1, 1])
    red, blue = model(20).decode(last.sample).astype(int)
    for picture, strong, weak in ((red, 0, 2), (blue, 2, 0)):
        assert (picture[..., strong] > 1.6 * picture[..., weak]).mean() > 0.05
