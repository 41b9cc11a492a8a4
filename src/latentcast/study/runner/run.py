"""One study from its configuration to its tables, resumable at any moment."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from latentcast.errors import ParameterError
from latentcast.policy.catalog import Scheme
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.metrics.catalog import make_metric
from latentcast.study.output import OutputFolder
from latentcast.study.recording.store import Recording
from latentcast.study.runner.cluster import check_cluster, run_on_cluster
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.folder import StudyFolder
from latentcast.study.runner.knowledge import Knowledge
from latentcast.study.runner.pool import num_cores, run_here, run_on_processes
from latentcast.study.runner.provenance import describe_software, now
from latentcast.study.runner.results import merge
from latentcast.study.runner.schemes import make_schemes
from latentcast.study.runner.tasks import Job, Task, know, latent_size, study_tasks
from latentcast.study.runner.trajectories import Progress, find_trajectories, manifest_digest
from latentcast.study.runner.versus import savings, verdicts

__all__ = ["StudyResult", "run_study", "study_policies", "study_scenario"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyResult:
    """A finished study.

    Attributes:
        folder: With episodes.parquet, summary.parquet, summary.json and provenance.json.
        recording: The trajectories, None where nothing is recorded.
        knowledge: What was known of their source.
        summary: One row per SNR, policy and quantity; see `Summary.rows`.
    """

    folder: Path
    recording: Recording | None
    knowledge: Knowledge = field(repr=False)
    summary: list[dict[str, Any]] = field(repr=False)


def run_study(
    config: StudyConfig,
    out: str | Path,
    *,
    processes: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run a study of deadlines, or go on with one that was interrupted.

    The tables depend on the configuration, the trajectories and the version of latentcast, not on how many
    processes ran it, where, or how often it was interrupted. A script that uses more than one process needs
    the usual `if __name__ == "__main__":` around its work, since each process imports the script.

    Args:
        config: The study.
        out: Folder of the results; one that holds the same study is gone on with.
        processes: Processes to use; 1 runs all in this one, None uses all cores.
        ray: Address of a Ray cluster to run on instead; see `run_on_cluster`.
        progress: Called with what is being done ("recording", "episodes", "tables"), how much of it is done,
            and how much there is.

    Raises:
        LatentcastError: If anything is wrong; finished parts are kept.
    """
    if config.kind != "deadline":
        raise ParameterError(f"run_study runs studies of deadlines; this is one of kind {config.kind!r}")
    if processes is not None and processes < 1:
        raise ParameterError(f"processes is {processes}; it must be at least 1")
    if processes is not None and ray is not None:
        raise ParameterError(
            "processes are those of this machine; a Ray cluster has its own, so give one of them"
        )
    # All that can be wrong shows before hours of recording.
    _check(config, config.scenario.latent_size or PAPER_LATENT_SIZE)
    for metric in config.metrics:
        make_metric(metric.name, **metric.options)
    if ray is not None and config.records:
        check_cluster(ray)
    path = OutputFolder(out).path
    recording = find_trajectories(config, path, progress) if config.records else None
    knowledge = know(config, recording)
    folder = StudyFolder(path, _identity(config, recording, knowledge))
    if not folder.finished:
        _check(config, latent_size(config, recording))
        _run_tasks(config, folder, recording, knowledge, processes, ray, progress)
        _write_tables(config, folder, progress)
        folder.finish(
            {
                **folder.identity,
                "configuration": config.model_dump(mode="json"),
                "seed": config.seed,
                **describe_software(),
                "ran_on": ray or f"{processes or num_cores()} processes",
                "started": folder.started,
                "finished": now(),
            }
        )
    return StudyResult(folder=path, recording=recording, knowledge=knowledge, summary=_read_summary(path))


def study_scenario(config: StudyConfig, recording: Recording | None, snr_db: float) -> Scenario:
    """The scenario of a study at one SNR."""
    return config.scenario_at(snr_db, latent_size(config, recording))


def study_policies(config: StudyConfig, knowledge: Knowledge, scenario: Scenario) -> Sequence[Scheme]:
    """The policies of a study in a scenario, in the study's order."""
    return make_schemes(config.policies, scenario, knowledge.calibration)


def _check(config: StudyConfig, size: int) -> None:
    for snr_db in _snrs(config):
        make_schemes(config.policies, config.scenario_at(snr_db, size))


def _snrs(config: StudyConfig) -> tuple[float, ...]:
    return config.link.snr_db if config.link is not None else ()


def _identity(config: StudyConfig, recording: Recording | None, knowledge: Knowledge) -> dict[str, Any]:
    """What decides the tables."""
    configuration = config.model_dump(mode="json", exclude={"title"})
    identity: dict[str, Any] = {"version": version("latentcast"), "configuration": configuration}
    if recording is not None:
        # Where the recording lies does not matter, what is in it does.
        configuration["trajectories"].pop("recording")
        identity["recording"] = {
            "model": recording.model,
            "items": recording.num_planned,
            "root_seed": recording.manifest.root_seed,
            "digest": manifest_digest(recording),
            "calibration": knowledge.digest,
        }
    return identity


def _run_tasks(
    config: StudyConfig,
    folder: StudyFolder,
    recording: Recording | None,
    knowledge: Knowledge,
    processes: int | None,
    ray: str | None,
    progress: Progress | None,
) -> None:
    policies = len(config.policies)
    total = config.episodes * len(_snrs(config))
    done = 0
    pending: list[Task] = []
    for task in study_tasks(config):
        if folder.has(task, policies):
            done += task.episodes
        else:
            pending.append(task)
    if progress is not None:
        progress("episodes", done, total)
    if not pending:
        return
    place = None if recording is None else str(recording.folder.resolve())
    job = Job(config.model_dump_json(exclude_unset=True), place, None if recording is None else knowledge)
    with closing(_results(job, pending, processes, ray)) as results:
        for task, part in results:
            folder.write_part(task, part)
            done += task.episodes
            if progress is not None:
                progress("episodes", done, total)


def _results(
    job: Job, tasks: Sequence[Task], processes: int | None, ray: str | None
) -> Generator[tuple[Task, bytes], None, None]:
    if ray is not None:
        return run_on_cluster(job, tasks, ray)
    workers = min(num_cores() if processes is None else processes, len(tasks))
    return run_here(job, tasks) if workers == 1 else run_on_processes(job, tasks, workers)


def _write_tables(config: StudyConfig, folder: StudyFolder, progress: Progress | None) -> None:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("tables", done, total)

    parts = [
        [folder.part(task) for task in tasks] for _, tasks in groupby(study_tasks(config), lambda t: t.snr)
    ]
    summary = merge(folder.output, parts, len(config.policies), progress=tell)
    folder.output.write_bytes("summary.parquet", summary.parquet())
    rows = summary.rows()
    against = {
        "savings": [asdict(saving) for saving in savings(rows)],
        "verdicts": [asdict(verdict) for verdict in verdicts(rows)],
    }
    folder.output.write_json("summary.json", {"rows": rows, **against})


def _read_summary(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads((path / "summary.json").read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path / 'summary.json'} cannot be read: {error!r}; delete {path} and run the study anew"
        ) from error
    return list(rows)
