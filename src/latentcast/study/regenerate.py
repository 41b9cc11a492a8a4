"""A study from its configuration to everything that a reader wants: tables, figures, report."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latentcast.delivery.timeline import Decode
from latentcast.errors import ParameterError
from latentcast.study.limit import LimitResult, LimitRow, run_limit
from latentcast.study.output import OutputFolder
from latentcast.study.recording.store import Recording
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.provenance import describe_software, now
from latentcast.study.runner.run import StudyResult, run_study, study_policies, study_scenario
from latentcast.study.runner.trajectories import Progress, find_trajectories, manifest_digest
from latentcast.study.runner.versus import Saving, savings

__all__ = ["Regenerated", "regenerate"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Regenerated:
    """What a study left.

    Attributes:
        folder: The results' folder.
        files: The table, figures and pages to look at, the most telling first.
        summary: One row per SNR, policy and quantity, of a study of deadlines.
        savings: SNR that its first policy saves against each other; see `Saving`.
        limit: One row per case and SNR, of a study of the limit.
    """

    folder: Path
    files: tuple[Path, ...]
    summary: list[dict[str, Any]] = field(default_factory=list, repr=False)
    savings: list[Saving] = field(default_factory=list, repr=False)
    limit: tuple[LimitRow, ...] = field(default=(), repr=False)


def regenerate(
    config: StudyConfig,
    out: str | Path,
    *,
    processes: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Regenerated:
    """Run a study of any kind, or go on with it, and draw it.

    Args:
        config: The study.
        out: Folder of the results.
        processes: As `run_study`.
        ray: As `run_study`.
        progress: As `run_study`, with "figures" after "tables".

    Raises:
        LatentcastError: If anything is wrong; finished parts are kept.
    """
    try:
        import matplotlib as _  # noqa: F401  # now, and not after the work
    except ImportError as error:
        raise ParameterError(
            f"figures need the package {error.name}; install it with: pip install 'latentcast[study]'"
        ) from error
    if config.kind == "validation":
        return _validate(config, OutputFolder(out), progress)
    if config.kind == "limit":
        return _limit(config, run_limit(config, out, processes=processes, ray=ray, progress=progress))
    result = run_study(config, out, processes=processes, ray=ray, progress=progress)
    return _report(config, result, progress)


def _report(config: StudyConfig, result: StudyResult, progress: Progress | None) -> Regenerated:
    from latentcast.study.figures.examples import make_examples, spread_snrs
    from latentcast.study.figures.report import write_report

    examples: tuple[Any, ...] = ()
    if config.metrics and result.recording is not None and config.link is not None:
        grid = config.link.snr_db
        examples = make_examples(
            result.recording,
            study_scenario(config, result.recording, grid[0]),
            partial(study_policies, config, result.knowledge),
            spread_snrs(grid),
            decode=_decoder(config, result.recording),
            seed=config.seed,
            episodes=tuple(range(min(2, config.episodes))),
            progress=_stage(progress, "example pictures"),
        )
    page = write_report(
        result.folder,
        title=config.title,
        examples=examples,
        summary=result.summary,
        progress=_stage(progress, "figures"),
    )
    figures = sorted(result.folder.glob("fig*.svg"))
    tables = [result.folder / name for name in ("episodes.parquet", "summary.parquet")]
    return Regenerated(
        folder=result.folder,
        files=(page, *figures, *tables),
        summary=result.summary,
        savings=savings(result.summary),
    )


def _limit(config: StudyConfig, result: LimitResult) -> Regenerated:
    from latentcast.study.figures.limit import write_limit_report

    folder = OutputFolder(result.folder)
    page = write_limit_report(result.cases, folder, title=config.title, provenance=result.provenance)
    names = ("limit.svg", "limit-gap.svg", "limit.parquet")
    return Regenerated(
        folder=result.folder, files=(page, *(result.folder / name for name in names)), limit=result.rows
    )


def _validate(config: StudyConfig, folder: OutputFolder, progress: Progress | None) -> Regenerated:
    from latentcast.study.figures.validation import draw_validation
    from latentcast.study.runner.choices import ValidationChoice

    started = now()
    recording = find_trajectories(config, folder.path, progress)
    choice = config.validation or ValidationChoice()
    draw_validation(
        recording,
        folder.path,
        pairs=choice.pairs,
        bits=choice.bits,
        decode=_decoder(config, recording) if choice.pictures else None,
        num_pictures=min(choice.pictures, recording.num_items),
        progress=_stage(progress, "trajectories"),
    )
    provenance = {
        "configuration": config.model_dump(mode="json"),
        "recording": {"folder": str(recording.folder), "digest": manifest_digest(recording)},
        "seed": config.seed,
        **describe_software(),
        "started": started,
        "finished": now(),
    }
    written = folder.write_json("provenance.json", provenance)
    names = ("fig2a.svg", "fig2b.svg", "fig2.parquet")
    return Regenerated(folder=folder.path, files=(*(folder.path / name for name in names), written))


def _decoder(config: StudyConfig, recording: Recording) -> Decode:
    from latentcast.diffusion.pipeline import load_pipeline

    device = config.trajectories.device if config.trajectories is not None else "cpu"
    return load_pipeline(recording.model, device, num_steps=recording.path.num_steps).decode


def _stage(progress: Progress | None, name: str) -> Any:
    """A progress of one stage, as figures report it."""
    return None if progress is None else partial(progress, name)
