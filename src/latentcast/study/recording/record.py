"""Recording trajectories: batches of prompts through a source into a store, resumable at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentcast.diffusion.loading import EMBEDDED
from latentcast.diffusion.source import LatentSource, Trajectory, close_steps, seed_stream
from latentcast.errors import ModelError, ParameterError
from latentcast.study.recording.manifest import Manifest
from latentcast.study.recording.store import Recording

__all__ = ["DEFAULT_BATCH_SIZE", "RecordingProgress", "item_seeds", "record"]

# Of 1 to 16, the embedded model is within 4 % of its fastest here on a CPU.
DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class RecordingProgress:
    """How far a recording is.

    Attributes:
        num_items: Items recorded so far, those of earlier runs included.
        num_planned: Items of the whole recording.
        share: Share of the whole recording's denoising steps that are done, 0 to 1.
        denoiser_seconds: Time that this run spent in the source.
    """

    num_items: int
    num_planned: int
    share: float
    denoiser_seconds: float


def item_seeds(seed: int, count: int) -> tuple[int, ...]:
    """The seeds of a recording's items: entry i depends on the root seed and i alone.

    Args:
        seed: The root seed, a non-negative integer.
        count: Number of items.

    Returns:
        Integers of 53 bits, which every reader of JSON keeps exactly.

    Raises:
        ParameterError: If the seed is no non-negative integer.

    Example:
        >>> item_seeds(0, 3)[:2] == item_seeds(0, 2)
        True
    """
    seed_stream(seed, "noise")
    children = (np.random.SeedSequence(int(seed), spawn_key=(item,)) for item in range(count))
    return tuple(int(child.generate_state(1, np.uint64)[0] >> np.uint64(11)) for child in children)


def record(
    model: LatentSource,
    prompts: Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    progress: Callable[[RecordingProgress], None] | None = None,
) -> Recording:
    """Denoise every prompt and keep each step, or go on where an interrupted call stopped.

    Item i depends on its prompt and its own seed, not on the batch: bit for bit where the source works item
    by item, as `GaussianSource` does. A network's matrix products are summed in another order in batches of
    another size; on the embedded model that moves a latent by some 1e-6. Batches are cut at the same items
    whatever is recorded already, so a run that was interrupted ends in the same bits as one that was not.

    Args:
        model: What denoises.
        prompts: One per item.
        out: Folder of the recording.
        seed: Root seed; see `item_seeds`.
        batch_size: Requests denoised at once.
        progress: Called at the start, after every step and after every item.

    Returns:
        The complete recording.

    Raises:
        ParameterError: If an argument is out of range, the model does not understand a prompt, or the folder
            holds another recording.
        ModelError: If the model fails, or yields numbers that are not finite.
        OutputError: If the recording cannot be written; what is recorded stays.

    Example:
        >>> import tempfile
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> from latentcast.diffusion.path import NoisePath
        >>> source = GaussianSource((1, 4, 4), NoisePath.stable_diffusion(10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recording = record(source, ["a", "b", "c"], folder, batch_size=2)
        ...     recording.num_items, recording.trajectory(2).samples.shape
        (3, (11, 1, 4, 4))
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; it must be at least 1")
    _check_prompts(model, prompts)
    recording = Recording.create(out, _manifest(model, prompts, seed))
    run = _Run(recording, progress)
    for start in range(0, len(prompts), batch_size):
        items = range(start, min(start + batch_size, len(prompts)))
        if run.recorded.issuperset(items):
            continue
        # Items of the batch that are recorded are denoised too: only so do the others get the same bits.
        for item, trajectory in zip(items, run.denoise(model, items), strict=True):
            if item not in run.recorded:
                run.keep(item, trajectory)
    return recording


class _Run:
    """What one call of `record` has done so far."""

    def __init__(self, recording: Recording, progress: Callable[[RecordingProgress], None] | None) -> None:
        self.recording = recording
        self.recorded = {item for item in range(recording.num_planned) if recording.is_recorded(item)}
        self._progress = progress
        self._denoiser_seconds = 0.0
        self._under_way = 0.0  # items' worth of steps that are done and not yet recorded
        self._tell()

    def denoise(self, model: LatentSource, items: range) -> list[Trajectory]:
        """Run a batch through the source."""
        manifest = self.recording.manifest
        prompts, seeds = manifest.prompts[items.start : items.stop], manifest.seeds[items.start : items.stop]
        num_steps = manifest.path.num_steps
        shape = (len(items), num_steps + 1, *manifest.latent_shape)
        samples, clean_estimates = np.empty(shape, np.float32), np.empty(shape, np.float32)
        missing = len(set(items) - self.recorded)
        began = time.perf_counter()
        steps = model.steps(prompts, seeds)
        try:
            for step in steps:
                self._denoiser_seconds += time.perf_counter() - began
                samples[:, step.index] = step.sample
                clean_estimates[:, step.index] = step.clean_estimate
                self._under_way = missing * (1.0 - step.index / num_steps)
                self._tell()
                began = time.perf_counter()
            self._denoiser_seconds += time.perf_counter() - began
        finally:
            close_steps(steps)
        return [
            Trajectory(
                samples=samples[row],
                clean_estimates=clean_estimates[row],
                prompt=prompts[row],
                seed=seeds[row],
                path=manifest.path,
            )
            for row in range(len(items))
        ]

    def keep(self, item: int, trajectory: Trajectory) -> None:
        """Record an item."""
        if not (np.isfinite(trajectory.samples).all() and np.isfinite(trajectory.clean_estimates).all()):
            raise ModelError(
                f"{self.recording.model} yields numbers that are not finite for item {item}, "
                f"{trajectory.prompt[:60]!r}"
            )
        self.recording.write(item, trajectory)
        self.recorded.add(item)
        self._under_way -= 1.0
        self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        recorded, planned = len(self.recorded), self.recording.num_planned
        self._progress(
            RecordingProgress(
                num_items=recorded,
                num_planned=planned,
                share=(recorded + self._under_way) / planned,
                denoiser_seconds=self._denoiser_seconds,
            )
        )


def _check_prompts(model: LatentSource, prompts: Sequence[str]) -> None:
    """Find a prompt that the model does not understand before the work, not hours into it."""
    if isinstance(prompts, str) or not prompts:
        raise ParameterError(f"the prompts are {prompts!r}; give a sequence of at least one")
    read_prompt = getattr(model, "read_prompt", None)
    if read_prompt is None:
        return
    for item, prompt in enumerate(prompts):
        try:
            read_prompt(prompt)
        except ParameterError as error:
            raise ParameterError(f"prompt {item} of {len(prompts)} is not understood: {error}") from error


def _manifest(model: LatentSource, prompts: Sequence[str], seed: int) -> Manifest:
    name = str(getattr(model, "name", type(model).__name__))
    folder = getattr(model, "folder", None)
    return Manifest(
        # A relative folder would lead elsewhere from another working directory.
        model=name if folder is None or name == EMBEDDED else str(Path(folder).resolve()),
        guidance_scale=getattr(model, "guidance_scale", None),
        root_seed=int(seed),
        prompts=tuple(prompts),
        seeds=item_seeds(seed, len(prompts)),
        path=model.path,
        latent_shape=model.latent_shape,
    )
