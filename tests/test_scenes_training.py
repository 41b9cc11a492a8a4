"""The training command, from nothing to a pipeline folder, on a plan of seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.autoencoder import encode_pictures, train_autoencoder
from latentcast.diffusion.scenes.captions import VOCABULARY
from latentcast.diffusion.scenes.checkpoint import load_checkpoint, save_checkpoint
from latentcast.diffusion.scenes.dataset import draw_scenes, mirrored, render_pictures
from latentcast.diffusion.scenes.denoiser import build_tokenizer
from latentcast.diffusion.scenes.judge import Judge, score
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.render import IMAGE_SIZE, render, visible_shares
from latentcast.diffusion.scenes.scene import COLOURS, Scene, SceneObject
from latentcast.diffusion.scenes.training import train
from latentcast.errors import ParameterError
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
        render_pictures(scenes, tmp_path / "cut.npy", 9, interrupt)
    assert not (tmp_path / "cut.npy").exists()
    calls: list[int] = []
    cut = render_pictures(scenes, tmp_path / "cut.npy", 9, lambda done, total: calls.append(done))
    assert calls == [70]  # the first 64 were not drawn again
    whole = render_pictures(scenes, tmp_path / "whole.npy", 9, lambda done, total: None)
    np.testing.assert_array_equal(cut, whole)


def test_a_checkpoint_restores_weights_and_random_streams(tmp_path: Path) -> None:
    layer, rng = torch.nn.Linear(3, 2), np.random.default_rng(1)
    save_checkpoint(tmp_path / "c.pt", {"layer": layer}, rng, 7)
    expected = rng.random(4), torch.rand(4)
    other, later = torch.nn.Linear(3, 2), np.random.default_rng(2)
    assert load_checkpoint(tmp_path / "c.pt", {"layer": other}, later) == 7
    np.testing.assert_array_equal(later.random(4), expected[0])
    assert torch.equal(torch.rand(4), expected[1])
    assert torch.equal(other.weight, layer.weight)


def test_every_word_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    for word in VOCABULARY:
        assert len(tokenizer.tokenize(word)) == 1
    tokens = tokenizer("a red sphere , behind").input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).split() == ["a", "red", "sphere", ",", "behind"]


def test_the_judge_counts_what_it_should() -> None:
    scenes = draw_scenes(30, seed=10)
    sizes = {"looks": 24, "count": 3, "floor": 3, "sky": 3, "relation": 5}

    class Oracle(Judge):
        """Answers every question of the first scenes rightly, and of the last ten that all is red spheres."""

        def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
            answers = {name: torch.zeros(len(pictures), size) for name, size in sizes.items()}
            for row in range(len(pictures)):
                scene = scenes[int(pictures[row, 0, 0, 0].mul(127.5).add(127.5).round())]
                truth = row < 20
                for thing in scene.objects:
                    colour = list(COLOURS).index(thing.colour) if truth else 0
                    shape = ("sphere", "cube", "cylinder").index(thing.shape) if truth else 0
                    answers["looks"][row, 3 * colour + shape] = 5.0
                answers["count"][row, len(scene.objects) - 1] = 5.0
                answers["floor"][row, ("plain", "checkered", "wooden").index(scene.floor)] = 5.0
                answers["sky"][row, ("day", "dusk", "night").index(scene.sky)] = 5.0
            return answers

    pictures = np.zeros((30, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    pictures[..., 0] = np.arange(30)[:, None, None]
    scores = score(Oracle(), pictures, scenes)
    assert scores.floor == scores.sky == 1.0
    for count in (1, 2, 3):
        rows = [i for i in range(30) if len(scenes[i].objects) == count]
        looks = [[(thing.colour, thing.shape) for thing in scenes[i].objects] for i in rows]
        expected = [i < 20 or look == [("red", "sphere")] for i, look in zip(rows, looks, strict=True)]
        assert scores.objects[count] == pytest.approx(np.mean(expected))


def test_training_makes_a_pipeline_folder_with_its_card(tmp_path: Path) -> None:
    plan = TrainingPlan(
        num_pictures=24,
        num_held_out=8,
        autoencoder_updates=4,
        denoiser_updates=2,
        decoder_updates=2,
        judge_updates=2,
        num_judged=1,
        device_pictures=16,
        device_generated=2,
        device_updates=2,
    )
    stages: list[str] = []
    findings = train(
        tmp_path / "model",
        device="cpu",
        similarity=ssim,
        plan=plan,
        progress=lambda stage, *_: stages.append(stage),
    )
    assert findings.reached.num_pictures == 3
    assert 5.0 < findings.autoencoder_psnr_db < 30.0
    assert list(dict.fromkeys(stages)) == [
        "render",
        "autoencoder",
        "latents",
        "denoiser",
        "decoder",
        "judge",
        "samples",
        "device-latents",
        "device-generated",
        "device-decoder",
        "device-measured",
    ]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| denoiser updates | 2 |" in card
    assert json.loads((tmp_path / "model" / "latentcast.json").read_text())["guidance_scale"] == 3.0
    model = load_pipeline(tmp_path / "model", num_steps=2)
    assert model.latent_shape == (4, 16, 16)
    *_, last = model.steps(["a red sphere"], [0])
    assert model.decode(last.sample).shape == (1, 128, 128, 3)


def test_a_trained_autoencoder_has_standardised_latents_and_no_posterior_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = np.stack([render(scene, rng) for scene in draw_scenes(12, seed=13)])
    network = train_autoencoder(
        pictures, tmp_path, seed=0, num_updates=3, device="cpu", progress=lambda *_: None
    )
    latents = encode_pictures(network, pictures)
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(latents.std(axis=(0, 2, 3)), 1.0, atol=1e-3)
    with torch.no_grad():
        drawn = network.encode(to_network(pictures, "cpu")).latent_dist.sample()
    np.testing.assert_allclose(drawn.numpy(), latents, atol=1e-4)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="unknown device 'abacus'"):
        train(tmp_path / "model", device="abacus", similarity=ssim, progress=lambda *_: None)


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(ParameterError, match="denoiser_updates is 0"):
        TrainingPlan(denoiser_updates=0)
