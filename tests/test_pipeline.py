"""A pipeline of Stable Diffusion v1-5's classes and schedule, with random weights, through the real code."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import STABLE_DIFFUSION_SCHEDULER
from latentcast.delivery.receiver import Receiver
from latentcast.delivery.sender import Sender
from latentcast.diffusion.callback import StepCallback, scheduler_path
from latentcast.diffusion.loading import ancestral_scheduler, find_model
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.diffusion.source import Step, Trajectory, seed_stream, shared_noise
from latentcast.errors import ModelError, ParameterError
from latentcast.policy.baselines import PersistentPolicy
from latentcast.scenario import Scenario

# Most of diffusers is not annotated; the tests use it as a script would.
diffusers: Any = importlib.import_module("diffusers")

NUM_STEPS = 10


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> DiffusersModel:
    return load_pipeline(tiny_folder, num_steps=NUM_STEPS)


@pytest.fixture(scope="module")
def trajectory(model: DiffusersModel) -> Trajectory:
    return Trajectory.record(model.source, "a red thing", seed=3)


def denoising_threads() -> list[threading.Thread]:
    # Not those of denoisers for batches, "latentcast denoiser", that no collector has come by yet.
    running = [thread for thread in threading.enumerate() if thread.name.startswith("latentcast ")]
    return [thread for thread in running if not thread.name.startswith("latentcast denoiser")]


def test_shapes(model: DiffusersModel) -> None:
    assert model.latent_shape == (4, 8, 8)
    assert model.picture_size == (64, 64)
    assert model.path == NoisePath.stable_diffusion(NUM_STEPS)
    assert model.guidance_scale == 7.5


def test_trajectory_is_the_papers_sampler(model: DiffusersModel, trajectory: Trajectory) -> None:
    """Eq. 3 written out, with the network called by hand and its noise drawn by hand."""
    pipe = model.pipe
    tokens = pipe.tokenizer(
        ["", "a red thing"], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    abar = NoisePath.stable_diffusion(NUM_STEPS).alpha_bar
    seed = int(seed_stream(3, "sampler").generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(shared_noise(3, (4, 8, 8)))[None]
    assert np.array_equal(trajectory.samples[NUM_STEPS], x[0].numpy())
    assert not trajectory.clean_estimates[NUM_STEPS].any()
    with torch.no_grad():
        text = pipe.text_encoder(tokens)[0]
        for t in range(NUM_STEPS, 0, -1):
            training_step = 100 * (t - 1) + 1
            without, given = pipe.unet(
                torch.cat([x, x]), training_step, encoder_hidden_states=text
            ).sample.chunk(2)
            epsilon = without + 7.5 * (given - without)
            alpha = abar[t] / abar[t - 1]
            beta_tilde = (1 - abar[t - 1]) / (1 - abar[t]) * (1 - alpha)
            clean = (x - np.sqrt(1 - abar[t]) * epsilon) / np.sqrt(abar[t])
            fresh = torch.randn(x.shape, generator=generator)
            x = (x - (1 - alpha) / np.sqrt(1 - abar[t]) * epsilon) / np.sqrt(alpha) + np.sqrt(
                beta_tilde
            ) * fresh
            x = x.float()
            np.testing.assert_allclose(trajectory.samples[t - 1], x[0], rtol=1e-3, atol=2e-3)
            np.testing.assert_allclose(trajectory.clean_estimates[t - 1], clean[0], rtol=1e-3, atol=2e-3)


def test_item_does_not_depend_on_the_batch(model: DiffusersModel, trajectory: Trajectory) -> None:
    prompts, seeds = ["b", "a red thing", "c"], [8, 3, 9]
    for step in model.source.steps(prompts, seeds):
        np.testing.assert_allclose(step.sample[1], trajectory.samples[step.index], rtol=1e-3, atol=2e-3)


def test_decode(model: DiffusersModel, trajectory: Trajectory) -> None:
    pictures = model.decode(trajectory.samples)
    assert pictures.shape == (NUM_STEPS + 1, 64, 64, 3)
    assert pictures.dtype == np.uint8
    latent = torch.from_numpy(trajectory.samples[:1])
    with torch.no_grad():
        image = model.pipe.vae.decode(latent / model.pipe.vae.config.scaling_factor).sample
    expected = model.pipe.image_processor.postprocess(image, output_type="np")[0]
    assert np.abs(pictures[0] / 255.0 - expected).max() < 1 / 255
    assert model.decode(np.zeros((0, 4, 8, 8))).shape == (0, 64, 64, 3)
    with pytest.raises(ParameterError, match="latents have shape"):
        model.decode(np.zeros((1, 4, 8, 9)))


def test_closing_early_ends_the_thread(model: DiffusersModel) -> None:
    steps = model.source.steps(["a"], [0])
    assert [next(steps).index for _ in range(3)] == [10, 9, 8]
    assert len(denoising_threads()) == 1
    with pytest.raises(ModelError, match="still denoising"):
        next(iter(model.source.steps(["b"], [1])))
    steps.close()  # type: ignore[attr-defined]
    assert not denoising_threads()
    assert sum(1 for _ in model.source.steps(["b"], [1])) == NUM_STEPS + 1


def test_thread_is_at_most_two_steps_ahead(model: DiffusersModel) -> None:
    calls: list[int] = []
    handle = model.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    steps = model.source.steps(["a"], [0])
    try:
        next(steps), next(steps)
        time.sleep(0.3)
        # One step taken, two in the queue, one waiting to enter it.
        assert len(calls) <= 4
    finally:
        steps.close()  # type: ignore[attr-defined]
        handle.remove()


def test_an_error_in_the_pipeline_reaches_the_consumer(
    model: DiffusersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(model.pipe.unet, "forward", fail)
    with pytest.raises(ModelError, match="failed while denoising: RuntimeError: out of memory") as caught:
        list(model.source.steps(["a"], [0]))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not denoising_threads()


def test_prompts_and_seeds_must_match(model: DiffusersModel) -> None:
    with pytest.raises(ParameterError, match="one seed per prompt"):
        model.source.steps(["a", "b"], [0])


def test_long_prompt_is_cut_as_the_pipeline_cuts_it(model: DiffusersModel) -> None:
    with_tail = next(iter(list(model.source.steps(["red " * 100], [0]))[-1:]))
    assert np.isfinite(with_tail.sample).all()


def test_describe_is_json(model: DiffusersModel) -> None:
    description = json.loads(json.dumps(model.describe()))
    assert description["latent_shape"] == [4, 8, 8]
    assert set(description["parameters"]) == {"text_encoder", "unet", "vae"}
    assert description["noise_schedule"]["prediction_type"] == "epsilon"
    assert description["model_card"] is None


def test_settings_and_card_in_the_folder(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    (folder / "latentcast.json").write_text('{"guidance_scale": 3.0}')
    (folder / "README.md").write_text("# A model\n")
    own = load_pipeline(str(folder), num_steps=4)
    assert own.guidance_scale == 3.0
    assert own.describe()["model_card"] == str(folder / "README.md")
    assert load_pipeline(folder, num_steps=4, guidance_scale=1.0).guidance_scale == 1.0
    (folder / "latentcast.json").write_text("three")
    with pytest.raises(ModelError, match="should read like"):
        load_pipeline(folder)


def test_other_schedules_keep_their_own_path(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linear"
    shutil.copytree(tiny_folder, folder)
    settings = folder / "scheduler" / "scheduler_config.json"
    changed = {
        **json.loads(settings.read_text()),
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
    }
    settings.write_text(json.dumps(changed))
    linear = load_pipeline(folder, num_steps=20)
    betas = np.linspace(0.00085, 0.012, 1000)
    abar = np.cumprod(1 - betas)[50 * np.arange(20) + 1]
    np.testing.assert_allclose(linear.path.alpha_bar, np.append(1.0, abar), rtol=1e-4)
    assert linear.path != NoisePath.stable_diffusion(20)
    assert linear.describe()["noise_schedule"]["prediction_type"] == "v_prediction"
    assert sum(1 for _ in linear.source.steps(["a"], [0])) == 21


@pytest.mark.parametrize("num_steps", [1, 7, 50, 333, 1000])
def test_any_number_of_steps_has_the_tables_path(num_steps: int) -> None:
    scheduler = ancestral_scheduler(
        diffusers.PNDMScheduler.from_config(STABLE_DIFFUSION_SCHEDULER), num_steps
    )
    scheduler.set_timesteps(num_steps)
    assert scheduler_path(scheduler) == NoisePath.stable_diffusion(num_steps)


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_bad_number_of_steps(tiny_folder: Path, num_steps: int) -> None:
    with pytest.raises(ParameterError, match="takes 1 to 1000"):
        load_pipeline(tiny_folder, num_steps=num_steps)


# The callback in a script that knows nothing of latentcast.


@pytest.fixture
def pipe(tiny_folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_callback_in_an_ordinary_script(pipe: Any) -> None:
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    steps: list[Step] = []
    pipe("red", num_inference_steps=5, callback_on_step_end=StepCallback(pipe, steps.append))
    assert [step.index for step in steps] == [4, 3, 2, 1, 0]
    assert all(step.sample.shape == (1, 4, 8, 8) for step in steps)
    # DDIM with eta = 0 takes x_(t+1) to a_t xhat0 + s_t eps: the last latent is the last estimate.
    path = scheduler_path(pipe.scheduler)
    for before, after in pairwise(steps):
        t = before.index
        eps = (before.sample - path.signal[t] * after.clean_estimate) / path.noise[t]
        expected = path.signal[t - 1] * after.clean_estimate + path.noise[t - 1] * eps
        if t > 1:  # Stable Diffusion's DDIM ends at alphas_cumprod[0], not at 1
            np.testing.assert_allclose(after.sample, expected, rtol=2e-3, atol=5e-3)


def test_any_script_becomes_progressive(pipe: Any) -> None:
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scenario = Scenario.for_latent(256, snr_db=10.0)
    noise = shared_noise(0, (4, 8, 8))
    receiver = Receiver(scenario.path, noise)

    # The lines that a script gains: a sender, a callback that feeds it, and a poll per slot.
    sender = Sender(scenario, PersistentPolicy(scenario, bits=8), noise, uplink_slots=1)
    callback = StepCallback(pipe, sender.offer)

    def after_step(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        result = callback(pipe, i, timestep, tensors)
        packet = sender.poll(slot=i + 3)
        assert packet is not None
        receiver.receive(packet)
        sender.delivered()
        return result

    latents = torch.from_numpy(noise[None])
    final = (
        pipe("red", latents=latents, output_type="latent", callback_on_step_end=after_step).images[0].numpy()
    )
    assert receiver.held_step == 0
    assert np.array_equal(receiver.latent, sender.reference)
    assert np.mean((receiver.latent - final) ** 2) < 1e-3 * np.mean(final**2)


def test_callback_follows_a_scheduler_that_redoes_a_step(pipe: Any) -> None:
    assert isinstance(pipe.scheduler, diffusers.PNDMScheduler)
    steps: list[Step] = []
    pipe("red", num_inference_steps=5, callback_on_step_end=StepCallback(pipe, steps.append))
    assert [step.index for step in steps] == [4, 4, 3, 2, 1, 0]
    assert all(np.isfinite(step.clean_estimate).all() for step in steps)
    assert scheduler_path(pipe.scheduler) == NoisePath.stable_diffusion(5)


def test_callback_belongs_to_the_next_listed_step(pipe: Any) -> None:
    # With the same scheduler as the source's, the callback sees what the source yields.
    pipe.scheduler = ancestral_scheduler(pipe.scheduler, 5)
    seen: list[tuple[int, int]] = []
    steps: list[Step] = []
    inner = StepCallback(pipe, steps.append)

    def spy(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((int(timestep), i))
        return inner(pipe, i, timestep, tensors)

    final = pipe("red", num_inference_steps=5, output_type="latent", callback_on_step_end=spy).images
    assert seen == [(801, 0), (601, 1), (401, 2), (201, 3), (1, 4)]
    assert [step.index for step in steps] == [4, 3, 2, 1, 0]
    assert np.array_equal(steps[-1].sample, final.numpy())
    np.testing.assert_allclose(steps[-1].sample, steps[-1].clean_estimate, rtol=1e-5, atol=1e-6)


class SilentScheduler(diffusers.DDIMScheduler):  # type: ignore[misc]
    """Keeps its clean estimates to itself, as PNDM and the DPM solvers do."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        output = super().step(model_output, timestep, sample, return_dict=True)
        output.pred_original_sample = None
        return output


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_estimates_of_schedulers_that_do_not_tell(pipe: Any, prediction_type: str) -> None:
    config = {**STABLE_DIFFUSION_SCHEDULER, "prediction_type": prediction_type}
    told: list[Step] = []
    computed: list[Step] = []
    for scheduler_class, seen in ((diffusers.DDIMScheduler, told), (SilentScheduler, computed)):
        pipe.scheduler = scheduler_class.from_config(config)
        callback = StepCallback(pipe, seen.append)
        pipe("red", 64, 64, 5, generator=torch.Generator().manual_seed(0), callback_on_step_end=callback)
    assert len(told) == 5
    for one, other in zip(told, computed, strict=True):
        np.testing.assert_allclose(one.clean_estimate, other.clean_estimate, rtol=1e-4, atol=1e-4)


def test_callback_refuses_other_units(pipe: Any) -> None:
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ModelError, match="EulerDiscreteScheduler does not keep latents at unit variance"):
        StepCallback(pipe, print)


# Names of models.


@pytest.mark.parametrize(
    "name", ["./missing", "/missing/model", "~/missing-model", "a/b/c", "runs\\model", "../up"]
)
def test_local_paths_are_never_looked_up(name: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        find_model(name)


def test_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        find_model(tmp_path / "missing")
    with pytest.raises(ModelError, match="unknown model 'sdxl'"):
        find_model("sdxl")
    with pytest.raises(ModelError, match=r"holds no model_index\.json"):
        find_model(tmp_path)
    assert find_model("owner/name") == "owner/name"


def test_broken_folder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}'
    )
    with pytest.raises(ModelError, match="cannot load the model in") as caught:
        load_pipeline(tmp_path)
    assert "\n" not in str(caught.value)


def test_device(tiny_folder: Path) -> None:
    with pytest.raises(ParameterError, match="unknown device 'warp'"):
        load_pipeline(tiny_folder, "warp")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="not available"):
            load_pipeline(tiny_folder, "cuda")
    with pytest.raises(ParameterError, match="guidance_scale"):
        load_pipeline(tiny_folder, guidance_scale=float("nan"))


def test_unreachable_hub() -> None:
    program = (
        "from latentcast.diffusion.pipeline import load_pipeline\n"
        "from latentcast.errors import ModelError\n"
        "try:\n    load_pipeline('nobody/nothing')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("cannot fetch nobody/nothing from the Hugging Face hub; check the name")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_missing_packages() -> None:
    program = (
        "import sys\nsys.modules['diffusers'] = None\n"
        "from latentcast.diffusion.pipeline import load_pipeline\n"
        "from latentcast.errors import ModelError\n"
        "try:\n    load_pipeline('nobody/nothing')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'latentcast[models]'" in result.stdout


def test_a_vae_without_a_scale_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.0}))
    with pytest.raises(ModelError, match=r"scaling_factor 0\.0; it must not be 0"):
        load_pipeline(folder)
