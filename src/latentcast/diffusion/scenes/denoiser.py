"""Training of the text-conditional denoiser in the autoencoder's latent space.

The parts are the classes of Stable Diffusion, only smaller: `UNet2DConditionModel`, `CLIPTextModel`,
`CLIPTokenizer` with a vocabulary of whole words, and Stable Diffusion's noise schedule. The objective is
v-prediction, v = a_t eps - s_t x_0 (Salimans and Ho, 2022). Each noise level's error counts beside what is
usual at that level: most of the error at high noise nobody could avoid, and it would drown what can be
learned at the low noise where edges are decided. (So weigh Karras et al., "Analyzing and Improving the
Training Dynamics of Diffusion Models", 2024, who train a small network to tell what is usual.) The text
encoder comes schooled (`text.py`) and is trained on, slowly and without forgetting what it was taught.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from latentcast.diffusion.path import BETA_FIRST, BETA_LAST, NUM_TRAINING_STEPS
from latentcast.diffusion.scenes.captions import MENTION, describe
from latentcast.diffusion.scenes.course import Course, rate_scale, share_of_peak
from latentcast.diffusion.scenes.muon import Muon
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast, compiled
from latentcast.diffusion.scenes.progress import StageProgress
from latentcast.diffusion.scenes.scene import Scene
from latentcast.diffusion.scenes.text import COUNT_SHARES, TEXT_WIDTH, Readout, right_answers
from latentcast.diffusion.scenes.tokens import token_ids

__all__ = ["Denoiser", "build_denoiser", "build_scheduler", "train_denoiser"]

_CAPTION_DROPOUT = 0.1
_EMA_DECAY = 0.998
# Learning rates at this batch and width; those of the text encoder, which has learned already, are lower.
_PEAK_RATES = {"muon": 3e-3, "adamw": 8e-4, "text": 3e-4}
_PEAK_BATCH, _PEAK_WIDTH = 64, 96
_FALL_SHARE = 0.35  # of the updates: those in which the rates fall
_READOUT_WEIGHT = 0.02
# What is usual is the mean over so many ranges of steps, and over some hundred of their last latents.
_STEP_RANGES, _USUAL_DECAY = 32, 0.99


class Denoiser(torch.nn.Module):
    """The text encoder and the UNet, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(
        self, noisy: torch.Tensor, step: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict v from (batch, 4, h, w) noisy latents, (batch,) training steps, (batch, length) tokens.

        Returns:
            v, like the latents, and what the encoder makes of the tokens, (batch, length, width).
        """
        context = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, step, encoder_hidden_states=context).sample, context


class _UsualError(torch.nn.Module):
    """Running means of the squared error of v at every noise level, which a checkpoint keeps."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(_STEP_RANGES))

    def weights(self, errors: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Note (batch,) errors made at (batch,) steps, and tell their weights.

        Those are what is usual over all levels beside what is usual at the latent's own.
        """
        level = steps * _STEP_RANGES // NUM_TRAINING_STEPS
        # A product rather than a scattered sum, which on a GPU has no fixed order.
        members = F.one_hot(level, _STEP_RANGES).to(errors.dtype)
        seen, total = members.sum(0), errors.detach() @ members
        self.mean.lerp_(torch.where(seen > 0, total / seen.clamp(min=1), self.mean), 1.0 - _USUAL_DECAY)
        return self.mean.mean() / self.mean[level]


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule; the network predicts v."""
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAINING_STEPS,
        beta_start=BETA_FIRST,
        beta_end=BETA_LAST,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def build_denoiser(text_encoder: CLIPTextModel, latent_size: int, widths: tuple[int, ...]) -> Denoiser:
    """Make the network with an untrained UNet.

    Args:
        text_encoder: of `build_text_encoder`.
        latent_size: along each side.
        widths: channels at each resolution, finest first; all but the finest have attention.
    """
    unet = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(widths) - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (len(widths) - 1), "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return Denoiser(unet, text_encoder)


def train_denoiser(
    latents: npt.NDArray[np.float32],
    scenes: list[Scene],
    schooled: tuple[CLIPTextModel, Readout],
    tokenizer: CLIPTokenizer,
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: StageProgress,
    stop_at: float | None = None,
) -> Denoiser:
    """Train text encoder and UNet on cached latents.

    Args:
        latents: float32 (num, 4, h, w) of unit variance.
        scenes: what each latent shows; sentences are written anew each time.
        schooled: text encoder and readout of `train_text_encoder`.
        tokenizer: of `build_tokenizer`.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        plan: widths, batch, updates, and the seed of weights, noise, steps and sentences.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        The exponential moving average of the weights.

    Raises:
        PausedError: when its time is over.
    """
    torch.manual_seed(plan.seeds.denoiser)
    rng = np.random.default_rng(plan.seeds.denoiser)
    num_updates, batch_size = plan.denoiser_updates, plan.denoiser_batch
    text_encoder, readout = (copy.deepcopy(part).to(device) for part in schooled)
    model = build_denoiser(text_encoder, latents.shape[-1], plan.denoiser_widths).to(device)
    model = cast(Any, model).to(memory_format=torch.channels_last)
    if device == "cpu":
        # Explicit products and softmax: the fused attention kernel's backward pass is much slower there.
        model.unet.set_attn_processor(AttnProcessor())
    average = copy.deepcopy(model).requires_grad_(False)
    forward = compiled(model, device)
    optimisers = _optimisers(model, readout)
    alpha_bar = build_scheduler().alphas_cumprod.to(device)
    usual = _UsualError().to(device)
    state = {"model": model, "readout": readout, "average": average, "usual": usual, **optimisers}
    course = Course(folder / "denoiser.pt", state, rng, num_updates, progress, stop_at)
    scale = rate_scale(batch_size / _PEAK_BATCH, plan.denoiser_widths[0] / _PEAK_WIDTH)
    data = torch.from_numpy(latents).to(device)
    weights = _weights(scenes)
    for update in course:
        batch = rng.choice(len(data), batch_size, p=weights)
        told = [describe(scenes[i], rng, MENTION) for i in batch]
        silent = rng.random(batch_size) < _CAPTION_DROPOUT
        texts = ["" if unsaid else words.text for unsaid, words in zip(silent, told, strict=True)]
        tokens = token_ids(tokenizer, texts).to(device)
        right = right_answers([scenes[i] for i in batch], told).to(device)
        clean = data[torch.from_numpy(batch).to(device)].contiguous(memory_format=torch.channels_last)
        steps = torch.from_numpy(_draw_steps(batch_size, rng)).to(device)
        signal = alpha_bar[steps].sqrt()[:, None, None, None]
        noise_level = (1 - alpha_bar[steps]).sqrt()[:, None, None, None]
        noise = torch.randn_like(clean)
        with autocast(device):
            predicted, context = forward(signal * clean + noise_level * noise, steps, tokens)
            remembered = readout.loss(context, right)
        errors = (predicted.float() - (signal * noise - noise_level * clean)).square().mean((1, 2, 3))
        loss = (usual.weights(errors, steps) * errors).mean()
        (loss + _READOUT_WEIGHT * remembered).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *readout.parameters()], 1.0)
        share = share_of_peak(update, num_updates, _FALL_SHARE)
        for name, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = _PEAK_RATES[name] * scale * share
            with autocast(device):  # Muon's products
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        decay = min(_EMA_DECAY, (update + 1) / (update + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        course.note(errors.mean().item(), f"text {remembered.item():.3f}")
    return average.eval()


def _optimisers(model: Denoiser, readout: Readout) -> dict[str, torch.optim.Optimizer]:
    """Muon for the UNet's weights between features, AdamW for the rest of it and, slowly, for the text."""
    ends = ("conv_in.", "conv_out.", "time_embedding.")
    inner = [
        weight
        for name, weight in model.unet.named_parameters()
        if weight.dim() > 1 and not name.startswith(ends)
    ]
    chosen = {id(weight) for weight in inner}
    others = [weight for weight in model.unet.parameters() if id(weight) not in chosen]
    text = [*model.text_encoder.parameters(), *readout.parameters()]

    def adamw(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)

    return {"muon": Muon(inner, lr=0.0), "adamw": adamw(others), "text": adamw(text)}


def _weights(scenes: list[Scene]) -> npt.NDArray[np.float64]:
    """Probabilities of drawing each scene, by which each number of objects has its share."""
    counts = np.array([len(scene.objects) for scene in scenes])
    weights = np.array(COUNT_SHARES)[counts - 1] / np.bincount(counts, minlength=4)[counts]
    return np.asarray(weights / weights.sum())


def _draw_steps(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Training steps, one from each of as many strata: every batch sees all noise levels. In random order."""
    step = NUM_TRAINING_STEPS * (np.arange(count) + rng.random(count)) / count
    return rng.permutation(np.minimum(step, NUM_TRAINING_STEPS - 1).astype(np.int64))
