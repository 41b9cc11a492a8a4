"""Training of the picture autoencoder: pixels to a latent of four channels and an eighth of the size.

The network is diffusers' `AutoencoderKL`, narrow and without attention, used without sampling. While
training, the latent is standardised per channel by batch statistics (so that a unit Gaussian fits it) and
noise is added to it (so that the decoder forgives what quantisation does to it). Afterwards the
standardisation is folded into the encoder's last convolution and nothing of it is left at run time.

Two more things shape the latent. A companion, a decoder as small as a device's, learns to read it, too, so
that it stays simple to decode; through so few layers the encoder also learns sooner. And now and then the
latent is shrunk and the picture with it: a latent whose small version shows the small picture is easier to
generate (T. Kouzelis et al., "EQ-VAE: Equivariance regularized latent space for improved generative image
modeling", 2025).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from latentcast.diffusion.scenes.course import Course, rate_scale
from latentcast.diffusion.scenes.dataset import both_ways
from latentcast.diffusion.scenes.descent import Descent
from latentcast.diffusion.scenes.distilled import CELL_PIXELS, LATENT_CHANNELS, DeviceDecoder
from latentcast.diffusion.scenes.fidelity import fidelity_loss
from latentcast.diffusion.scenes.kept import kept_array
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast_on_gpu, compiled
from latentcast.diffusion.scenes.progress import StageProgress

__all__ = ["build_autoencoder", "encode_both_ways", "encode_pictures", "refine_decoder", "train_autoencoder"]

_ENCODED_AT_ONCE = 500
_LATENT_NOISE = 0.08
_PEAK_BATCH, _PEAK_WIDTH = 8, 16
_WHOLE_SHARE = 0.1  # of the updates, the last ones: whole pictures, half as many
# So often latent and picture are made smaller, and as small as this at most.
_SHRUNK_SHARE, _SMALLEST_SIZE = 0.2, 0.5
_COMPANION_WEIGHT = 0.5
_LATE_SCALE = 0.5  # of the learning rates, where the decoder is trained on alone


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
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=picture_size,
        scaling_factor=1.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def _scale(plan: TrainingPlan) -> float:
    """Of learning rates, for the plan's sizes."""
    return rate_scale(plan.autoencoder_batch / _PEAK_BATCH, plan.autoencoder_widths[0] / _PEAK_WIDTH)


def _psnr_told(error: torch.Tensor) -> str:
    return f"PSNR {-10.0 * error.detach().square().mean((1, 2, 3)).log10().mean().item():.1f} dB"


def _shrunk(latent: torch.Tensor, target: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents made so many cells wide, and the pictures that they should show."""

    def resized(images: torch.Tensor, size: int) -> torch.Tensor:
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)

    factor = target.shape[-1] // latent.shape[-1]
    return resized(latent, cells), resized(target, factor * cells)


def train_autoencoder(
    pictures: npt.NDArray[np.uint8],
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: StageProgress,
    stop_at: float | None = None,
) -> AutoencoderKL:
    """Train on random crops, then on whole pictures for the last tenth.

    Args:
        pictures: uint8 (num, H, W, 3).
        folder: where the checkpoint lies; an interrupted run goes on from it.
        plan: widths, the companion's too, batch, updates, and the seed of weights, crops and noise.
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
    norm = torch.nn.BatchNorm2d(LATENT_CHANNELS, affine=False).to(device)
    companion = DeviceDecoder(plan.companion_widths, plan.companion_blocks).to(device)
    companion = cast(Any, companion).to(memory_format=torch.channels_last)
    companion_forward = compiled(companion.layers, device)
    descent = Descent(torch.nn.ModuleList([network, companion]), num_updates, scale=_scale(plan))
    state = {"network": network, "norm": norm, "companion": companion, **descent.optimisers}
    course = Course(folder / "autoencoder.pt", state, rng, num_updates, progress, stop_at)
    side = plan.picture_size // 2
    for update in course:
        whole = update >= (1.0 - _WHOLE_SHARE) * num_updates
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
        with autocast_on_gpu(device):
            latent = norm(encoder(target)[:, :LATENT_CHANNELS].float())
        latent = latent + _LATENT_NOISE * torch.randn_like(latent)
        if rng.random() < _SHRUNK_SHARE:
            cells = latent.shape[-1]
            latent, target = _shrunk(latent, target, int(rng.integers(round(_SMALLEST_SIZE * cells), cells)))
        with autocast_on_gpu(device):
            latent = latent.contiguous(memory_format=torch.channels_last)
            error = 0.5 * (decoder(latent).float() - target)
            companion_error = companion_forward(latent).float() - 0.5 * (target + 1.0)
        loss = fidelity_loss(error) + _COMPANION_WEIGHT * fidelity_loss(companion_error)
        descent.update(update, loss)
        course.note(loss.item(), _psnr_told(error))
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
        last.weight[:LATENT_CHANNELS].div_(std[:, None, None, None])
        last.bias[:LATENT_CHANNELS].sub_(mean).div_(std)
        # The posterior's log-variance, which was never trained: as good as none.
        last.weight[LATENT_CHANNELS:].zero_()
        last.bias[LATENT_CHANNELS:].fill_(-30.0)


def refine_decoder(
    network: AutoencoderKL,
    pictures: npt.NDArray[np.uint8],
    latents: npt.NDArray[np.float32],
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: StageProgress,
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
    descent = Descent(decoder, num_updates, scale=_LATE_SCALE * _scale(plan))
    state = {"decoder": decoder, **descent.optimisers}
    course = Course(folder / "decoder.pt", state, rng, num_updates, progress, stop_at)
    for update in course:
        batch = np.sort(rng.integers(len(pictures), size=batch_size))
        target = to_network(pictures[batch], device)
        latent = torch.tensor(latents[batch], device=device)
        noisy = latent + _LATENT_NOISE * rng.random() * torch.randn_like(latent)
        with autocast_on_gpu(device):
            error = 0.5 * (forward(noisy.contiguous(memory_format=torch.channels_last)).float() - target)
        loss = fidelity_loss(error)
        descent.update(update, loss)
        course.note(loss.item(), _psnr_told(error))
    decoder.eval()


@torch.no_grad()
def encode_pictures(
    network: AutoencoderKL, pictures: npt.NDArray[np.uint8], *, device: str = "cpu", batch_size: int = 50
) -> npt.NDArray[np.float32]:
    """Encode uint8 (num, H, W, 3) pictures to float32 (num, 4, H/8, W/8) latents."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        inputs = to_network(pictures[start : start + batch_size], device)
        parts.append(network.encoder(inputs)[:, :LATENT_CHANNELS].float().cpu())
    return torch.cat(parts).numpy()


def encode_both_ways(
    network: AutoencoderKL,
    pictures: npt.NDArray[np.uint8],
    work: Path,
    *,
    device: str,
    progress: StageProgress,
    stop_at: float | None = None,
) -> npt.NDArray[np.float32]:
    """Latents of all pictures, then of their mirror images; kept in a file for what comes later.

    Args:
        network: whose encoder is used.
        pictures: uint8 (num, H, W, 3).
        work: folder of the file; an interrupted run goes on there.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        float32 (2 num, 4, H/8, W/8).

    Raises:
        ModelError: if the file holds those of other pictures.
        PausedError: when the time is over.
    """
    num, height, width, _ = pictures.shape
    latents = kept_array(
        work / "latents.npy",
        (2 * num, LATENT_CHANNELS, height // CELL_PIXELS, width // CELL_PIXELS),
        np.float32,
        lambda start, stop: encode_pictures(
            network, both_ways(pictures, np.arange(start, stop)), device=device
        ),
        block=_ENCODED_AT_ONCE,
        progress=lambda done, total: progress(done, total, ""),
        stop_at=stop_at,
    )
    return np.array(latents)
