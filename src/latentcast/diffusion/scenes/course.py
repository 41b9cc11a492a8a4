"""The course of one stage of training: which update comes next, when to keep a checkpoint, when to pause."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.diffusion.scenes.checkpoint import load_checkpoint, save_checkpoint
from latentcast.diffusion.scenes.curves import LossCurve
from latentcast.diffusion.scenes.progress import StageProgress
from latentcast.errors import PausedError

__all__ = ["Course", "rate_scale", "share_of_peak"]

_TOLD_EVERY = 25
_KEPT_EVERY_S = 60.0
_RISE = 100  # updates in which the learning rates rise


def share_of_peak(update: int, num_updates: int, fall_share: float) -> float:
    """An update's learning rate beside the highest: a rise, a plateau, a straight fall to nothing.

    Args:
        update: its number, from 0.
        num_updates: of the whole stage.
        fall_share: share of them in which the rate falls.

    Example:
        >>> [share_of_peak(update, 1000, 0.4) for update in (0, 99, 500, 800, 999)]
        [0.01, 1.0, 1.0, 0.5, 0.0025]
    """
    return min(1.0, (update + 1) / _RISE, (num_updates - update) / (fall_share * num_updates))


def rate_scale(batch: float, width: float = 1.0) -> float:
    """Factor of learning rates: larger batches take longer steps, wider networks shorter ones.

    Args:
        batch: size of the batch beside the one that the rates are for.
        width: channels beside those that the rates are for.

    Example:
        >>> rate_scale(16.0), rate_scale(1.0, 2.0)
        (2.0, 0.5)
    """
    return batch**0.25 / width


class Course:
    """Updates of a stage, from its last checkpoint to its end.

    A checkpoint is kept about once a minute, at the end, and before a pause; the curve of the loss is drawn
    beside it. What is computed does not depend on when that is.

    Args:
        path: of the checkpoint.
        state: what it keeps, each with `state_dict` and `load_state_dict`.
        rng: of the stage's random choices.
        num_updates: of the whole stage.
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause; None for never.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     course = Course(
        ...         Path(folder) / "stage.pt", {}, np.random.default_rng(0), 3, lambda *told: None
        ...     )
        ...     for update in course:
        ...         course.note(1.0 / (update + 1))
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['stage-loss.png', 'stage.pt']
    """

    def __init__(
        self,
        path: Path,
        state: Mapping[str, Any],
        rng: np.random.Generator,
        num_updates: int,
        progress: StageProgress,
        stop_at: float | None = None,
    ) -> None:
        self._path, self._rng, self._num_updates = path, rng, num_updates
        self._progress, self._stop_at = progress, stop_at
        self.curve = LossCurve()
        self._state = {**state, "curve": self.curve}
        self._text = ""

    def note(self, loss: float, text: str = "") -> None:
        """Note the loss of the update that was just made, and what else the progress line says."""
        self.curve.add(loss)
        self._text = text

    def __iter__(self) -> Iterator[int]:
        """The numbers of the updates to make.

        Raises:
            ModelError: if the checkpoint is of something else.
            PausedError: when the time is over, after the checkpoint.
        """
        done = load_checkpoint(self._path, self._state, self._rng, self._num_updates)
        kept = time.monotonic()
        while done < self._num_updates:
            now = time.monotonic()
            if self._stop_at is not None and now >= self._stop_at:
                self._keep(done)
                raise PausedError(
                    f"stage {self._path.stem} has made {done} of {self._num_updates} updates; "
                    "the same command goes on from there"
                )
            if now - kept >= _KEPT_EVERY_S:
                self._keep(done)
                kept = now
            yield done
            done += 1
            if done % _TOLD_EVERY == 0 or done == self._num_updates:
                self._progress(
                    done,
                    self._num_updates,
                    f"loss {self.curve.recent():.4f}{self._text and ', '}{self._text}",
                )
            if done == self._num_updates:
                self._keep(done)

    def _keep(self, done: int) -> None:
        save_checkpoint(self._path, self._state, self._rng, done, self._num_updates)
        self.curve.picture().save(self._path.with_name(f"{self._path.stem}-loss.png"))
