"""Pictures that a trained model generates to be judged, of prompts that its training never saw."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline

from latentcast.diffusion.scenes.captions import Description, describe
from latentcast.diffusion.scenes.composition import has_any
from latentcast.diffusion.scenes.dataset import sample_scene
from latentcast.diffusion.scenes.progress import StageProgress
from latentcast.diffusion.scenes.scene import Scene
from latentcast.errors import PausedError

__all__ = ["Prompt", "draw_prompts", "generate"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked of the model.

    Attributes:
        scene: that the sentence was made from.
        words: the sentence.
        seed: of the picture's noise.
    """

    scene: Scene
    words: Description
    seed: int


def draw_prompts(num_each: int, seed: int, *, held_out_looks: tuple[str, ...], new: bool) -> list[Prompt]:
    """Draw scenes with one, two and three objects in turn, and a full sentence about each.

    Args:
        num_each: scenes of each number of objects.
        seed: root seed; prompt i does not depend on how many follow it.
        held_out_looks: compositions that training did not see.
        new: whether each scene has such a composition, or none has.
    """
    prompts = []
    for i, child in enumerate(np.random.SeedSequence([seed, int(new)]).spawn(3 * num_each)):
        rng = np.random.default_rng(child)
        scene = sample_scene(
            rng, num_objects=1 + i % 3, wanted=lambda scene: has_any(scene, held_out_looks) == new
        )
        words = describe(scene, rng)
        prompts.append(Prompt(scene=scene, words=words, seed=int(rng.integers(1 << 62))))
    return prompts


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: list[Prompt],
    path: Path,
    *,
    guidance_scale: float,
    at_once: int,
    num_steps: int,
    progress: StageProgress,
    stop_at: float | None = None,
) -> npt.NDArray[np.uint8]:
    """Generate a picture for each prompt; kept in a file for a run that goes on.

    Args:
        pipeline: the model, on its device.
        prompts: what is asked.
        path: NumPy array file.
        guidance_scale: of classifier-free guidance.
        at_once: pictures in a batch.
        num_steps: of denoising.
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        uint8 (num, H, W, 3).

    Raises:
        PausedError: when the time is over.
    """
    parts: list[npt.NDArray[np.uint8]] = [np.load(path)[: len(prompts)]] if path.exists() else []
    done = sum(map(len, parts))
    pipeline.set_progress_bar_config(disable=True)
    while done < len(prompts):
        if stop_at is not None and time.monotonic() >= stop_at:
            raise PausedError(
                f"{done} of {len(prompts)} pictures are generated; the same command goes on from there"
            )
        some = prompts[done : done + at_once]
        output = pipeline(
            [prompt.words.text for prompt in some],
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in some],
            output_type="np",
        )
        parts.append((output.images * 255).round().astype(np.uint8))
        done += len(some)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.replace(path)
        progress(done, len(prompts), "")
    return np.concatenate(parts)
