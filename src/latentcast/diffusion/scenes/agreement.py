"""How well the autoencoder and the device's decoder show held-out renders, clean and coded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.diffusion.scenes.card import psnr_db, write_section
from latentcast.diffusion.scenes.coded import Latents, LatentSpectrum
from latentcast.diffusion.scenes.distilled import DeviceDecoder
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.progress import StageProgress

__all__ = ["Agreement", "Quality", "measure_agreement", "write_agreement"]

Pictures = npt.NDArray[np.uint8]
Similarity = Callable[[Pictures, Pictures], npt.NDArray[np.float64]]
"""SSIM of two batches of pictures, one number a pair."""

WATER_LEVELS = (0.0, 0.01, 0.1)

_HEADING = "The device's decoder"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Both decoders at one coarseness of the latent, each as a mean over pictures.

    Attributes:
        latent_mse: Error of the latents per dimension, 0 for clean ones.
        autoencoder_psnr_db: Of the autoencoder's picture to the original render.
        autoencoder_ssim: The same as structural similarity.
        device_psnr_db: Of the device decoder's picture to the original render.
        device_ssim: The same as structural similarity.
    """

    latent_mse: float
    autoencoder_psnr_db: float
    autoencoder_ssim: float
    device_psnr_db: float
    device_ssim: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What was measured.

    Attributes:
        levels: From clean to coarse.
        num_pictures: Held-out renders.
        num_parameters: Of the device's decoder.
    """

    levels: tuple[Quality, ...]
    num_pictures: int
    num_parameters: int


def measure_agreement(
    model: DiffusersModel,
    decoder: DeviceDecoder,
    pictures: Pictures,
    latents: Latents,
    similarity: Similarity,
    *,
    seed: int,
    progress: StageProgress,
) -> Agreement:
    """Decode held-out renders' latents, clean and through ideal coding at several rates, with both decoders.

    Args:
        model: the embedded model.
        decoder: its distilled decoder.
        pictures: the renders, uint8 (num, 128, 128, 3).
        latents: the autoencoder's latents of them, float32 (num, 4, 16, 16).
        similarity: SSIM.
        seed: of the coding noise.
        progress: called with (done, total, text).
    """
    spectrum = LatentSpectrum.of(latents)
    rng = np.random.default_rng(seed)
    levels = []
    for number, level in enumerate(WATER_LEVELS):
        held = spectrum.coded(latents, np.full(len(latents), level), rng) if level > 0.0 else latents
        large, small = [], []
        for start in range(0, len(held), 50):
            some = held[start : start + 50]
            large.append(model.decode(some))
            small.append(_decoded(decoder, some))
            progress(number * len(held) + start + len(some), len(WATER_LEVELS) * len(held), "")
        by_large, by_small = np.concatenate(large), np.concatenate(small)
        levels.append(
            Quality(
                latent_mse=float(np.mean((held - latents) ** 2)),
                autoencoder_psnr_db=psnr_db(pictures, by_large),
                autoencoder_ssim=float(similarity(pictures, by_large).mean()),
                device_psnr_db=psnr_db(pictures, by_small),
                device_ssim=float(similarity(pictures, by_small).mean()),
            )
        )
    return Agreement(
        levels=tuple(levels),
        num_pictures=len(pictures),
        num_parameters=sum(parameter.numel() for parameter in decoder.parameters()),
    )


@torch.no_grad()
def _decoded(decoder: DeviceDecoder, latents: Latents) -> Pictures:
    device = next(decoder.parameters()).device
    levels = decoder(torch.from_numpy(latents).to(device)).mul(255.0).round().to(torch.uint8)
    pictures: Pictures = levels.permute(0, 2, 3, 1).cpu().numpy()
    return pictures


def write_agreement(folder: Path, agreement: Agreement, num_bytes: int, plan: TrainingPlan) -> None:
    """Write the section on the device's decoder into a model's card.

    Args:
        folder: the pipeline folder, with its README.md.
        agreement: what was measured.
        num_bytes: of the ONNX file.
        plan: how it was trained.
    """
    widths = ", ".join(map(str, plan.device_widths))
    blocks = ", ".join(map(str, plan.device_blocks))
    rows = "\n".join(
        f"| {quality.latent_mse:.4f} | {quality.autoencoder_psnr_db:.2f} | {quality.device_psnr_db:.2f} "
        f"| {quality.autoencoder_ssim:.3f} | {quality.device_ssim:.3f} |"
        for quality in agreement.levels
    )
    size = f"{agreement.num_parameters:,} parameters, {num_bytes / 1e6:.2f} MB"
    body = f"""`device_decoder.onnx` turns latents into pictures on a device: {size} of
convolutions. It was distilled from renders and from the autoencoder's pictures of generated latents, which it
saw as a device holds them: coded, or estimated early. On {agreement.num_pictures} held-out renders, to the
original picture, from latents that ideal coding left with this error per dimension:

| latent error | autoencoder, dB | device, dB | autoencoder, SSIM | device, SSIM |
| --- | --- | --- | --- | --- |
{rows}

Channels from the latent's resolution to the finest: {widths}; residual blocks: {blocks}.
Seed {plan.seeds.device_decoder}; {plan.device_updates} updates of {plan.device_batch} pictures:
{plan.num_pictures} renders, their mirror images, and {plan.device_generated} generated pictures.
"""
    write_section(folder, _HEADING, body)
