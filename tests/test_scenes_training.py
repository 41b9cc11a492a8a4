"""The training command, from nothing to a pipeline folder, on a plan of seconds."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.autoencoder import (
    _shrunk,
    build_autoencoder,
    encode_both_ways,
    encode_pictures,
    train_autoencoder,
)
from latentcast.diffusion.scenes.captions import VOCABULARY
from latentcast.diffusion.scenes.card import Findings, write_section
from latentcast.diffusion.scenes.composition import HELD_OUT_LOOKS, composition_of, has_any
from latentcast.diffusion.scenes.dataset import draw_scenes, mirrored, render_pictures
from latentcast.diffusion.scenes.denoiser import build_denoiser
from latentcast.diffusion.scenes.denoiser_training import retrain_denoiser
from latentcast.diffusion.scenes.device_training import train_device_decoder
from latentcast.diffusion.scenes.fidelity import fidelity_loss
from latentcast.diffusion.scenes.floors import floor_pattern, mean_of_bars, mean_of_stripes
from latentcast.diffusion.scenes.judge import train_judge
from latentcast.diffusion.scenes.judging import judge_model
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.plan import GPU_PLAN, TrainingPlan
from latentcast.diffusion.scenes.render import IMAGE_SIZE, object_map, render, visible_shares
from latentcast.diffusion.scenes.sampling import draw_prompts
from latentcast.diffusion.scenes.scene import COLOURS, Scene, SceneObject
from latentcast.diffusion.scenes.text import build_text_encoder
from latentcast.diffusion.scenes.tokens import build_tokenizer, token_ids
from latentcast.diffusion.scenes.training import train
from latentcast.diffusion.scenes.training_record import recorded_plan
from latentcast.errors import ModelError, ParameterError, PausedError
from latentcast.study.metrics.ssim import ssim


def test_an_object_shows_where_it_stands_in_its_colour() -> None:
    left = SceneObject(shape="sphere", colour="red", x=-1.0, z=0.0, radius=0.5)
    right = SceneObject(shape="cube", colour="green", x=1.0, z=0.0, radius=0.5, yaw_rad=0.6)
    picture = render(Scene(objects=(left, right), floor="plain", sky="day"), np.random.default_rng(0)).astype(
        int
    )
    assert picture.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    red = (picture[..., 0] > 1.5 * picture[..., 1]) & (picture[..., 0] > 1.5 * picture[..., 2])
    green = (picture[..., 1] > 1.3 * picture[..., 0]) & (picture[..., 1] > 1.3 * picture[..., 2])
    middle = IMAGE_SIZE // 2
    assert red[:, :middle].sum() > 200
    assert red[:, middle:].sum() < 20
    assert green[:, middle:].sum() > 200
    assert green[:, :middle].sum() < 20


def test_patterns_are_means_over_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    for u, width in zip(rng.uniform(-5.0, 5.0, 50), 10.0 ** rng.uniform(-2.0, 1.0, 50), strict=True):
        inside = u + width * ((np.arange(20000) + 0.5) / 20000 - 0.5)
        stripes = np.mean(1.0 - 2.0 * (np.floor(inside) % 2.0))
        # The sum is exact but for the cells in which the pattern changes.
        tolerance = 2.0 * (width + 2.0) / 20000
        assert abs(mean_of_stripes(u, width) - stripes) <= tolerance
        assert abs(mean_of_bars(u, width, 0.05) - np.mean(inside - np.floor(inside) < 0.05)) <= tolerance


@pytest.mark.parametrize("kind", [1, 2])
def test_a_low_ray_sees_a_long_stretch_of_the_floor(kind: int) -> None:
    """The pattern at one point of a wide ray is the mean of what thin rays see across its footprint."""
    spread, direction = 0.3, (0.0, -0.2, np.sqrt(1.0 - 0.2**2))  # away from the camera
    across = spread * ((np.arange(80) + 0.5) / 80 - 0.5)
    along = spread / 0.2 * ((np.arange(240) + 0.5) / 240 - 0.5)
    for x, z in np.random.default_rng(0).uniform(-20.0, 20.0, (20, 2)):
        for cosine, sine in ((1.0, 0.0), (0.0, 1.0)):
            mix, factor = floor_pattern(kind, cosine, sine, x, z, *direction, spread)
            thin = np.array(
                [
                    floor_pattern(kind, cosine, sine, x + a, z + b, *direction, 1e-4)
                    for a in across
                    for b in along
                ]
            )
            assert mix == pytest.approx(thin[:, 0].mean(), abs=0.01)
            # The grain's fading is a formula, not an integral; the seams' mean is exact.
            assert factor == pytest.approx(thin[:, 1].mean(), abs=0.03)


def test_glossy_mirrors_more_than_matte() -> None:
    near = SceneObject(shape="cube", colour="yellow", x=1.0, z=0.1, radius=0.5, yaw_rad=0.8)

    def reddening(finish: str) -> float:
        """How much a blue sphere reflects of a yellow cube beside it: how its red channel rises."""
        thing = SceneObject(shape="sphere", colour="blue", x=-0.3, z=0.0, radius=0.6, finish=finish)
        scene = Scene(objects=(thing,), floor="plain", sky="day", light_azimuth_rad=-0.8)
        beside = replace(scene, objects=(thing, near))
        alone, both = (render(each, np.random.default_rng(0)).astype(float) for each in (scene, beside))
        # Not the largest: pixels of the outline show the cube itself.
        return float(np.quantile((both - alone)[object_map(beside, IMAGE_SIZE) == 0][:, 0], 0.98))

    assert reddening("glossy") > 2.0 * reddening("matte")


def test_a_hidden_object_is_known_to_be_hidden() -> None:
    front = SceneObject(shape="cube", colour="red", x=0.0, z=-1.0, radius=0.6)
    back = SceneObject(shape="sphere", colour="blue", x=0.0, z=1.0, radius=0.4)
    shares = visible_shares(Scene(objects=(front, back), floor="plain", sky="day"))
    assert shares[0] == 1.0
    assert shares[1] < 0.3
    outside = SceneObject(shape="sphere", colour="blue", x=2.4, z=0.0, radius=0.5)
    assert visible_shares(Scene(objects=(outside,), floor="plain", sky="day")) == [0.0]


def test_scene_i_does_not_depend_on_how_many_follow() -> None:
    assert draw_scenes(3, seed=5) == draw_scenes(8, seed=5)[:3]
    assert all(min(visible_shares(scene)) >= 0.6 for scene in draw_scenes(8, seed=6))


def test_mirroring_exchanges_left_and_right() -> None:
    for scene in draw_scenes(20, seed=7):
        turned = mirrored(scene)
        assert mirrored(turned) == scene
        if len(scene.objects) > 1:
            swap = {"left of": "right of", "right of": "left of"}
            assert turned.relations(0, 1) == tuple(swap.get(r, r) for r in scene.relations(0, 1))


def test_rendering_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    scenes = draw_scenes(70, seed=8)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_pictures(scenes, tmp_path / "cut.npy", 9, interrupt, 32)
    assert not (tmp_path / "cut.npy").exists()
    calls: list[int] = []
    cut = render_pictures(scenes, tmp_path / "cut.npy", 9, lambda done, total: calls.append(done), 32)
    assert calls == [70]  # the first 64 were not drawn again
    whole = render_pictures(scenes, tmp_path / "whole.npy", 9, lambda done, total: None, 32)
    np.testing.assert_array_equal(cut, whole)
    some = render_pictures(scenes, tmp_path / "some.npy", 9, lambda done, total: None, 32, enough=5)
    np.testing.assert_array_equal(some, whole[:5])
    calls.clear()
    render_pictures(scenes, tmp_path / "some.npy", 9, lambda done, total: calls.append(done), 32)
    assert calls == [70]  # the first block was there
    with pytest.raises(ModelError, match=r"whole\.npy is uint8 of shape \(70, 32, 32, 3\), not"):
        render_pictures(scenes[:9], tmp_path / "whole.npy", 9, lambda done, total: None, 32)


def test_latents_of_other_pictures_are_refused(tmp_path: Path) -> None:
    network = build_autoencoder(128, (8, 8, 8, 8))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)

    def latents(some: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return encode_both_ways(network, some, tmp_path, device="cpu", progress=lambda *_: None)

    both = latents(pictures)
    np.testing.assert_allclose(both[4:5], encode_pictures(network, pictures[1:2, :, ::-1]), atol=1e-5)
    np.testing.assert_array_equal(latents(pictures), both)
    with pytest.raises(ModelError, match=r"latents\.npy is float32 of shape \(6, 4, 4, 4\).*remove it"):
        latents(pictures[:2])


def test_every_word_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    for word in VOCABULARY:
        assert len(tokenizer.tokenize(word)) == 1
    tokens = tokenizer("a red sphere , behind").input_ids
    texts = ["", "a red sphere , behind", " ".join(VOCABULARY[:12])]
    slowly = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(token_ids(tokenizer, texts), slowly)
    assert tokenizer.decode(tokens, skip_special_tokens=True).split() == ["a", "red", "sphere", ",", "behind"]


# Everything there is, as little of it as works.
TINY: dict[str, Any] = {
    "num_pictures": 6,
    "num_held_out": 4,
    "autoencoder_widths": (8, 8, 8, 8),
    "autoencoder_updates": 2,
    "autoencoder_batch": 2,
    "text_updates": 1,
    "text_batch": 2,
    "denoiser_updates": 1,
    "denoiser_batch": 2,
    "decoder_updates": 1,
    "judge_updates": 2,
    "judge_batch": 2,
    "num_judged": 1,
    "num_at_once": 3,
    "device_widths": (8, 8, 8),
    "device_blocks": (1, 0, 0),
    "device_generated": 2,
    "device_updates": 1,
    "device_batch": 4,
}


@pytest.mark.parametrize(
    "plan",
    [
        TrainingPlan(**TINY, denoiser_widths=(16, 16)),
        replace(GPU_PLAN, **TINY, denoiser_widths=(16, 16, 16), held_out_looks=()),
    ],
    ids=["128-split", "256-no-split"],
)
def test_training_in_pieces_makes_a_pipeline_folder_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: TrainingPlan
) -> None:
    monkeypatch.setattr("latentcast.diffusion.scenes.judging.NUM_STEPS", 2)
    monkeypatch.setattr("latentcast.diffusion.scenes.device_training.NUM_STEPS", 2)
    stages: list[str] = []

    def piece(stop_at: float | None) -> Findings:
        return train(
            tmp_path / "model",
            device="cpu",
            similarity=ssim,
            plan=plan,
            progress=lambda stage, *_: stages.append(stage),
            stop_at=stop_at,
        )

    # A piece without time renders one block; the second gets no further than the first update.
    for paused_in in ("pictures.npy has 6 of 6 items", "stage autoencoder"):
        with pytest.raises(PausedError, match=paused_in):
            piece(0.0)
    # A former model's, which has no such stage any more.
    former = tmp_path / "model" / "losses" / "former.png"
    former.parent.mkdir(parents=True)
    former.touch()
    findings = piece(None)
    assert not former.exists()
    assert list(dict.fromkeys(stages)) == [
        "render",
        "autoencoder",
        "latents",
        "text",
        "denoiser",
        "decoder",
        "judge",
        "samples",
        "device-generated",
        "device-decoder",
        "device-measured",
    ]
    kinds = ["seen", "held-out"] if plan.held_out_looks else ["seen"]
    assert list(findings.judged) == kinds
    assert all(judged.scores.num_pictures == 3 for judged in findings.judged.values())
    assert 3.0 < findings.autoencoder_psnr_db < 30.0
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{plan.picture_size} x {plan.picture_size} pixels" in card
    assert ("the denoiser never saw orange cylinder" in card) == bool(plan.held_out_looks)
    assert ("trained on all 24 compositions" in card) == (not plan.held_out_looks)
    assert "## The device's decoder" in card
    assert "finest: 8, 8, 8; residual blocks: 1, 0, 0." in card
    assert not re.search(r"^\| (seed of )?device ", card, re.MULTILINE)
    assert {"samples.jpg", "losses", "training.json", "device_decoder.onnx"} <= {
        file.name for file in (tmp_path / "model").iterdir()
    }
    model = load_pipeline(tmp_path / "model", num_steps=2)
    latent_size = plan.picture_size // 8
    assert model.latent_shape == (4, latent_size, latent_size)
    *_, last = model.steps(["a red sphere"], [0])
    assert model.decode(last.sample).shape == (1, plan.picture_size, plan.picture_size, 3)
    with pytest.raises(ModelError, match="begun with another plan"):
        train(
            tmp_path / "model",
            device="cpu",
            similarity=ssim,
            plan=replace(plan, denoiser_updates=7),
            progress=lambda *_: None,
        )
    # Judged again, the card keeps what other commands measured.
    again = judge_model(
        tmp_path / "model",
        device="cpu",
        similarity=ssim,
        progress=lambda *_: None,
        work=tmp_path / "model.work",
    )
    assert again == findings
    assert (tmp_path / "model" / "README.md").read_text().count("## The device's decoder\n") == 1
    retrained_alone(tmp_path / "model", tmp_path / "other.work", replace(plan, denoiser_updates=2))
    distilled_alone(tmp_path / "model", tmp_path / "model.work")


def retrained_alone(folder: Path, work: Path, plan: TrainingPlan) -> None:
    """Train text encoder and UNet of a folder anew: what was measured of the old goes, all else stays."""
    old = {file: file.read_bytes() for file in folder.rglob("*") if file.suffix in (".safetensors", ".onnx")}
    write_section(folder, "Fit to the theory", "Of the old weights.")
    (folder / "calibration.json").write_text("{}")
    retrain_denoiser(folder, device="cpu", similarity=ssim, progress=lambda *_: None, work=work, plan=plan)
    changed = {
        file.relative_to(folder).parts[0] for file, content in old.items() if file.read_bytes() != content
    }
    assert changed == {"unet", "text_encoder"}
    # The new work folder has no curves of the stages that were not run.
    curves = {file.stem for file in (folder / "losses").iterdir()}
    assert curves == {"autoencoder", "decoder", "denoiser", "device-decoder", "judge", "text"}
    card = (folder / "README.md").read_text()
    assert all(f"![Loss of {stage}](losses/{stage}.png)" in card for stage in curves)
    assert not (folder / "calibration.json").exists()
    assert "Of the old weights." not in card
    assert "## The device's decoder" in card
    assert "| denoiser updates | 2 |" in card
    assert recorded_plan(folder) == plan


def distilled_alone(folder: Path, work: Path) -> None:
    """Make the device's decoder anew: nothing else changes but what is said of it."""
    own = TrainingPlan(
        num_pictures=99, device_widths=(16, 8), device_blocks=(1, 1), device_generated=2, device_updates=2
    )

    def distilled() -> None:
        train_device_decoder(
            folder, device="cpu", similarity=ssim, progress=lambda *_: None, work=work, plan=own
        )

    # The work folder has a checkpoint of the decoder that was made before.
    with pytest.raises(ModelError, match=r"device-decoder\.pt is no checkpoint of what is trained now"):
        distilled()
    (work / "device-decoder.pt").unlink()
    old = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    plan, findings = recorded_plan(folder), json.loads((folder / "training.json").read_text())["findings"]
    distilled()
    changed = {file.name for file, content in old.items() if file.read_bytes() != content}
    assert changed == {"device_decoder.onnx", "device_decoder.safetensors", "README.md", "training.json"}
    assert recorded_plan(folder) == plan.with_stage(own, "device-decoder") != plan
    assert json.loads((folder / "training.json").read_text())["findings"] == findings
    assert "finest: 16, 8; residual blocks: 1, 1." in (folder / "README.md").read_text()


def test_the_denoiser_never_sees_what_is_held_out() -> None:
    scenes = draw_scenes(40, seed=3)
    looks = {look for scene in scenes if not has_any(scene, HELD_OUT_LOOKS) for look in composition_of(scene)}
    assert looks.isdisjoint(HELD_OUT_LOOKS)
    assert {look.split()[0] for look in looks} == set(COLOURS)
    assert {look.split()[1] for look in looks} == {"sphere", "cube", "cylinder"}
    for new in (False, True):
        prompts = draw_prompts(2, 6, held_out_looks=HELD_OUT_LOOKS, new=new)
        assert [has_any(prompt.scene, HELD_OUT_LOOKS) for prompt in prompts] == [new] * 6
        assert draw_prompts(1, 6, held_out_looks=HELD_OUT_LOOKS, new=new) == prompts[:3]


def test_what_is_interrupted_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    scenes = draw_scenes(8, seed=4)
    pictures = np.stack([render(scene, np.random.default_rng(0)) for scene in scenes])

    def judged(name: str, fail_at: int | None) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        clock = iter(range(1000))

        def told(done: int, total: int, text: str) -> None:
            pass

        with pytest.MonkeyPatch.context() as patch:
            # Every look at the clock is a second: the stage pauses after as many updates.
            patch.setattr("latentcast.diffusion.scenes.course.time.monotonic", lambda: float(next(clock)))
            return train_judge(
                pictures,
                scenes,
                folder,
                seed=1,
                num_updates=4,
                batch_size=4,
                device="cpu",
                progress=told,
                stop_at=fail_at,
            ).state_dict()

    whole = judged("whole", None)
    with pytest.raises(PausedError, match="has made 2 of 4 updates"):
        judged("cut", 3)
    for name, tensor in judged("cut", None).items():
        torch.testing.assert_close(tensor, whole[name], rtol=0.0, atol=0.0)


def test_a_trained_autoencoder_has_standardised_latents_and_no_posterior_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = np.stack([render(scene, rng) for scene in draw_scenes(12, seed=13)])
    plan = TrainingPlan(autoencoder_widths=(8, 8, 8, 8), autoencoder_updates=3)
    network = train_autoencoder(pictures, tmp_path, plan, device="cpu", progress=lambda *_: None)
    latents = encode_pictures(network, pictures)
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(latents.std(axis=(0, 2, 3)), 1.0, atol=1e-3)
    with torch.no_grad():
        drawn = network.encode(to_network(pictures, "cpu")).latent_dist.sample()
    np.testing.assert_allclose(drawn.numpy(), latents, atol=1e-4)


@pytest.fixture
def few_pictures() -> npt.NDArray[np.uint8]:
    return np.stack([render(scene, np.random.default_rng(0)) for scene in draw_scenes(4, seed=14)])


SMALL_PLAN = TrainingPlan(
    autoencoder_widths=(8, 8, 8, 8), autoencoder_updates=4, companion_widths=(8, 8), companion_blocks=(1, 1)
)


def test_the_encoder_learns_from_its_companion(
    few_pictures: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a limit on the norm of both gradients together, nothing else of the companion reaches the rest.
    monkeypatch.setattr("latentcast.diffusion.scenes.descent._LARGEST_GRADIENT", float("inf"))

    def trained(weight: float) -> torch.Tensor:
        monkeypatch.setattr("latentcast.diffusion.scenes.autoencoder._COMPANION_WEIGHT", weight)
        folder = tmp_path / f"{weight}"
        folder.mkdir()
        network = train_autoencoder(few_pictures, folder, SMALL_PLAN, device="cpu", progress=lambda *_: None)
        weight_in: torch.Tensor = network.encoder.conv_in.weight
        return weight_in

    assert not torch.equal(trained(0.0), trained(0.5))


def test_the_autoencoder_goes_on_where_it_was_interrupted(
    few_pictures: npt.NDArray[np.uint8], tmp_path: Path, second_per_update: Callable[[], None]
) -> None:
    def trained(folder: Path, stop_at: float | None) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        second_per_update()
        network = train_autoencoder(
            few_pictures, folder, SMALL_PLAN, device="cpu", progress=lambda *_: None, stop_at=stop_at
        )
        kept = torch.load(folder / "autoencoder.pt", weights_only=False)
        return {**network.state_dict(), **kept["companion"]}

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(PausedError, match="has made 2 of 4 updates"):
        trained(tmp_path / "cut", 3.0)
    resumed = trained(tmp_path / "cut", None)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0.0, atol=0.0)


def test_what_is_worse_at_edges_is_worse() -> None:
    flat = torch.full((1, 3, 8, 8), 0.1)
    rough = flat * (-1.0) ** torch.arange(8)
    assert fidelity_loss(rough) > fidelity_loss(flat) + 0.25
    # Both logarithms fall where the error is far above what counts as perfect: half the error is 6 dB of the
    # one and 3 dB of the other, which weighs a quarter.
    fall = fidelity_loss(8.0 * rough) - fidelity_loss(4.0 * rough)
    assert float(fall) == pytest.approx(2.25 * np.log(2.0), rel=0.02)


def test_a_shrunk_latent_should_show_the_shrunk_picture() -> None:
    """A ramp stays a ramp when it is made smaller, and every cell stays over its own pixels."""
    ramp = torch.linspace(-1.0, 1.0, 128 + 1).unfold(0, 2, 1).mean(-1).expand(2, 3, 128, 128)
    latent = torch.linspace(-1.0, 1.0, 16 + 1).unfold(0, 2, 1).mean(-1).expand(2, 4, 16, 16)
    cells, pixels = _shrunk(latent, ramp, 10)
    assert cells.shape == (2, 4, 10, 10)
    assert pixels.shape == (2, 3, 80, 80)
    over = pixels[:, :1].unfold(3, 8, 8).mean(-1)[..., ::8, :]
    # Half a pixel of the small picture. Next to the border the filter has nothing to its other side.
    torch.testing.assert_close(over[..., 1:-1], cells[:, :1, :, 1:-1], atol=0.0125, rtol=0.0)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="unknown device 'abacus'"):
        train(tmp_path / "model", device="abacus", similarity=ssim, progress=lambda *_: None)


def test_what_a_gpu_trains_is_small_enough_to_ship() -> None:
    with torch.device("meta"):
        parts = [
            build_denoiser(build_text_encoder(100), GPU_PLAN.picture_size // 8, GPU_PLAN.denoiser_widths),
            build_autoencoder(GPU_PLAN.picture_size, GPU_PLAN.autoencoder_widths),
        ]
    num_bytes = 2 * sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert num_bytes < 39e6  # of 40 MB: the rest is pictures, calibration, and the device's decoder
