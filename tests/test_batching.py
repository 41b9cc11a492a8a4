"""Denoising in changing batches against the pipeline's own loop, which denoises one request alone."""

import importlib
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentcast.diffusion.batching import BatchedDenoiser, Run
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.diffusion.source import Step, Trajectory, shared_noise
from latentcast.errors import ModelError, ParameterError

# A step's two weighted sums and the network's hundred layers round some 10^2 times; with guidance w the
# difference of two outputs is amplified 2 w + 1 times and, early on, by 1 / a_T = 13. What the steps before
# made differ is contracted by the posterior, so that errors add up over the steps at worst.
FLOAT32 = float(np.finfo(np.float32).eps)


def tolerance(num_steps: int, guidance_scale: float, alpha_bar: float) -> float:
    return num_steps * 100 * (2 * guidance_scale + 1) / math.sqrt(alpha_bar) * FLOAT32


def first_step(run: Run, latent_shape: tuple[int, int, int] = (4, 8, 8)) -> Step:
    noise = shared_noise(run.seed, latent_shape)[None]
    return Step(run.num_steps, noise, np.zeros_like(noise))


def to_the_end(denoiser: BatchedDenoiser, run: Run) -> Trajectory:
    steps = [first_step(run)]
    while not run.is_finished:
        steps += denoiser.advance([run])
    return collected(steps, run, denoiser.path(run.num_steps))


def collected(steps: list[Step], run: Run, path: NoisePath) -> Trajectory:
    assert [step.index for step in steps] == list(range(run.num_steps, -1, -1))
    return Trajectory(
        samples=np.concatenate([step.sample for step in reversed(steps)]),
        clean_estimates=np.concatenate([step.clean_estimate for step in reversed(steps)]),
        prompt=run.caption,
        seed=run.seed,
        path=path,
    )


def assert_same(got: Trajectory, expected: Trajectory, guidance_scale: float) -> None:
    atol = tolerance(got.num_steps, guidance_scale, float(got.path.alpha_bar[-1]))
    assert atol < 0.1
    assert got.path == expected.path
    for name in ("samples", "clean_estimates"):
        actual, desired = getattr(got, name), getattr(expected, name)
        scale = max(1.0, float(np.abs(desired).max()))
        np.testing.assert_allclose(actual, desired, rtol=0.0, atol=atol * scale)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> DiffusersModel:
    return load_pipeline(tiny_folder, num_steps=10)


@pytest.fixture(scope="module")
def denoiser(model: DiffusersModel) -> BatchedDenoiser:
    return BatchedDenoiser(model)


def test_runs_in_changing_company_are_those_of_the_pipeline(
    model: DiffusersModel, denoiser: BatchedDenoiser, tiny_folder: Path
) -> None:
    """Three requests of 10, 6 and 4 steps start at different times and share calls."""
    wanted = [("a red thing", 3, 10, 0), ("b", 8, 6, 2), ("", 9, 4, 5)]
    runs: list[Run] = []
    steps: dict[int, list[Step]] = {}
    batch_sizes = set()
    for call in range(40):
        for caption, seed, num_steps, begins in wanted:
            if begins == call:
                runs.append(denoiser.start(caption, seed, num_steps))
                steps[seed] = [first_step(runs[-1])]
        active = [run for run in runs if not run.is_finished]
        if not active and call > 5:
            break
        batch_sizes.add(len(active))
        for run, step in zip(active, denoiser.advance(active), strict=True):
            steps[run.seed].append(step)
    assert batch_sizes == {1, 2, 3}
    for run in runs:
        alone = load_pipeline(tiny_folder, num_steps=run.num_steps)
        expected = Trajectory.record(alone, run.caption, run.seed)
        got = collected(steps[run.seed], run, denoiser.path(run.num_steps))
        assert_same(got, expected, model.guidance_scale)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_other_predictions_and_no_guidance(
    tiny_folder: Path, tmp_path: Path, prediction_type: str, guidance_scale: float
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    settings = folder / "scheduler" / "scheduler_config.json"
    changed = {**json.loads(settings.read_text()), "prediction_type": prediction_type}
    settings.write_text(json.dumps(changed))
    own = load_pipeline(folder, num_steps=4, guidance_scale=guidance_scale)
    expected = Trajectory.record(own, "a red thing", 5)
    denoiser = BatchedDenoiser(own)
    got = to_the_end(denoiser, denoiser.start("a red thing", 5, 4))
    assert_same(got, expected, guidance_scale)


def test_without_guidance_the_network_sees_each_item_once(tiny_folder: Path) -> None:
    batches: list[int] = []
    for guidance_scale in (1.0, 7.5):
        own = load_pipeline(tiny_folder, num_steps=4, guidance_scale=guidance_scale)
        own.pipe.unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
        denoiser = BatchedDenoiser(own)
        batches.clear()
        denoiser.advance([denoiser.start("a", 0, 4), denoiser.start("b", 1, 4)])
        assert sum(batches) == (2 if guidance_scale == 1.0 else 4)


def test_the_embedded_model() -> None:
    own = load_pipeline("scenes", num_steps=5)
    expected = Trajectory.record(own, "a red sphere", 2)
    denoiser = BatchedDenoiser(own)
    run, other = denoiser.start(own.read_prompt("a red sphere").caption, 2, 5), denoiser.start("", 4, 50)
    steps = [first_step(run, own.latent_shape)]
    while not run.is_finished:
        steps.append(denoiser.advance([other, run])[1])
    assert_same(collected(steps, run, denoiser.path(5)), expected, own.guidance_scale)


def test_steps_are_copies(denoiser: BatchedDenoiser) -> None:
    run = denoiser.start("a", 0, 4)
    (first,) = denoiser.advance([run])
    kept = first.sample.copy()
    first.sample[:] = 7.0
    twin = denoiser.start("a", 0, 4)
    denoiser.advance([twin])
    (second,), (expected,) = denoiser.advance([run]), denoiser.advance([twin])
    assert np.array_equal(second.sample, expected.sample)
    assert not np.array_equal(second.sample, kept)


def test_the_threads_end_with_the_denoiser(model: DiffusersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def helpers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("latentcast denoiser")}

    others = helpers()
    own = BatchedDenoiser(model)
    own.advance([own.start(name, 0, 4) for name in "ab"])
    assert helpers() - others
    own.close()
    assert not helpers() - others


def test_wrong_runs(denoiser: BatchedDenoiser) -> None:
    run = denoiser.start("a", 0, 1)
    for runs in ([], [run, run]):
        with pytest.raises(ParameterError, match="each once"):
            denoiser.advance(runs)
    denoiser.advance([run])
    with pytest.raises(ParameterError, match="1 of them finished"):
        denoiser.advance([run])
    with pytest.raises(ParameterError, match="non-negative"):
        denoiser.start("a", -1, 4)
    with pytest.raises(ParameterError, match="takes 1 to 1000"):
        denoiser.start("a", 0, 1001)


def test_a_failing_network_leaves_the_runs_where_they_were(
    denoiser: BatchedDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, twin = denoiser.start("a", 0, 4), denoiser.start("a", 0, 4)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(denoiser._network, "forward", fail)
        with pytest.raises(ModelError, match="failed while denoising: RuntimeError: out of memory"):
            denoiser.advance([run])
    assert run.index == 4
    (step,), (expected,) = denoiser.advance([run]), denoiser.advance([twin])
    assert np.array_equal(step.sample, expected.sample)


def test_a_long_prompt_is_cut_silently(denoiser: BatchedDenoiser, caplog: pytest.LogCaptureFixture) -> None:
    denoiser.start("red " * 100, 0, 4)
    assert not caplog.records


def test_pipelines_of_another_kind_are_refused(model: DiffusersModel, tiny_folder: Path) -> None:
    diffusers: Any = importlib.import_module("diffusers")
    parts = {**model.pipe.components}
    image_to_image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    other = DiffusersModel("other", image_to_image, 4, 7.5, "owner/other")
    with pytest.raises(ModelError, match=r"other is a StableDiffusionImg2ImgPipeline; .* Stable Diffusion's"):
        BatchedDenoiser(other)

    class WithSize(torch.nn.Module):
        """A U-Net as SDXL's says of itself that it wants the picture's size as well."""

        config = type("Config", (), {**model.pipe.unet.config, "addition_embed_type": "text_time"})()
        dtype = torch.float32

    own = load_pipeline(tiny_folder, num_steps=4)
    own.pipe.unet = WithSize()
    with pytest.raises(ModelError, match=r"wants more than a sample and a text.*addition_embed_type"):
        BatchedDenoiser(own)
