"""A finished study's table of episodes, reduced to one curve per policy and column.

The table is read in batches, so that memory does not grow with the number of episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import ParameterError
from latentcast.study.episodes.columns import BOUND_COLUMNS, PICTURE_COLUMNS

__all__ = ["Curves", "read_curves", "read_provenance"]

FloatArray = npt.NDArray[np.float64]

_NUMBERS = (
    "latent_mse",
    "predicted_mse",
    "first_slot",
    "transmissions",
    "bits_sent",
    "judged_transfers",
    "quantile_slots",
    "actual_slots",
    "late_transfers",
)
_KEYS = ("snr_db", "policy")
_BATCH_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Means over episodes; arrays are float64 (policies, SNRs), NaN where nothing was measured.

    Besides the table's columns there is "shown", 1 for an episode whose device had something to show; and
    "first_slot" is averaged over those episodes only.

    Attributes:
        snr_db: The study's SNRs, rising.
        policies: Names, in the order of the table.
        mean: By column.
        half_width: By column, of the 95 % confidence interval of the mean; NaN for fewer than two episodes.
        count: By column, episodes that the mean is over.
    """

    snr_db: tuple[float, ...]
    policies: tuple[str, ...]
    mean: dict[str, FloatArray]
    half_width: dict[str, FloatArray]
    count: dict[str, FloatArray]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Columns of the picture metrics that were measured, in the table's order."""
        return tuple(name for name in PICTURE_COLUMNS if name in self.mean)

    def policy(self, column: str, policy: str) -> tuple[FloatArray, FloatArray]:
        """Mean and half width of one policy against SNR."""
        row = self.policies.index(policy)
        return self.mean[column][row], self.half_width[column][row]

    def ratio(self, upper: str, lower: str) -> FloatArray:
        """Mean of one column over that of another, (policies, SNRs); NaN where the lower one is 0."""
        below = self.mean[lower]
        return np.divide(self.mean[upper], below, out=np.full_like(below, np.nan), where=below > 0.0)


def read_curves(study: Path, *, progress: Callable[[int, int], None] | None = None) -> Curves:
    """Reduce `episodes.parquet` of a finished study.

    Args:
        study: The study's folder.
        progress: Called with rows done and rows in all.

    Raises:
        ParameterError: If the folder is no finished study, or its table is damaged or lacks columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _finished(study) / "episodes.parquet"
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in (*_KEYS, *_NUMBERS) if name not in names]
            if missing:
                raise ParameterError(
                    f"{path} lacks {', '.join(missing)}; make the study anew with this version of latentcast"
                )
            total = file.metadata.num_rows
            if total == 0:
                raise ParameterError(f"{path} holds no episode; run the study with at least one")
            optional = (*BOUND_COLUMNS, *PICTURE_COLUMNS)
            columns = [*_NUMBERS, *(name for name in optional if name in names)]
            moments = _Moments([*columns, "shown"])
            done = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=[*_KEYS, *columns]):
                moments.add(batch)
                done += batch.num_rows
                if progress is not None:
                    progress(done, total)
    except (pa.ArrowException, OSError) as error:
        raise ParameterError(f"cannot read {path}: {_one_line(error)}; make the study anew") from error
    return moments.curves()


def read_provenance(study: Path) -> dict[str, Any]:
    """The study's configuration, seed and versions, as `provenance.json` has them.

    Raises:
        ParameterError: If the folder is no finished study or the file is damaged.
    """
    path = _finished(study) / "provenance.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"cannot read {path}: {_one_line(error)}; make the study anew") from error
    if not isinstance(value, dict):
        raise ParameterError(f"{path} holds a {type(value).__name__}; it must be an object")
    return value


class _Moments:
    """Count, mean and squared deviations per group and column, batch after batch (Chan, Golub, LeVeque)."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.groups: dict[tuple[float, str], int] = {}
        self.count = np.zeros((len(columns), 0))
        self.mean = np.zeros((len(columns), 0))
        self.squares = np.zeros((len(columns), 0))

    def add(self, batch: Any) -> None:
        """Take a record batch of the table."""
        group = self._group(batch)
        size = len(self.groups)
        first_slot = _numbers(batch, "first_slot")
        for row, name in enumerate(self.columns):
            if name == "shown":
                values = (first_slot > 0).astype(np.float64)
            elif name == "first_slot":
                values = np.where(first_slot > 0, first_slot, np.nan)
            else:
                values = _numbers(batch, name)
            known = ~np.isnan(values)
            where, values = group[known], values[known]
            count = np.bincount(where, minlength=size).astype(np.float64)
            mean = np.bincount(where, values, size) / np.maximum(count, 1.0)
            squares = np.bincount(where, (values - mean[where]) ** 2, size)
            both = np.maximum(self.count[row] + count, 1.0)
            shift = mean - self.mean[row]
            self.squares[row] += squares + shift**2 * self.count[row] * count / both
            self.mean[row] += shift * count / both
            self.count[row] += count

    def _group(self, batch: Any) -> npt.NDArray[np.int64]:
        """Number of each row's (SNR, policy), new ones in order of appearance."""
        snr_db = _numbers(batch, "snr_db")
        policy = np.array(batch.column("policy").to_pylist(), object)
        starts = np.flatnonzero(np.append(True, (snr_db[1:] != snr_db[:-1]) | (policy[1:] != policy[:-1])))
        keys = [(float(snr_db[start]), str(policy[start])) for start in starts]
        numbers = [self.groups.setdefault(key, len(self.groups)) for key in keys]
        grown = ((0, 0), (0, len(self.groups) - self.count.shape[1]))
        self.count, self.mean, self.squares = (
            np.pad(array, grown) for array in (self.count, self.mean, self.squares)
        )
        return np.repeat(np.array(numbers), np.diff(np.append(starts, len(snr_db))))

    def curves(self) -> Curves:
        """The means and their confidence intervals, by Student's law."""
        from scipy.special import stdtrit

        snrs = tuple(sorted({snr for snr, _ in self.groups}))
        policies = tuple(dict.fromkeys(policy for _, policy in self.groups))
        where = np.array([self.groups.get((snr, policy), -1) for policy in policies for snr in snrs])
        absent = (where < 0).reshape(len(policies), -1)

        def grid(values: FloatArray) -> FloatArray:
            return np.where(absent, np.nan, values[where].reshape(absent.shape))

        mean, half_width, counts = {}, {}, {}
        for row, name in enumerate(self.columns):
            count = self.count[row]
            if not count.any():
                continue
            freedom = np.where(count > 1, count - 1, np.nan)
            error = np.sqrt(self.squares[row] / freedom / np.maximum(count, 1.0))
            mean[name] = grid(np.where(count > 0, self.mean[row], np.nan))
            half_width[name] = grid(stdtrit(freedom, 0.975) * error)
            counts[name] = grid(count)
        return Curves(snr_db=snrs, policies=policies, mean=mean, half_width=half_width, count=counts)


def _numbers(batch: Any, name: str) -> FloatArray:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.float64)


def _finished(study: Path) -> Path:
    study = Path(study)
    for name in ("episodes.parquet", "provenance.json"):
        if not (study / name).is_file():
            raise ParameterError(
                f"{study} is no finished study, it has no {name}; let `latentcast study run` come to its end"
            )
    return study


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
