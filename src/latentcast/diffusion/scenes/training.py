"""`latentcast model train scenes`: from nothing to an ordinary diffusers pipeline folder with its model card.

The stages: render, autoencoder, latents, text, denoiser, decoder, judge, samples, device-decoder. Each leaves
its result in the work folder, and an interrupted run, or one that was given only some minutes, goes on from
the last checkpoint of the stage it was in.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from latentcast.diffusion.loading import quiet, require_device
from latentcast.diffusion.scenes.agreement import Similarity
from latentcast.diffusion.scenes.autoencoder import encode_both_ways, refine_decoder, train_autoencoder
from latentcast.diffusion.scenes.card import GUIDANCE_SCALE, Findings
from latentcast.diffusion.scenes.dataset import make_renders
from latentcast.diffusion.scenes.denoiser import Denoiser, build_scheduler
from latentcast.diffusion.scenes.denoiser_training import learn_to_denoise
from latentcast.diffusion.scenes.device_training import train_device_decoder
from latentcast.diffusion.scenes.judging import judge_model
from latentcast.diffusion.scenes.plan import TrainingPlan, plan_for
from latentcast.diffusion.scenes.progress import Progress
from latentcast.diffusion.scenes.tokens import build_tokenizer

__all__ = ["train"]


def train(
    out: Path,
    *,
    device: str,
    similarity: Similarity,
    progress: Progress,
    work: Path | None = None,
    plan: TrainingPlan | None = None,
    stop_at: float | None = None,
) -> Findings:
    """Train the embedded model and write it, with its card, to a folder.

    Args:
        out: pipeline folder to write.
        device: "cpu" or "cuda".
        similarity: SSIM of two batches of pictures.
        progress: called as the work goes on.
        work: folder for renders and checkpoints; `out` with ".work" appended where None.
        plan: how much of everything; the device's own where None.
        stop_at: time.monotonic() at which to pause.

    Returns:
        What the card says, in numbers.

    Raises:
        ParameterError, ModelError: if the device is unknown or not available, or the work folder was begun
            with another plan.
        PausedError: when the time is over; the next call goes on.
    """
    require_device(device)
    plan = plan or plan_for(device)
    work = work or out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    plan.keep_to(work / "plan.json")

    scenes, pictures = make_renders(work, plan, progress=progress, stop_at=stop_at)
    autoencoder = train_autoencoder(
        pictures, work, plan, device=device, progress=partial(progress, "autoencoder"), stop_at=stop_at
    )
    tokenizer = build_tokenizer(work / "tokenizer")
    denoiser = learn_to_denoise(
        autoencoder,
        scenes,
        pictures,
        tokenizer,
        work,
        plan,
        device=device,
        progress=progress,
        stop_at=stop_at,
    )
    latents = encode_both_ways(
        autoencoder, pictures, work, device=device, progress=partial(progress, "latents"), stop_at=stop_at
    )
    refine_decoder(
        autoencoder,
        pictures,
        latents,
        work,
        plan,
        device=device,
        progress=partial(progress, "decoder"),
        stop_at=stop_at,
    )
    _save(_assemble(autoencoder, denoiser, tokenizer), out)
    findings = judge_model(
        out,
        device=device,
        similarity=similarity,
        progress=progress,
        work=work,
        plan=plan,
        anew=True,
        stop_at=stop_at,
    )
    train_device_decoder(
        out,
        device=device,
        similarity=similarity,
        progress=progress,
        work=work,
        plan=plan,
        stop_at=stop_at,
    )
    return findings


def _assemble(
    autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _save(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """Write the folder in float16, readable by all."""
    with quiet():
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.half()
        pipeline.save_pretrained(out)
    (out / "latentcast.json").write_text(json.dumps({"guidance_scale": GUIDANCE_SCALE}) + "\n")
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
