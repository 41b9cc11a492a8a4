"""Training of the picture autoencoder: 128 x 128 x 3 pixels to a latent of 4 x 16 x 16 and back.

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

from latentcast.diffusion.scenes.checkpoint import load_checkpoint, save_checkpoint
from latentcast.diffusion.scenes.pixels import to_network

__all__ = ["build_autoencoder", "encode_pictures", "refine_decoder", "train_autoencoder"]

_WIDTHS = (16, 32, 64, 96)
_LATENT_CHANNELS = 4
_LATENT_NOISE = 0.08
_CROP = 64
_BATCH_SIZE = 8
_PEAK_RATE = 2e-3


def build_autoencoder() -> AutoencoderKL:
    """Make the untrained network."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(_WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(_WIDTHS),
        block_out_channels=_WIDTHS,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
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


def _standing(loss: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> str:
    psnr_db = -10.0 * math.log10(F.mse_loss(output, target).item() / 4.0)
    return f"loss {loss.item():.4f}, PSNR {psnr_db:.1f} dB"


def train_autoencoder(
    pictures: npt.NDArray[np.uint8],
    folder: Path,
    *,
    seed: int,
    num_updates: int,
    device: str,
    progress: Callable[[int, int, str], None],
) -> AutoencoderKL:
    """Train on random crops, then on whole pictures for the last tenth.

    Args:
        pictures: uint8 (num, 128, 128, 3).
        folder: where the checkpoint lies; an interrupted run goes on from it.
        seed: of weights, crops and noise.
        num_updates: optimiser updates, eight crops of 64 x 64 each (or four whole pictures).
        device: "cpu" or "cuda".
        progress: called with (done, total, text).

    Returns:
        The trained network with the latent's standardisation folded in.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = build_autoencoder().to(device=device, memory_format=torch.channels_last)
    norm = torch.nn.BatchNorm2d(_LATENT_CHANNELS, affine=False).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    path = folder / "autoencoder.pt"
    state = {"network": network, "norm": norm, "optimiser": optimiser}
    done = load_checkpoint(path, state, rng)
    for update in range(done, num_updates):
        warm = min(1.0, (update + 1) / 100)
        rate = _PEAK_RATE * warm * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6
        for group in optimiser.param_groups:
            group["lr"] = rate
        whole = update >= 0.9 * num_updates
        batch = np.sort(rng.integers(len(pictures), size=4 if whole else _BATCH_SIZE))
        if whole:
            crop = pictures[batch]
        else:
            corner = rng.integers(pictures.shape[1] - _CROP + 1, size=(_BATCH_SIZE, 2))
            crop = np.stack(
                [pictures[i, y : y + _CROP, x : x + _CROP] for i, (y, x) in zip(batch, corner, strict=True)]
            )
        crop = crop[:, :, ::-1] if rng.random() < 0.5 else crop
        target = to_network(crop, device)
        with torch.autocast(device, dtype=torch.bfloat16):
            latent = norm(network.encoder(target)[:, :_LATENT_CHANNELS].float())
            noisy = latent + _LATENT_NOISE * torch.randn_like(latent)
            output = network.decoder(noisy).float()
            loss = (
                F.l1_loss(output, target)
                + 4.0 * F.mse_loss(output, target)
                + 0.5 * _gradient_loss(output, target)
            )
        _update(loss, network.parameters(), optimiser)
        if update % 50 == 0 or update + 1 == num_updates:
            progress(update + 1, num_updates, _standing(loss, output, target))
        if (update + 1) % 500 == 0 or update + 1 == num_updates:
            save_checkpoint(path, state, rng, update + 1)
    _fold_standardisation(network, pictures[:: max(1, len(pictures) // 1000)], device)
    return network.eval()


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
    *,
    seed: int,
    num_updates: int,
    device: str,
    progress: Callable[[int, int, str], None],
) -> None:
    """Train the decoder alone, on whole pictures and the latents that the fixed encoder made of them.

    Args:
        network: trained by `train_autoencoder`; its decoder is changed in place.
        pictures: uint8 (num, 128, 128, 3).
        latents: float32 (num, 4, 16, 16), of the same pictures.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        seed: of batches and noise.
        num_updates: optimiser updates of four whole pictures.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    decoder = network.decoder.train()
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    path = folder / "decoder.pt"
    state = {"decoder": decoder, "optimiser": optimiser}
    for update in range(load_checkpoint(path, state, rng), num_updates):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6
        batch = np.sort(rng.integers(len(pictures), size=4))
        target = to_network(pictures[batch], device)
        latent = torch.tensor(latents[batch], device=device)
        noisy = latent + _LATENT_NOISE * rng.random() * torch.randn_like(latent)
        with torch.autocast(device, dtype=torch.bfloat16):
            output = decoder(noisy.contiguous(memory_format=torch.channels_last)).float()
        loss = F.l1_loss(output, target) + 2.0 * F.mse_loss(output, target) + _gradient_loss(output, target)
        _update(loss, decoder.parameters(), optimiser)
        if update % 50 == 0 or update + 1 == num_updates:
            progress(update + 1, num_updates, _standing(loss, output, target))
        if (update + 1) % 500 == 0 or update + 1 == num_updates:
            save_checkpoint(path, state, rng, update + 1)
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
