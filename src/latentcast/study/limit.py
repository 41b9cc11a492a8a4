"""The study of the limit: how far our scheme and the paper's stand from what any code could have done.

Every case is a study of deadlines on a Gaussian source, in a folder of its own; this module runs them one
after the other and reduces each to a row per SNR.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import ParameterError
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import PAPER_LATENT_SIZE
from latentcast.study.limits.overhead import packet_overhead_bytes
from latentcast.study.runner.choices import CaseChoice
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.folder import StudyFolder
from latentcast.study.runner.pool import num_cores
from latentcast.study.runner.provenance import describe_software, now
from latentcast.study.runner.run import run_study
from latentcast.study.runner.trajectories import Progress

__all__ = ["LimitResult", "LimitRow", "run_limit"]

FloatArray = npt.NDArray[np.float64]

DECIBELS = 10.0 / np.log(10.0)


@dataclass(frozen=True, kw_only=True)
class LimitRow:
    """One SNR of one case; errors are standard errors of the means over episodes.

    Attributes:
        case: The case's name.
        source: Its source, of `GAUSSIAN_MODELS`.
        deadline_slots: T_d.
        num_subchannels: K.
        snr_db: Average SNR in dB.
        episodes: Episodes that the means are over.
        limit: Mean sequential limit on the episodes' rates.
        limit_error: Its standard error.
        ours: Mean latent MSE at the deadline by the progressive scheme.
        ours_error: Its standard error.
        gap_db: 10 log10(ours / limit).
        gap_error_db: Its standard error, of paired episodes by the delta method.
        paper: Mean latent MSE by the look-ahead policy.
        paper_error: Its standard error.
        paper_gap_db: 10 log10(paper / limit).
        bytes: Mean bytes of our packets per episode, all headers included.
        headers: Of these, bytes of headers and terminations; see `packet_overhead_bytes`.
        packets: Mean number of our packets per episode.
    """

    case: str
    source: str
    deadline_slots: int
    num_subchannels: int
    snr_db: float
    episodes: int
    limit: float
    limit_error: float
    ours: float
    ours_error: float
    gap_db: float
    gap_error_db: float
    paper: float
    paper_error: float
    paper_gap_db: float
    bytes: float
    headers: float
    packets: float


@dataclass(frozen=True, kw_only=True, eq=False)
class LimitResult:
    """A finished study of the limit.

    Attributes:
        folder: With limit.parquet, provenance.json, and a folder of each case in `cases`.
        provenance: Configuration, root seed, versions and times.
        rows: Case by case, in the order of its SNRs.
    """

    folder: Path
    provenance: dict[str, Any] = field(repr=False)
    rows: tuple[LimitRow, ...] = field(repr=False)

    @property
    def cases(self) -> dict[str, list[LimitRow]]:
        """The rows by case; the first is the headline."""
        names = dict.fromkeys(row.case for row in self.rows)
        return {name: [row for row in self.rows if row.case == name] for name in names}


def run_limit(
    config: StudyConfig,
    out: str | Path,
    *,
    processes: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> LimitResult:
    """Run a study of the limit, or go on with one that was interrupted.

    Args:
        config: The study.
        out: Folder of the results; one that holds the same study is gone on with.
        processes: As `run_study`.
        ray: As `run_study`.
        progress: Called with what is being done, how much of it is done, and how much there is.

    Raises:
        LatentcastError: If anything is wrong; finished parts are kept.
    """
    if config.kind != "limit":
        raise ParameterError(f"run_limit runs studies of the limit; this is one of kind {config.kind!r}")
    identity = {"version": version("latentcast"), "configuration": config.model_dump(exclude={"title"})}
    folder = StudyFolder(out, identity)
    rows: list[LimitRow] = []
    for case in config.cases:
        study = config.of_case(case)
        tell = None if progress is None else _Renamed(progress, case.name)
        place = folder.path / "cases" / case.name
        run_study(study, place, processes=processes, ray=ray, progress=tell)
        rows += _rows(case, study, place / "episodes.parquet")
    folder.output.write_bytes("limit.parquet", _parquet(rows))
    provenance = {
        **folder.identity,
        "seed": config.seed,
        **describe_software(),
        "ran_on": ray or f"{processes or num_cores()} processes",
        "started": folder.started,
        "finished": now(),
    }
    folder.finish(provenance)
    return LimitResult(folder=folder.path, provenance=provenance, rows=tuple(rows))


@dataclass(frozen=True)
class _Renamed:
    """Progress of a case, whose episodes bear its name."""

    progress: Progress
    name: str

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "episodes":
            self.progress(f"episodes, {self.name}", done, total)


def _rows(case: CaseChoice, study: StudyConfig, table: Path) -> list[LimitRow]:
    import pyarrow.parquet as pq

    names = ["snr_db", "policy", "latent_mse", "limit_mse", "bits_sent", "transmissions"]
    columns = {
        name: np.array(values) for name, values in pq.read_table(table, columns=names).to_pydict().items()
    }
    assert study.link is not None  # of any study of deadlines
    overhead = packet_overhead_bytes(study.scenario.latent_size or PAPER_LATENT_SIZE)
    rows = []
    for snr_db in study.link.snr_db:
        at = columns["snr_db"] == snr_db
        mine = at & (columns["policy"] == ProgressivePolicy.name)
        ours, limit = columns["latent_mse"][mine], columns["limit_mse"][mine]
        paper = columns["latent_mse"][at & ~mine]
        packets = float(columns["transmissions"][mine].mean())
        rows.append(
            LimitRow(
                case=case.name,
                source=case.source,
                deadline_slots=study.scenario.deadline_slots,
                num_subchannels=study.link.num_subchannels,
                snr_db=snr_db,
                episodes=ours.size,
                limit=float(limit.mean()),
                limit_error=_standard_error(limit),
                ours=float(ours.mean()),
                ours_error=_standard_error(ours),
                gap_db=float(DECIBELS * np.log(ours.mean() / limit.mean())),
                gap_error_db=DECIBELS * _standard_error(ours / ours.mean() - limit / limit.mean()),
                paper=float(paper.mean()),
                paper_error=_standard_error(paper),
                paper_gap_db=float(DECIBELS * np.log(paper.mean() / limit.mean())),
                bytes=float(columns["bits_sent"][mine].mean()) / 8.0,
                headers=packets * overhead,
                packets=packets,
            )
        )
    return rows


def _standard_error(values: FloatArray) -> float:
    """Of the mean; NaN for a single value."""
    return float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else float("nan")


def _parquet(rows: Sequence[LimitRow]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    records: list[dict[str, Any]] = [asdict(row) for row in rows]
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()
