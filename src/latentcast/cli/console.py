"""How the command line prints: tables and sentences on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from latentcast.study.recording.record import RecordingProgress

__all__ = [
    "RecordProgress",
    "StageProgress",
    "StepProgress",
    "print_facts",
    "print_files",
    "print_json",
    "print_note",
    "print_sentence",
    "print_table",
    "print_text",
]


# A narrower window breaks the lines itself; a table squeezed into it would lose its numbers.
MIN_WIDTH = 80

# Ends of a bar that shows a share.
_MILLION = 1_000_000


class StageProgress:
    """A progress bar on stderr for each stage of a training or a study."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    @classmethod
    @contextmanager
    def show(cls, *, time_left: bool = False) -> Iterator[StageProgress]:
        """Show the bars while the block runs; with the time left they vanish at the end."""
        columns = (MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left")) if time_left else ()
        with _progress(*columns, transient=time_left) as progress:
            yield cls(progress)

    def __call__(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Note how far a stage is."""
        if stage not in self._tasks:
            # What an earlier run did says nothing about how fast this one is.
            self._tasks[stage] = self._progress.add_task(stage, completed=done, total=total)
        description = f"{stage} {text}".rstrip()
        self._progress.update(self._tasks[stage], completed=done, total=total, description=description)


class StepProgress:
    """A progress bar on stderr: first for loading, then for the denoising steps."""

    def __init__(self, progress: Progress, num_steps: int, model: str) -> None:
        self._progress = progress
        self._num_steps = num_steps
        self._task = progress.add_task(f"loading {model}", total=None)

    @classmethod
    @contextmanager
    def show(cls, num_steps: int, model: str) -> Iterator[StepProgress]:
        """Show the bar while the block runs."""
        with _progress(transient=True) as progress:
            yield cls(progress, num_steps, model)

    def step(self, index: int) -> None:
        """Note that step t = `index` is done."""
        self._progress.update(
            self._task, description="denoising", total=self._num_steps, completed=self._num_steps - index
        )


class RecordProgress:
    """A progress bar on stderr with the time left, for a recording."""

    def __init__(self, progress: Progress, model: str) -> None:
        self._progress = progress
        self._task = progress.add_task(f"loading {model}", total=None, items="")
        self._items_before: int | None = None
        self.new_items = 0
        self.denoiser_seconds = 0.0

    @classmethod
    @contextmanager
    def show(cls, model: str) -> Iterator[RecordProgress]:
        """Show the bar while the block runs."""
        columns = (TextColumn("{task.fields[items]}"), TimeRemainingColumn(), TextColumn("left"))
        with _progress(*columns, transient=True) as progress:
            yield cls(progress, model)

    def __call__(self, state: RecordingProgress) -> None:
        """Note how far the recording is."""
        items, done = f"{state.num_items}/{state.num_planned}", round(state.share * _MILLION)
        if self._items_before is None:
            self._items_before = state.num_items
            self._progress.remove_task(self._task)
            # As a new task: what earlier runs recorded says nothing about how fast this one is.
            self._task = self._progress.add_task("recording", total=_MILLION, completed=done, items=items)
        self.new_items = state.num_items - self._items_before
        self.denoiser_seconds = state.denoiser_seconds
        self._progress.update(self._task, completed=done, items=items)


def print_json(value: dict[str, Any]) -> None:
    """One JSON value on stdout, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_note(note: str) -> None:
    """A remark on stderr."""
    _console(stderr=True).print(note, soft_wrap=True)


def print_sentence(sentence: str) -> None:
    """A sentence on stdout, wrapped between words in a terminal and in one line elsewhere."""
    console = _console()
    console.print(sentence, soft_wrap=not console.is_terminal)


def print_text(text: str = "") -> None:
    """Text on stdout as it stands; a blank line where there is none."""
    _console().print(text)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table of numbers, under a title where it has one."""
    console = _console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 and heading == "policy" else "right")
    for row in rows:
        table.add_row(*row)
    if title is not None:
        console.print(title)
    console.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and what they stand for, one pair per line."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    _console().print(table)


def print_files(files: Iterable[Path]) -> None:
    """Where results are, one path per line."""
    console = _console()
    for path in files:
        console.print(str(path), soft_wrap=True)


def _progress(*figures: ProgressColumn, transient: bool) -> Progress:
    figures = figures or (MofNCompleteColumn(), TimeElapsedColumn())
    console = _console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *figures,
        console=console,
        transient=transient,
        # A log file gets no bars, only what is said in words.
        disable=not console.is_terminal,
        # A step of a large model may take longer than the default half minute.
        speed_estimate_period=600.0,
    )


def _console(*, stderr: bool = False) -> Console:
    # Prompts and paths may hold brackets and numbers; they are printed as they are.
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not stderr and console.width < MIN_WIDTH:
        console.width = MIN_WIDTH
    return console
