"""Shared fixtures: a tiny diffusers pipeline of Stable Diffusion v1-5's very classes, a headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from latentcast.codec.calibration import Calibration
from latentcast.diffusion.path import NoisePath

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# How long an example takes says more about the machine's load than about the code. The same commit gives the
# same verdict each time; `make test-slow` looks at other examples: --hypothesis-profile explore.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def second_per_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Start a clock on which every look of a training stage is a second later: it pauses after as many."""

    def start() -> None:
        clock = iter(range(1000))
        monkeypatch.setattr("latentcast.diffusion.scenes.course.time.monotonic", lambda: float(next(clock)))

    return start


# The scheduler configuration that Stable Diffusion v1-5 ships.
STABLE_DIFFUSION_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


def _tokenizer_files(folder: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "re",
        "red</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a StableDiffusionPipeline with latents of 4 x 8 x 8 and pictures of 64 x 64."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    files = tmp_path_factory.mktemp("tokenizer")
    _tokenizer_files(files)
    tokenizer = CLIPTokenizer.from_pretrained(files, model_max_length=16)
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler.from_config(STABLE_DIFFUSION_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    white = Calibration.white(NoisePath.stable_diffusion(50)).to_dict()
    (folder / "calibration.json").write_text(json.dumps(white), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from chromium import chromium  # tests without a browser do without its driver

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    """A page in which the web page's modules can be imported and run."""
    from chromium import serve_modules

    page = browser.new_page()
    serve_modules(page)
    return page
