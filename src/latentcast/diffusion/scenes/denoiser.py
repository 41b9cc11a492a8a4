"""Training of the text-conditional denoiser in the autoencoder's latent space.

The parts are the classes of Stable Diffusion, only smaller: `UNet2DConditionModel`, `CLIPTextModel`,
`CLIPTokenizer` with a vocabulary of whole words, and Stable Diffusion's noise schedule. The objective is
v-prediction, v = a_t eps - s_t x_0 (Salimans and Ho, 2022), which weighs all noise levels sensibly without
further tuning.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latentcast.diffusion.path import BETA_FIRST, BETA_LAST, NUM_TRAINING_STEPS
from latentcast.diffusion.scenes.captions import VOCABULARY, caption
from latentcast.diffusion.scenes.course import Course
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast, compiled
from latentcast.diffusion.scenes.scene import Scene

__all__ = [
    "Denoiser",
    "build_denoiser",
    "build_scheduler",
    "build_tokenizer",
    "token_ids",
    "train_denoiser",
]

_TEXT_WIDTH = 128
_TEXT_LENGTH = 40
_EMA_DECAY = 0.9985
_CAPTION_DROPOUT = 0.1
_PEAK_RATE, _PEAK_BATCH, _PEAK_WIDTH = 8e-4, 64, 96


class Denoiser(torch.nn.Module):
    """The text encoder and the UNet, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: torch.Tensor, step: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predict v from (batch, 4, h, w) noisy latents, (batch,) training steps, (batch, length) tokens."""
        context = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, step, encoder_hidden_states=context).sample


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Make a CLIP tokenizer that has every word of the vocabulary as one token.

    Merges are learned from the words themselves until each is whole, so unknown words fall apart into letters
    but never fail.
    """
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.!?'-")
    byte_pair = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    byte_pair.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    byte_pair.train_from_iterator([" ".join(VOCABULARY)], trainer)
    merges = [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split())
        for pair in json.loads(byte_pair.to_str())["model"]["merges"]
    ]
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    words = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=_TEXT_LENGTH)


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


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """What the tokenizer makes of sentences in the vocabulary's words, much sooner, since each is one token.

    Args:
        tokenizer: of `build_tokenizer`.
        texts: sentences with a space between any two words.

    Returns:
        int64 (num, length), padded.
    """
    known = tokenizer.get_vocab()
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = np.full((len(texts), _TEXT_LENGTH), tokenizer.pad_token_id, np.int64)
    for row, text in zip(ids, texts, strict=True):
        words = [first, *(known[f"{word}</w>"] for word in text.split()), last]
        row[: len(words)] = words
    return torch.from_numpy(ids)


def build_denoiser(vocabulary_size: int, latent_size: int, widths: tuple[int, ...]) -> Denoiser:
    """Make the untrained network.

    Args:
        vocabulary_size: of the tokenizer.
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
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=_TEXT_LENGTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )
    return Denoiser(unet, text_encoder)


def train_denoiser(
    latents: npt.NDArray[np.float32],
    scenes: list[Scene],
    tokenizer: CLIPTokenizer,
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: Callable[[int, int, str], None],
    stop_at: float | None = None,
) -> Denoiser:
    """Train text encoder and UNet on cached latents.

    Args:
        latents: float32 (num, 4, h, w) of unit variance.
        scenes: what each latent shows; sentences are written anew each time.
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
    model = build_denoiser(len(tokenizer), latents.shape[-1], plan.denoiser_widths).to(device)
    model = cast(Any, model).to(memory_format=torch.channels_last)
    if device == "cpu":
        # Explicit products and softmax: the fused attention kernel's backward pass is much slower there.
        model.unet.set_attn_processor(AttnProcessor())
    average = copy.deepcopy(model).requires_grad_(False)
    # Larger batches take longer steps, wider networks shorter ones.
    peak = _PEAK_RATE * (batch_size / _PEAK_BATCH) ** 0.25 * _PEAK_WIDTH / plan.denoiser_widths[0]
    forward = compiled(model, device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    alpha_bar = build_scheduler().alphas_cumprod.to(device)
    state = {"model": model, "average": average, "optimiser": optimiser}
    course = Course(folder / "denoiser.pt", state, rng, num_updates, progress, stop_at)
    data = torch.from_numpy(latents).to(device)
    for update in course:
        warm = min(1.0, (update + 1) / 200)
        # Constant, then falling to nothing over the last third: the run can still be lengthened till then.
        rate = peak * warm * min(1.0, (num_updates - update) / (0.35 * num_updates))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = rng.integers(len(data), size=batch_size)
        texts = ["" if rng.random() < _CAPTION_DROPOUT else caption(scenes[i], rng) for i in batch]
        tokens = token_ids(tokenizer, texts).to(device)
        clean = data[torch.from_numpy(batch).to(device)].contiguous(memory_format=torch.channels_last)
        # One step from each of as many strata as the batch is large: every batch sees all noise levels.
        step = ((np.arange(batch_size) + rng.random(batch_size)) * NUM_TRAINING_STEPS / batch_size).astype(
            np.int64
        )
        steps = torch.from_numpy(rng.permutation(step)).to(device)
        signal = alpha_bar[steps].sqrt()[:, None, None, None]
        noise_level = (1 - alpha_bar[steps]).sqrt()[:, None, None, None]
        noise = torch.randn_like(clean)
        with autocast(device):
            predicted = forward(signal * clean + noise_level * noise, steps, tokens)
        loss = F.mse_loss(predicted.float(), signal * noise - noise_level * clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(_EMA_DECAY, (update + 1) / (update + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        course.note(loss.item())
    return average.eval()
