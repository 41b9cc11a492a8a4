"""Training of the picture autoencoder: pixels to a latent of four channels and an eighth of the size.

The network is diffusers' `AutoencoderKL`, narrow and without attention, used without sampling. While
training, the latent is standardised per channel by batch statistics (so that a unit Gaussian fits it) and
noise is added to it (so that the decoder forgives what quantisation does to it). Afterwards the
standardisation is folded into the encoder's last convolution and nothing of it is left at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from latentcast.diffusion.scenes.course import Course
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast, compiled

__all__ = ["build_autoencoder", "encode_pictures", "refine_decoder", "train_autoencoder"]

_LATENT_CHANNELS = 4
_LATENT_NOISE = 0.08
_PEAK_RATE, _PEAK_BATCH, _PEAK_WIDTH = 2e-3, 8, 16
_LATE_RATE = 1e-3


def build_autoencoder(picture_size: int, widths: tuple[int, ...]) -> AutoencoderKL:
    """Make the untrained network.

    Args:
        picture_size: pixels along each side.
        widths: channels at each of four resolutions, finest first.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=picture_size,
        scaling_factor=1.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def _gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 distance of horizontal and vertical differences: it keeps edges sharp."""
    d = a - b
    return (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()


def _update(
    loss: torch.Tensor, parameters: Iterable[torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    """One step down the gradient, whose norm is held at 1 at most."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _standing(loss: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> tuple[float, str]:
    psnr_db = -10.0 * math.log10(F.mse_loss(output, target).item() / 4.0)
    return loss.item(), f"PSNR {psnr_db:.1f} dB"


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _scaled(rate: float, plan: TrainingPlan) -> float:
    """A learning rate for other sizes: larger batches take longer steps, wider networks shorter ones."""
    return rate * (plan.autoencoder_batch / _PEAK_BATCH) ** 0.25 * _PEAK_WIDTH / plan.autoencoder_widths[0]


def train_autoencoder(
    pictures: npt.NDArray[np.uint8],
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: Callable[[int, int, str], None],
    stop_at: float | None = None,
) -> AutoencoderKL:
    """Train on random crops, then on whole pictures for the last tenth.

    Args:
        pictures: uint8 (num, H, W, 3).
        folder: where the checkpoint lies; an interrupted run goes on from it.
        plan: widths, batch, updates, and the seed of weights, crops and noise.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        The trained network with the latent's standardisation folded in.

    Raises:
        PausedError: when its time is over.
    """
    torch.manual_seed(plan.seeds.autoencoder)
    rng = np.random.default_rng(plan.seeds.autoencoder)
    num_updates, batch_size = plan.autoencoder_updates, plan.autoencoder_batch
    network = build_autoencoder(plan.picture_size, plan.autoencoder_widths)
    network = network.to(device=device, memory_format=torch.channels_last)
    encoder, decoder = compiled(network.encoder, device), compiled(network.decoder, device)
    norm = torch.nn.BatchNorm2d(_LATENT_CHANNELS, affine=False).to(device)
    peak = _scaled(_PEAK_RATE, plan)
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    state = {"network": network, "norm": norm, "optimiser": optimiser}
    course = Course(folder / "autoencoder.pt", state, rng, num_updates, progress, stop_at)
    side = plan.picture_size // 2
    for update in course:
        warm = min(1.0, (update + 1) / 100)
        _set_rate(optimiser, peak * warm * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6)
        whole = update >= 0.9 * num_updates
        batch = np.sort(rng.integers(len(pictures), size=_half(batch_size) if whole else batch_size))
        if whole:
            crop = pictures[batch]
        else:
            corner = rng.integers(plan.picture_size - side + 1, size=(batch_size, 2))
            crop = np.stack(
                [pictures[i, y : y + side, x : x + side] for i, (y, x) in zip(batch, corner, strict=True)]
            )
        crop = crop[:, :, ::-1] if rng.random() < 0.5 else crop
        target = to_network(crop, device)
        with autocast(device):
            latent = norm(encoder(target)[:, :_LATENT_CHANNELS].float())
            noisy = latent + _LATENT_NOISE * torch.randn_like(latent)
            output = decoder(noisy).float()
            loss = (
                F.l1_loss(output, target)
                + 4.0 * F.mse_loss(output, target)
                + 0.5 * _gradient_loss(output, target)
            )
        _update(loss, network.parameters(), optimiser)
        course.note(*_standing(loss, output, target))
    _fold_standardisation(network, pictures[:: max(1, len(pictures) // 1000)], device)
    return network.eval()


def _half(batch_size: int) -> int:
    return max(1, batch_size // 2)


def _fold_standardisation(network: AutoencoderKL, pictures: npt.NDArray[np.uint8], device: str) -> None:
    """Scale and shift the encoder's last convolution so that each latent channel has mean 0, variance 1."""
    latents = torch.from_numpy(encode_pictures(network, pictures, device=device))
    mean, std = latents.mean(dim=(0, 2, 3)).to(device), latents.std(dim=(0, 2, 3)).to(device)
    last = network.encoder.conv_out
    with torch.no_grad():
        last.weight[:_LATENT_CHANNELS].div_(std[:, None, None, None])
        last.bias[:_LATENT_CHANNELS].sub_(mean).div_(std)
        # The posterior's log-variance, which was never trained: as good as none.
        last.weight[_LATENT_CHANNELS:].zero_()
        last.bias[_LATENT_CHANNELS:].fill_(-30.0)


def refine_decoder(
    network: AutoencoderKL,
    pictures: npt.NDArray[np.uint8],
    latents: npt.NDArray[np.float32],
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: Callable[[int, int, str], None],
    stop_at: float | None = None,
) -> None:
    """Train the decoder alone, on whole pictures and the latents that the fixed encoder made of them.

    Args:
        network: trained by `train_autoencoder`; its decoder is changed in place.
        pictures: uint8 (num, H, W, 3).
        latents: float32 (num, 4, H/8, W/8), of the same pictures.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        plan: batch, updates, and the seed of batches and noise.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Raises:
        PausedError: when its time is over.
    """
    torch.manual_seed(plan.seeds.decoder)
    rng = np.random.default_rng(plan.seeds.decoder)
    num_updates, batch_size = plan.decoder_updates, _half(plan.autoencoder_batch)
    decoder = network.decoder.train()
    forward = compiled(decoder, device)
    peak = _scaled(_LATE_RATE, plan)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    state = {"decoder": decoder, "optimiser": optimiser}
    course = Course(folder / "decoder.pt", state, rng, num_updates, progress, stop_at)
    for update in course:
        _set_rate(optimiser, peak * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6)
        batch = np.sort(rng.integers(len(pictures), size=batch_size))
        target = to_network(pictures[batch], device)
        latent = torch.tensor(latents[batch], device=device)
        noisy = latent + _LATENT_NOISE * rng.random() * torch.randn_like(latent)
        with autocast(device):
            output = forward(noisy.contiguous(memory_format=torch.channels_last)).float()
        loss = F.l1_loss(output, target) + 2.0 * F.mse_loss(output, target) + _gradient_loss(output, target)
        _update(loss, decoder.parameters(), optimiser)
        course.note(*_standing(loss, output, target))
    decoder.eval()


@torch.no_grad()
def encode_pictures(
    network: AutoencoderKL, pictures: npt.NDArray[np.uint8], *, device: str = "cpu", batch_size: int = 50
) -> npt.NDArray[np.float32]:
    """Encode uint8 (num, H, W, 3) pictures to float32 (num, 4, H/8, W/8) latents."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        inputs = to_network(pictures[start : start + batch_size], device)
        parts.append(network.encoder(inputs)[:, :_LATENT_CHANNELS].float().cpu())
    return torch.cat(parts).numpy()
