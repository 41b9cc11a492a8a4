"""The trajectories of a study: a recording that is there, or one made on first use beside the results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentcast.diffusion.loading import find_model
from latentcast.errors import ParameterError
from latentcast.study.recording.prompts import read_prompts
from latentcast.study.recording.record import RecordingProgress, record
from latentcast.study.recording.store import Recording
from latentcast.study.runner.choices import TrajectoryChoice
from latentcast.study.runner.config import StudyConfig

__all__ = ["Progress", "find_trajectories", "manifest_digest"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def find_trajectories(config: StudyConfig, out: Path, progress: Progress | None = None) -> Recording:
    """Open a study's recording; make it first, or go on with it, where the study names a model.

    A recording that is made stands beside the results' folder, under a name that tells its content, so that
    studies of the same trajectories share it.

    Raises:
        LatentcastError: If the recording is missing, unfinished, damaged, or does not fit the scenario; or if
            prompts or model are wrong.
    """
    choice = config.trajectories
    assert choice is not None  # of any study that asks for trajectories
    if choice.recording is not None:
        recording = Recording.open(choice.recording)
        if not recording.complete:
            raise ParameterError(
                f"{recording.folder} holds {recording.num_items} of {recording.num_planned} items; finish it "
                "with the latentcast record command that began it"
            )
    else:
        recording = _recorded(config, choice, out, progress)
    _check(config, recording)
    return recording


def manifest_digest(recording: Recording) -> str:
    """A short name of what a recording is of, whatever the version that made it."""
    manifest = recording.manifest.to_dict()
    manifest.pop("latentcast_version")
    return _digest(manifest)


def _recorded(
    config: StudyConfig, choice: TrajectoryChoice, out: Path, progress: Progress | None
) -> Recording:
    location = find_model(choice.model)
    count = choice.count if config.kind == "validation" else min(choice.count, config.episodes)
    prompts = read_prompts(choice.prompts, count=count, keep_nsfw=choice.keep_nsfw)
    seed = config.seed if choice.seed is None else choice.seed
    num_steps = config.scenario.num_steps
    content = _digest([str(location), prompts, seed, num_steps, choice.batch_size])
    short = re.sub(r"[^A-Za-z0-9]+", "-", Path(choice.model).name).strip("-").lower()
    folder = out.resolve().parent / f"recording-{short}-{len(prompts)}-{content[:8]}"
    if (folder / "zarr.json").exists():
        present = Recording.open(folder)
        if present.complete and present.prompts == prompts and present.manifest.root_seed == seed:
            return present
    from latentcast.diffusion.pipeline import load_pipeline

    loading = f"loading {choice.model}"
    if progress is not None:
        progress(loading, 0, 1)
    model = load_pipeline(choice.model, choice.device, num_steps=num_steps)
    if progress is not None:
        progress(loading, 1, 1)

    def tell(state: RecordingProgress) -> None:
        total = state.num_planned * num_steps
        if progress is not None:
            progress("recording", round(state.share * total), total)

    return record(model, prompts, folder, seed=seed, batch_size=choice.batch_size, progress=tell)


def _check(config: StudyConfig, recording: Recording) -> None:
    channels, height, width = recording.latent_shape
    size, wanted = channels * height * width, config.scenario.latent_size
    if wanted is not None and wanted != size:
        raise ParameterError(
            f"scenario.latent_size is {wanted}, but the latents of {recording.folder} have {size} numbers; "
            "delete it"
        )
    steps = recording.path.num_steps
    if steps != config.scenario.num_steps:
        raise ParameterError(
            f"scenario.num_steps is {config.scenario.num_steps}, but {recording.folder} was recorded "
            f"in {steps} steps; they must be equal"
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
