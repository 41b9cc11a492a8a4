"""`latentcast model train scenes`: from nothing to an ordinary diffusers pipeline folder with its model card.

The stages: render, autoencoder, latents, denoiser, decoder, judge, samples, device-decoder. Each leaves its
result in the work folder, and an interrupted run, or one that was given only some minutes, goes on from the
last checkpoint of the stage it was in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from latentcast.diffusion.loading import quiet, require_device
from latentcast.diffusion.scenes.agreement import Similarity
from latentcast.diffusion.scenes.autoencoder import encode_pictures, refine_decoder, train_autoencoder
from latentcast.diffusion.scenes.card import GUIDANCE_SCALE, Findings
from latentcast.diffusion.scenes.composition import has_any
from latentcast.diffusion.scenes.dataset import draw_scenes, mirrored, render_pictures
from latentcast.diffusion.scenes.denoiser import Denoiser, build_scheduler, build_tokenizer, train_denoiser
from latentcast.diffusion.scenes.device_training import train_device_decoder
from latentcast.diffusion.scenes.judging import judge_model
from latentcast.diffusion.scenes.plan import TrainingPlan, plan_for
from latentcast.errors import ModelError, PausedError

__all__ = ["train"]

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""


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
    _keep_to(plan, work / "plan.json")
    seeds = plan.seeds

    def stage(name: str) -> Callable[[int, int, str], None]:
        return lambda done, total, text: progress(name, done, total, text)

    def rendering(done: int, total: int) -> None:
        progress("render", done, total, "")
        if stop_at is not None and time.monotonic() >= stop_at:
            raise PausedError(f"{done} of {total} renders are made; the same command goes on from there")

    scenes = draw_scenes(plan.num_pictures, seeds.scenes, work / "scenes.pickle")
    pictures = render_pictures(scenes, work / "pictures.npy", seeds.shadows, rendering, plan.picture_size)
    autoencoder = train_autoencoder(
        pictures, work, plan, device=device, progress=stage("autoencoder"), stop_at=stop_at
    )
    latents = _encode_both_ways(autoencoder, pictures, work / "latents.npy", device, stage("latents"))
    tokenizer = build_tokenizer(work / "tokenizer")
    # What the denoiser may see; a composition is the same in a mirror.
    seen = np.array([not has_any(scene, plan.held_out_looks) for scene in scenes])
    denoiser = train_denoiser(
        latents[np.concatenate([seen, seen])],
        [scene for scene in [*scenes, *map(mirrored, scenes)] if not has_any(scene, plan.held_out_looks)],
        tokenizer,
        work,
        plan,
        device=device,
        progress=stage("denoiser"),
        stop_at=stop_at,
    )
    refine_decoder(
        autoencoder, pictures, latents, work, plan, device=device, progress=stage("decoder"), stop_at=stop_at
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
        out, device=device, similarity=similarity, progress=progress, work=work, plan=plan, stop_at=stop_at
    )
    return findings


def _keep_to(plan: TrainingPlan, file: Path) -> None:
    """Note the plan of a work folder, or refuse to go on with another one."""
    text = json.dumps(plan.to_dict(), indent=2)
    if not file.exists():
        file.write_text(text + "\n")
    elif json.loads(file.read_text()) != json.loads(text):
        raise ModelError(
            f"{file.parent} was begun with another plan, which {file.name} there tells; "
            "remove the folder, or give another --out"
        )


def _encode_both_ways(
    autoencoder: AutoencoderKL,
    pictures: npt.NDArray[np.uint8],
    path: Path,
    device: str,
    progress: Callable[[int, int, str], None],
) -> npt.NDArray[np.float32]:
    """Latents of all pictures, then of their mirror images; kept in a file for a run that goes on."""
    if path.exists():
        return np.load(path)
    parts = []
    for turned in (False, True):
        for start in range(0, len(pictures), 500):
            block = pictures[start : start + 500]
            parts.append(encode_pictures(autoencoder, block[:, :, ::-1] if turned else block, device=device))
            progress(sum(map(len, parts)), 2 * len(pictures), "")
    latents = np.concatenate(parts)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, latents)
    partial.replace(path)
    return latents


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
