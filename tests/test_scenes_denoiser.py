"""The denoiser's training: what it sees how often, how errors are weighed, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.diffusion.scenes.dataset import draw_scenes
from latentcast.diffusion.scenes.denoiser import (
    _draw_steps,
    _UsualError,
    _weights,
    build_denoiser,
    train_denoiser,
)
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast, compiled
from latentcast.diffusion.scenes.text import COUNT_SHARES, Readout, build_text_encoder
from latentcast.diffusion.scenes.tokens import build_tokenizer
from latentcast.errors import PausedError


def test_the_denoiser_goes_on_where_it_was_interrupted(
    tmp_path: Path, second_per_update: Callable[[], None]
) -> None:
    plan = TrainingPlan(denoiser_widths=(16, 16), denoiser_updates=4, denoiser_batch=4)
    latents = np.random.default_rng(0).standard_normal((6, 4, 16, 16), np.float32)
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    torch.manual_seed(0)
    schooled = build_text_encoder(len(tokenizer)), Readout()

    def trained(folder: Path, stop_at: float | None) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        second_per_update()
        return train_denoiser(
            latents,
            draw_scenes(6, 3),
            schooled,
            tokenizer,
            folder,
            plan,
            device="cpu",
            progress=lambda *_: None,
            stop_at=stop_at,
        ).state_dict()

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(PausedError, match="stage denoiser has made 2 of 4 updates"):
        trained(tmp_path / "cut", 3.0)
    resumed = trained(tmp_path / "cut", None)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0.0, atol=0.0)


def test_the_denoiser_learns_more_of_scenes_of_several_objects() -> None:
    scenes = draw_scenes(60, 3)
    shares = np.bincount([len(scene.objects) for scene in scenes], _weights(scenes), minlength=4)
    assert shares[1:] == pytest.approx(COUNT_SHARES)


def test_every_batch_sees_all_noise_levels() -> None:
    steps = _draw_steps(64, np.random.default_rng(0))
    assert sorted(steps * 64 // 1000) == pytest.approx(np.arange(64), abs=1)
    assert steps.min() >= 0
    assert steps.max() <= 999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles on a GPU only")
def test_what_is_compiled_has_the_same_gradients() -> None:
    """A compiler that loses them trains to the end all the same, only badly: on a CPU it did."""
    torch.manual_seed(0)
    model = build_denoiser(build_text_encoder(50), 16, (32, 32)).to("cuda")
    noisy, steps = torch.randn(8, 4, 16, 16, device="cuda"), torch.arange(0, 800, 100, device="cuda")
    tokens = torch.randint(50, (8, 20), device="cuda")
    gradients = []
    for forward in (model, compiled(model, "cuda")):
        model.zero_grad()
        with autocast("cuda"):
            predicted, _ = forward(noisy, steps, tokens)
        predicted.float().square().mean().backward()
        gradients.append([weight.grad.flatten() for weight in model.unet.parameters()])
    similarity = [
        torch.cosine_similarity(plain, quick, dim=0).item() for plain, quick in zip(*gradients, strict=True)
    ]
    assert np.median(similarity) > 0.99


def test_no_noise_level_drowns_another() -> None:
    """Errors that differ from level to level a hundredfold are weighed alike, and their mean stays."""
    rng = np.random.default_rng(0)
    usual = _UsualError()
    early, late = [], []
    for update in range(1500):
        steps = torch.from_numpy(_draw_steps(64, rng))
        errors = torch.where(steps < 500, 0.01, 1.0) * torch.from_numpy(rng.exponential(size=64)).float()
        weighed = usual.weights(errors, steps) * errors
        if update >= 1000:  # the start is forgotten
            early.append(weighed[steps < 500].mean().item())
            late.append(weighed[steps >= 500].mean().item())
    # 500 means over 32 exponential errors each: a standard error below 1 %; the running means add 3 % once.
    assert np.mean(early) == pytest.approx(0.505, rel=0.06)
    assert np.mean(late) == pytest.approx(0.505, rel=0.06)
