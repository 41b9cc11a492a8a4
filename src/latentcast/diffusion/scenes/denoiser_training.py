"""The stages of training that make the denoiser, which can also be run alone on a model's folder.

Alone they leave the autoencoder as it is, and so the latents, and all that was made for them: the device's
decoder above all.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from latentcast.diffusion.loading import quiet, require_device
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.agreement import Similarity
from latentcast.diffusion.scenes.autoencoder import encode_both_ways
from latentcast.diffusion.scenes.card import FIT_SECTION, Findings, drop_section
from latentcast.diffusion.scenes.composition import has_any
from latentcast.diffusion.scenes.dataset import make_renders, mirrored
from latentcast.diffusion.scenes.denoiser import Denoiser, train_denoiser
from latentcast.diffusion.scenes.judging import judge_model
from latentcast.diffusion.scenes.plan import TrainingPlan, plan_for
from latentcast.diffusion.scenes.progress import Progress
from latentcast.diffusion.scenes.scene import Scene
from latentcast.diffusion.scenes.text import train_text_encoder
from latentcast.diffusion.scenes.training_record import recorded_plan

__all__ = ["learn_to_denoise", "retrain_denoiser"]


def retrain_denoiser(
    out: Path,
    *,
    device: str,
    similarity: Similarity,
    progress: Progress,
    work: Path | None = None,
    plan: TrainingPlan | None = None,
    stop_at: float | None = None,
) -> Findings:
    """Train text encoder and UNet of a model's folder anew, and judge them.

    What was measured of the old weights leaves the folder: its calibration, and the card's fit to the theory.

    Args:
        out: folder of the embedded model.
        device: "cpu" or "cuda".
        similarity: SSIM of two batches of pictures.
        progress: called as the work goes on.
        work: folder for renders and checkpoints; `out` with ".work" appended where None. Renders and latents
            that are there are used.
        plan: how much of everything; where None the one that is recorded in the folder, with the device's own
            for what is trained anew.
        stop_at: time.monotonic() at which to pause.

    Returns:
        What the card says, in numbers.

    Raises:
        ModelError: if the folder holds no pipeline, does not say how it was trained, or the work folder was
            begun with another plan.
        PausedError: when the time is over; the next call goes on.
    """
    require_device(device)
    plan = plan or recorded_plan(out).with_stage(plan_for(device), "denoiser")
    work = work or out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    plan.keep_to(work / "plan.json")
    pipeline = load_pipeline(out, device).pipe
    scenes, pictures = make_renders(work, plan, progress=progress, stop_at=stop_at)
    denoiser = learn_to_denoise(
        pipeline.vae,
        scenes,
        pictures,
        pipeline.tokenizer,
        work,
        plan,
        device=device,
        progress=progress,
        stop_at=stop_at,
    )
    (out / "calibration.json").unlink(missing_ok=True)
    drop_section(out, FIT_SECTION)
    _save(denoiser, out)
    return judge_model(
        out, device=device, similarity=similarity, progress=progress, work=work, plan=plan, stop_at=stop_at
    )


def learn_to_denoise(
    autoencoder: AutoencoderKL,
    scenes: list[Scene],
    pictures: npt.NDArray[np.uint8],
    tokenizer: CLIPTokenizer,
    work: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: Progress,
    stop_at: float | None = None,
) -> Denoiser:
    """Encode the pictures, school the text encoder, and train it with the UNet.

    Args:
        autoencoder: whose latents are learned; it stays as it is.
        scenes: what the pictures show.
        pictures: uint8 (num, H, W, 3).
        tokenizer: of `build_tokenizer`.
        work: folder of latents and checkpoints; an interrupted run goes on from them.
        plan: how much of everything.
        device: "cpu" or "cuda".
        progress: called as the work goes on.
        stop_at: time.monotonic() at which to pause.

    Raises:
        PausedError: when the time is over.
    """
    latents = encode_both_ways(
        autoencoder, pictures, work, device=device, progress=partial(progress, "latents"), stop_at=stop_at
    )
    schooled = train_text_encoder(
        tokenizer, work, plan, device=device, progress=partial(progress, "text"), stop_at=stop_at
    )
    # What the denoiser may see; a composition is the same in a mirror.
    seen = np.array([not has_any(scene, plan.held_out_looks) for scene in scenes])
    return train_denoiser(
        latents[np.concatenate([seen, seen])],
        [scene for scene in [*scenes, *map(mirrored, scenes)] if not has_any(scene, plan.held_out_looks)],
        schooled,
        tokenizer,
        work,
        plan,
        device=device,
        progress=partial(progress, "denoiser"),
        stop_at=stop_at,
    )


def _save(denoiser: Denoiser, out: Path) -> None:
    """Write text encoder and UNet into a pipeline folder in float16, readable by all."""
    with quiet():
        denoiser.unet.half().save_pretrained(out / "unet")
        denoiser.text_encoder.half().save_pretrained(out / "text_encoder")
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
