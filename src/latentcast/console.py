"""What the command line prints: tables and sentences on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
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
    from latentcast.codec.calibration import Calibration
    from latentcast.delivery.timeline import Timeline
    from latentcast.diffusion.export import ExportReport
    from latentcast.study.figures.fit import Fit
    from latentcast.study.recording.record import RecordingProgress
    from latentcast.study.sheet.comparison import Comparison

__all__ = [
    "RecordProgress",
    "StageProgress",
    "StepProgress",
    "fit_table",
    "print_calibration",
    "print_card",
    "print_comparison",
    "print_delivery",
    "print_export",
    "print_files",
    "print_fit",
    "print_json",
    "print_model",
    "print_note",
    "print_recording",
    "print_table",
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


def print_delivery(timeline: Timeline, files: Sequence[Path]) -> None:
    """The transmissions of one episode, and what the device had at the deadline."""
    console = _console()
    if timeline.transmissions:
        table = _table("start slot", "step t", "refines", "bits per dimension", "bytes", "arrived")
        for sent in timeline.transmissions:
            first = sent.reference_step == timeline.scenario.num_steps
            table.add_row(
                str(sent.slot),
                str(sent.step),
                "-" if first else f"t = {sent.reference_step}",
                f"{sent.bits_per_dimension:.3g}",
                str(sent.bytes),
                "too late" if sent.arrived_slot is None else f"slot {sent.arrived_slot}",
            )
        console.print(table)
    for sentence in _verdict(timeline):
        console.print(sentence, soft_wrap=not console.is_terminal)
    print_files(files)


def print_calibration(calibration: Calibration, file: Path) -> None:
    """How good the estimates of x_0 are, step by step."""
    table = _table("step t", "error to x_0", "of the noise")
    for step in range(calibration.num_steps, -1, -max(calibration.num_steps // 10, 1)):
        noise = 1.0 - calibration.alpha_bar[step]
        table.add_row(str(step), f"{calibration.mmse[step]:.5f}", f"{noise:.5f}")
    console = _console()
    console.print(table)
    print_files([file])


def print_export(report: ExportReport) -> None:
    """What was exported, and how near it is to the original."""
    console = _console()
    console.print(
        f"{report.num_parameters:,} parameters in {report.num_bytes / 1e6:.2f} MB; the picture differs from "
        f"torch's by at most {255.0 * report.max_difference:.2g} of 255 grey levels.",
        soft_wrap=not console.is_terminal,
    )
    print_files([report.file])


def print_fit(fit: Fit, files: Sequence[Path]) -> None:
    """How the measured quantities compare with the theory."""
    console = _console()
    for headings, rows in (_distortion_rows(fit), _refinement_rows(fit)):
        table = _table(*headings)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_final_latent(fit), soft_wrap=not console.is_terminal)
    print_files(files)


def fit_table(fit: Fit, seed: int) -> str:
    """The same as Markdown, for a model card."""
    tables = [
        "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))
        for headings, rows in (_distortion_rows(fit), _refinement_rows(fit))
    ]
    runs = f"{fit.num_trajectories} trajectories, root seed {seed}"
    opening = (
        f"Measured by `latentcast model fit` on {runs}, per dimension.\n"
        "D_diff is the error of x_t to x_0 (eq. 9), mmse that of the calibrated estimate of x_0; its theory\n"
        "is that of white Gaussian latents. Refinements are in units of eq. 7."
    )
    return "\n\n".join([opening, *tables, _final_latent(fit)])


def _distortion_rows(fit: Fit) -> tuple[list[str], list[list[str]]]:
    last = len(fit.predicted) - 1
    return (
        ["step t", "D_diff", "measured", "mmse, white", "measured"],
        [
            [
                str(step),
                f"{fit.predicted[step]:.4f}",
                f"{fit.simulated.mean[step]:.4f} ± {fit.simulated.standard_error[step]:.4f}",
                f"{fit.white_mmse[step]:.4f}",
                f"{fit.mmse[step]:.4f}",
            ]
            for step in range(last, -1, -max(last // 10, 1))
        ],
    )


def _refinement_rows(fit: Fit) -> tuple[list[str], list[list[str]]]:
    return (
        ["from t_p", "to t", "variance (1)", "kurtosis (3)"],
        [
            [
                str(item.reference_step),
                str(item.step),
                f"{item.variance:.3f} ± {item.variance_error:.3f}",
                f"{item.kurtosis:.2f}",
            ]
            for item in fit.pairs
        ],
    )


def _final_latent(fit: Fit) -> str:
    return (
        f"x_0 has variance {fit.final_variance:.3f}, kurtosis {fit.final_kurtosis:.2f} and a DCT coding gain "
        f"of {fit.coding_gain_db:.1f} dB; theory takes it as white and normal: 1, 3 and 0."
    )


def _verdict(timeline: Timeline) -> list[str]:
    deadline = timeline.scenario.deadline_slots
    held = timeline.held[-1]
    if held.slot > 0:
        quality = "" if timeline.psnr_db is None else f", PSNR {timeline.psnr_db:.1f} dB"
        return [
            f"At the deadline, slot {deadline}, the device shows step t = {held.step}: "
            f"latent error {timeline.latent_mse:.3g}{quality}, {timeline.bits_sent} bits sent."
        ]
    lines = [
        f"Nothing arrived by the deadline, slot {deadline}: the device still shows no picture, "
        f"latent error {timeline.latent_mse:.3g}."
    ]
    if timeline.uplink_slots is None:
        reason = "The upload of the prompt alone took longer."
    elif timeline.transmissions:
        reason = "What was sent was still under way."
    else:
        reason = (
            f"The upload took {timeline.uplink_slots} slots, "
            "and the policy saw nothing that could arrive in time."
        )
    other = "" if timeline.policy == "progressive" else ", or --policy progressive"
    return [*lines, f"{reason} A higher --snr-db or a later --deadline would help{other}."]


def print_comparison(comparison: Comparison, files: Sequence[Path]) -> None:
    """One line per policy."""
    console = _console()
    table = _table("policy", "shown", "latent error", "PSNR dB", "transfers", "bits sent")
    for timeline in comparison.timelines:
        held = timeline.held[-1]
        table.add_row(
            timeline.policy,
            f"t = {held.step}" if held.slot > 0 else "nothing",
            f"{timeline.latent_mse:.3g}",
            "-" if timeline.psnr_db is None else f"{timeline.psnr_db:.1f}",
            str(sum(sent.arrived_slot is not None for sent in timeline.transmissions)),
            str(timeline.bits_sent),
        )
    console.print(table)
    print_files(files)


def print_model(description: dict[str, Any], card: str | None) -> None:
    """What a model is, and its card."""
    console = _console()
    schedule = description["noise_schedule"]
    shape = " x ".join(map(str, description["latent_shape"]))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    rows = {
        "model": description["model"],
        "pipeline": description["pipeline"],
        "folder": description["folder"] or "(from the hub)",
        "latent": f"{shape} = {description['latent_size']} numbers",
        "picture": f"{description['picture_size'][1]} x {description['picture_size'][0]} pixels",
        **{f"parameters, {name}": f"{count:,}" for name, count in description["parameters"].items()},
        "noise schedule": (
            f"{schedule['beta_schedule']} beta {schedule['beta_start']:g} to {schedule['beta_end']:g} in "
            f"{schedule['training_steps']} training steps, predicts {schedule['prediction_type']}"
        ),
        "guidance scale": f"{description['guidance_scale']:g}",
        "model card": description["model_card"] or "(none)",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    if card is not None:
        console.print()
        console.print(card.strip())


def print_card(path: Path) -> None:
    """The card of a model that was just trained."""
    console = _console()
    console.print(path.read_text(encoding="utf-8").strip())
    console.print()
    print_files([path])


def print_recording(summary: dict[str, Any]) -> None:
    """How much was recorded, and where."""
    console = _console()
    sentence = f"{summary['items']} items of {summary['model']}, {summary['new_items']} of them new"
    if summary["new_items"]:
        sentence += f", in {summary['seconds']:.1f} s, {summary['denoiser_share']:.0%} of it in the denoiser"
    console.print(f"{sentence}.", soft_wrap=not console.is_terminal)
    print_files([Path(summary["folder"])])


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of numbers under a title."""
    console = _console()
    table = _table(*headings)
    for row in rows:
        table.add_row(*row)
    console.print(title)
    console.print(table)


def print_files(files: Sequence[Path]) -> None:
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


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 and heading == "policy" else "right")
    return table


def _console(*, stderr: bool = False) -> Console:
    # Prompts and paths may hold brackets and numbers; they are printed as they are.
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not stderr and console.width < MIN_WIDTH:
        console.width = MIN_WIDTH
    return console
