"""`latentcast model train scenes`: from nothing to an ordinary diffusers pipeline folder with its model card.

The stages: render, autoencoder, denoiser, decoder, judge, samples, device-decoder. Each leaves its result in
the work folder, and an interrupted run goes on from the last checkpoint of the stage it was in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from latentcast.diffusion.loading import quiet, require_device
from latentcast.diffusion.scenes.agreement import Similarity
from latentcast.diffusion.scenes.autoencoder import encode_pictures, refine_decoder, train_autoencoder
from latentcast.diffusion.scenes.captions import full_caption
from latentcast.diffusion.scenes.card import Findings, psnr_db, write_card
from latentcast.diffusion.scenes.dataset import draw_scenes, mirrored, render_pictures, sample_scene
from latentcast.diffusion.scenes.denoiser import Denoiser, build_scheduler, build_tokenizer, train_denoiser
from latentcast.diffusion.scenes.device_training import train_device_decoder
from latentcast.diffusion.scenes.judge import Judge, Scores, score, train_judge
from latentcast.diffusion.scenes.pixels import to_pictures
from latentcast.diffusion.scenes.plan import TrainingPlan

__all__ = ["GUIDANCE_SCALE", "train"]

GUIDANCE_SCALE = 3.0

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
) -> Findings:
    """Train the embedded model and write it, with its card, to a folder.

    Args:
        out: pipeline folder to write.
        device: "cpu" or "cuda".
        similarity: SSIM of two batches of pictures.
        progress: called as the work goes on.
        work: folder for renders and checkpoints; `out` with ".work" appended where None.
        plan: how much of everything.

    Returns:
        What the card says, in numbers.

    Raises:
        ParameterError, ModelError: if the device is unknown or not available.
    """
    require_device(device)
    plan = plan or TrainingPlan()
    work = work or out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    seeds = plan.seeds

    scenes = draw_scenes(plan.num_pictures, seeds.scenes)
    held_out_scenes = draw_scenes(plan.num_held_out, seeds.held_out_scenes)

    def stage(name: str) -> Callable[[int, int, str], None]:
        return lambda done, total, text: progress(name, done, total, text)

    def rendering(done: int, total: int) -> None:
        progress("render", done, total, "")

    held_out = render_pictures(held_out_scenes, work / "held-out.npy", seeds.held_out_shadows, rendering)
    pictures = render_pictures(scenes, work / "pictures.npy", seeds.shadows, rendering)

    autoencoder = train_autoencoder(
        pictures,
        work,
        seed=seeds.autoencoder,
        num_updates=plan.autoencoder_updates,
        device=device,
        progress=stage("autoencoder"),
    )
    latents = _encode_both_ways(autoencoder, pictures, work / "latents.npy", device, stage("latents"))
    tokenizer = build_tokenizer(work / "tokenizer")
    denoiser = train_denoiser(
        latents,
        scenes + [mirrored(scene) for scene in scenes],
        tokenizer,
        work,
        seed=seeds.denoiser,
        num_updates=plan.denoiser_updates,
        device=device,
        progress=stage("denoiser"),
    )
    refine_decoder(
        autoencoder,
        pictures,
        latents,
        work,
        seed=seeds.decoder,
        num_updates=plan.decoder_updates,
        device=device,
        progress=stage("decoder"),
    )
    pipeline = _assemble(autoencoder, denoiser, tokenizer)
    _save(pipeline, out)

    judge = train_judge(
        pictures,
        scenes,
        work,
        seed=seeds.judge,
        num_updates=plan.judge_updates,
        device=device,
        progress=stage("judge"),
    )
    ceiling = score(judge, held_out, held_out_scenes, device=device)
    reached, samples, sentences = _judge_pipeline(
        pipeline, judge, plan.num_judged, seed=seeds.samples, device=device, progress=stage("samples")
    )
    findings = Findings(
        autoencoder_psnr_db=psnr_db(held_out, _reconstruct(autoencoder, held_out, device)),
        num_held_out=len(held_out),
        ceiling=ceiling,
        reached=reached,
        guidance_scale=GUIDANCE_SCALE,
        plan=asdict(plan),
    )
    write_card(out, findings, samples, sentences)
    train_device_decoder(out, device=device, similarity=similarity, progress=progress, work=work, plan=plan)
    return findings


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
    """Write the folder in float16, readable by all; the pipeline itself stays in float32."""
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    with quiet():
        for part in parts:
            part.half()
        pipeline.save_pretrained(out)
        for part in parts:
            part.float()
    (out / "latentcast.json").write_text(json.dumps({"guidance_scale": GUIDANCE_SCALE}) + "\n")
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)


@torch.no_grad()
def _reconstruct(
    autoencoder: AutoencoderKL, pictures: npt.NDArray[np.uint8], device: str
) -> npt.NDArray[np.uint8]:
    latents = torch.from_numpy(encode_pictures(autoencoder, pictures, device=device)).to(device)
    decoded = torch.cat([autoencoder.decode(latents[i : i + 50]).sample for i in range(0, len(latents), 50)])
    return to_pictures(decoded)


def _judge_pipeline(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    num_each: int,
    *,
    seed: int,
    device: str,
    progress: Callable[[int, int, str], None],
) -> tuple[Scores, npt.NDArray[np.uint8], list[str]]:
    """Generate pictures of new scenes' captions with the default settings and judge them."""
    rng = np.random.default_rng(seed)
    # One, two and three objects in turn, so that the card's sheet, the first pictures made, is fair.
    scenes = [sample_scene(rng, num_objects=1 + i % 3) for i in range(3 * num_each)]
    sentences = [full_caption(scene, rng) for scene in scenes]
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    parts: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(sentences), 20):
        texts = sentences[start : start + 20]
        generators = [torch.Generator().manual_seed(int(rng.integers(1 << 62))) for _ in texts]
        output = pipeline(
            texts,
            num_inference_steps=50,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
            output_type="np",
        )
        parts.append((output.images * 255).round().astype(np.uint8))
        progress(min(start + 20, len(sentences)), len(sentences), "")
    pictures = np.concatenate(parts)
    return score(judge, pictures, scenes, device=device), pictures, sentences
