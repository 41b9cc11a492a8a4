"""What `latentcast model calibrate` and `latentcast model fit` do, once their arguments are parsed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentcast.cli import console
from latentcast.cli.packages import needs
from latentcast.codec.calibration import Calibration, calibration_file
from latentcast.diffusion.loading import EMBEDDED, find_model, quiet
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.source import seed_stream
from latentcast.errors import ModelError, ParameterError
from latentcast.study.output import OutputFolder

if TYPE_CHECKING:
    from latentcast.study.figures.fit import Fit
    from latentcast.study.recording.store import Recording

__all__ = ["Runs", "run_model_calibrate", "run_model_fit"]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The denoising runs that a model is measured on.

    Attributes:
        model: "scenes", a folder or a hub id.
        source: File of prompts; None for the embedded model's own.
        count: Prompts to take.
        seed: Root seed.
        num_steps: T.
        batch_size: Prompts denoised at once.
        device: torch device.

    Raises:
        ParameterError: If the seed is out of range.
    """

    model: str
    source: str | None
    count: int
    seed: int
    num_steps: int
    batch_size: int
    device: str

    def __post_init__(self) -> None:
        seed_stream(self.seed, "noise")

    def prompts(self) -> tuple[str, ...]:
        """What is generated.

        Raises:
            ParameterError: If there are no prompts for this model, or the file has none.
        """
        if self.source is not None:
            from latentcast.study.recording.prompts import read_prompts

            return tuple(read_prompts(self.source, count=self.count))
        if self.model != EMBEDDED:
            raise ParameterError("give --prompts FILE: some dozens of prompts such as the model will get")
        from latentcast.diffusion.scenes.held_out import NUM_HELD_OUT, held_out_prompts

        # Not those that results are measured on.
        return held_out_prompts(NUM_HELD_OUT + self.count)[NUM_HELD_OUT:]

    @contextmanager
    def recorded(self, prompts: tuple[str, ...]) -> Iterator[Recording]:
        """Generate, with a progress bar, into a folder that is gone when the block ends.

        Raises:
            LatentcastError: If the model cannot be loaded or fails.
        """
        from latentcast.study.recording.record import record

        with tempfile.TemporaryDirectory() as scratch, quiet():
            with console.RecordProgress.show(self.model) as progress:
                loaded = load_pipeline(self.model, self.device, num_steps=self.num_steps)
                runs = record(
                    loaded,
                    prompts,
                    Path(scratch),
                    seed=self.seed,
                    batch_size=self.batch_size,
                    progress=progress,
                )
            yield runs


def run_model_calibrate(runs: Runs, out: Path | None, *, as_json: bool) -> None:
    """Generate for some dozens of prompts, and fit the progressive codec's targets to the runs.

    Raises:
        LatentcastError: If anything is wrong; the file is written only when all is computed.
    """
    file = calibration_file(runs.model) if out is None else out
    with needs("calibrating needs", "study"):
        prompts = runs.prompts()
        folder = OutputFolder(file.parent)
        with runs.recorded(prompts) as recording:
            calibration = Calibration.fit(
                (recording.trajectory(item) for item in range(recording.num_items)),
                model=runs.model,
                seed=runs.seed,
            )
    written = folder.write_json(file.name, calibration.to_dict())
    if as_json:
        console.print_json({"file": str(written), **calibration.to_dict()})
    else:
        _print_calibration(calibration, written)


def run_model_fit(runs: Runs, folder: Path | None, out: Path, *, card: bool, as_json: bool) -> None:
    """Measure and draw how well a model's trajectories fit the theory.

    Args:
        runs: What to generate where there is no recording.
        folder: A recording of the model.
        out: Folder for figures and numbers.
        card: Whether the table goes into the model's card.
        as_json: Whether the numbers are printed as JSON.

    Raises:
        LatentcastError: If anything is wrong; files are written only when all is computed.
    """
    place = find_model(runs.model)
    if card and not isinstance(place, Path):
        raise ParameterError(f"{runs.model} is a model of the hub, whose card cannot be written")
    with needs("measuring a fit needs", "study"):
        from latentcast.study.figures.fit import measure_fit
        from latentcast.study.figures.fit_figures import draw_fit
        from latentcast.study.recording.store import Recording

        output = OutputFolder(out)
        with console.StageProgress.show() as bars:

            def measured(recording: Recording) -> Fit:
                return measure_fit(recording, progress=lambda done, total: bars("measuring", done, total))

            if folder is not None:
                recording = Recording.open(folder)
                if recording.model != runs.model:
                    raise ParameterError(f"{folder} was recorded of {recording.model}, not of {runs.model}")
                fit, seed = measured(recording), recording.manifest.root_seed
            else:
                with runs.recorded(runs.prompts()) as recording:
                    fit, seed = measured(recording), runs.seed
    values = {"model": runs.model, "seed": seed, **fit.to_dict()}
    files = [output.write_json("fit.json", values), *draw_fit(fit, output)]
    if card:
        from latentcast.diffusion.scenes.card import FIT_SECTION, write_section

        assert isinstance(place, Path)
        try:
            write_section(place, FIT_SECTION, _markdown(fit, seed))
        except OSError as error:
            raise ModelError(f"cannot write the card in {place}: {error.strerror or error}") from error
        files.append(place / "README.md")
    if as_json:
        console.print_json({**values, "files": [str(file) for file in files]})
    else:
        _print_fit(fit, files)


def _print_calibration(calibration: Calibration, file: Path) -> None:
    """How good the estimates of x_0 are, step by step."""
    console.print_table(
        ("step t", "error to x_0", "of the noise"),
        [
            (str(step), f"{calibration.mmse[step]:.5f}", f"{1.0 - calibration.alpha_bar[step]:.5f}")
            for step in range(calibration.num_steps, -1, -max(calibration.num_steps // 10, 1))
        ],
    )
    console.print_files([file])


def _print_fit(fit: Fit, files: Sequence[Path]) -> None:
    """How the measured quantities compare with the theory."""
    for headings, rows in (_distortion_rows(fit), _refinement_rows(fit)):
        console.print_table(headings, rows)
    console.print_sentence(_final_latent(fit))
    console.print_files(files)


def _markdown(fit: Fit, seed: int) -> str:
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
