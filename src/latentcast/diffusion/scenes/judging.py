"""The stage of training that judges a model and writes its card; it can also be run alone on a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from latentcast.diffusion.loading import require_device
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.agreement import Similarity
from latentcast.diffusion.scenes.autoencoder import encode_pictures
from latentcast.diffusion.scenes.captions import describe
from latentcast.diffusion.scenes.card import GUIDANCE_SCALE, Findings, Judged, psnr_db, write_card
from latentcast.diffusion.scenes.composition import has_any
from latentcast.diffusion.scenes.dataset import (
    held_out_renders,
    make_renders,
    render_pictures,
    sample_scene,
)
from latentcast.diffusion.scenes.frechet import frechet_distance
from latentcast.diffusion.scenes.judge import train_judge
from latentcast.diffusion.scenes.pixels import to_pictures
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.progress import Progress
from latentcast.diffusion.scenes.sampling import draw_prompts, generate
from latentcast.diffusion.scenes.scene import Scene
from latentcast.diffusion.scenes.training_record import recorded_plan, write_record
from latentcast.diffusion.scenes.verdict import judge_pictures, judge_scenes

__all__ = ["NUM_STEPS", "judge_model"]

NUM_STEPS = 50
"""Of denoising, in the pictures that are judged."""

Pictures = npt.NDArray[np.uint8]


def judge_model(
    out: Path,
    *,
    device: str,
    similarity: Similarity,
    progress: Progress,
    work: Path | None = None,
    plan: TrainingPlan | None = None,
    anew: bool = False,
    stop_at: float | None = None,
) -> Findings:
    """Train a judge, let it judge pictures of a trained model's folder, and write the card there.

    Args:
        out: folder of the embedded model.
        device: "cpu" or "cuda".
        similarity: SSIM, for the autoencoder.
        progress: called with (stage, done, total, text).
        work: folder for renders, checkpoints and generated pictures; `out` with ".work" appended where None.
        plan: what the model was trained by; None for the one that is recorded in its folder.
        anew: whether the weights are new, so that what an older card says of them is left out.
        stop_at: time.monotonic() at which to pause.

    Returns:
        What the card says, in numbers.

    Raises:
        ModelError: if the folder holds no pipeline, or does not say how it was trained.
        PausedError: when the time is over; the next call goes on.
    """
    require_device(device)
    plan = plan or recorded_plan(out)
    work = work or out.with_name(out.name + ".work")
    model = load_pipeline(out, device)
    work.mkdir(parents=True, exist_ok=True)
    seeds = plan.seeds

    def rendered(scenes: list[Scene], name: str, seed: int) -> Pictures:
        def told(done: int, total: int) -> None:
            progress("render", done, total, "")

        return render_pictures(scenes, work / name, seed, told, plan.picture_size, stop_at=stop_at)

    scenes, pictures = make_renders(
        work, plan, progress=progress, enough=plan.judge_pictures, stop_at=stop_at
    )
    judge = train_judge(
        pictures,
        scenes,
        work,
        seed=seeds.judge,
        num_updates=plan.judge_updates,
        batch_size=plan.judge_batch,
        device=device,
        progress=partial(progress, "judge"),
        stop_at=stop_at,
    )
    held_out_scenes, held_out = held_out_renders(work, plan, progress=progress, stop_at=stop_at)
    rng = np.random.default_rng(seeds.held_out_scenes)
    ceiling = judge_scenes(
        judge_pictures(judge, held_out, device=device).found,
        held_out_scenes,
        [describe(scene, rng) for scene in held_out_scenes],
    )

    judged: dict[str, Judged] = {}
    sheet, sentences = None, []
    for name, new in (("seen", False), ("held-out", True)):
        if new and not plan.held_out_looks:
            continue
        prompts = draw_prompts(plan.num_judged, seeds.samples, held_out_looks=plan.held_out_looks, new=new)
        pictures = generate(
            model.pipe,
            prompts,
            work / f"samples-{name}.npy",
            guidance_scale=GUIDANCE_SCALE,
            at_once=plan.num_at_once,
            num_steps=NUM_STEPS,
            progress=partial(progress, "samples"),
            stop_at=stop_at,
        )
        wanted = [prompt.scene for prompt in prompts]
        looked = judge_pictures(judge, pictures, device=device)
        true, other = (
            judge_pictures(judge, some, device=device).features
            for some in (
                rendered(wanted, f"samples-{name}-true.npy", seeds.held_out_shadows),
                rendered(_others(plan, new), f"samples-{name}-other.npy", seeds.held_out_shadows),
            )
        )
        judged[name] = Judged(
            scores=judge_scenes(looked.found, wanted, [prompt.words for prompt in prompts]),
            distance=frechet_distance(looked.features, other),
            floor=frechet_distance(true, other),
        )
        if sheet is None:
            sheet, sentences = pictures, [prompt.words.text for prompt in prompts]
    assert sheet is not None
    decoded = _reconstructed(model.pipe.vae, held_out, device)
    findings = Findings(
        autoencoder_psnr_db=psnr_db(held_out, decoded),
        autoencoder_ssim=float(np.mean(similarity(np.asarray(held_out), decoded))),
        ceiling=ceiling,
        judged=judged,
        plan=plan,
    )
    write_card(out, findings, sheet, sentences, sorted(work.glob("*-loss.png")), anew=anew)
    write_record(out, plan, findings.to_dict())
    return findings


def _others(plan: TrainingPlan, new: bool) -> list[Scene]:
    """As many scenes of the same kind as are judged, but other ones."""
    children = np.random.SeedSequence([plan.seeds.held_out_scenes, int(new)]).spawn(3 * plan.num_judged)
    return [
        sample_scene(
            np.random.default_rng(child),
            num_objects=1 + i % 3,
            wanted=lambda scene: has_any(scene, plan.held_out_looks) == new,
        )
        for i, child in enumerate(children)
    ]


@torch.no_grad()
def _reconstructed(autoencoder: AutoencoderKL, pictures: Pictures, device: str) -> Pictures:
    latents = torch.from_numpy(encode_pictures(autoencoder, pictures, device=device)).to(device)
    parts = [autoencoder.decode(latents[i : i + 50]).sample for i in range(0, len(latents), 50)]
    return to_pictures(torch.cat(parts))
