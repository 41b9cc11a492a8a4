"""Means, confidence intervals and paired differences of a study, gathered part by part."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from latentcast.study.episodes.columns import BOUND_COLUMNS, PICTURE_COLUMNS

__all__ = ["QUANTITIES", "Summary"]

FloatArray = npt.NDArray[np.float64]

QUANTITIES = (
    "latent_mse",
    *BOUND_COLUMNS,
    *PICTURE_COLUMNS,
    "shown",
    "first_slot",
    "transmissions",
    "bits_sent",
    "predicted_mse",
    "judged_transfers",
    "late_transfers",
    "quantile_slots",
    "actual_slots",
)
"""Columns that are summarised. "shown" is 1 for an episode whose device had something at the deadline, and
"first_slot" counts those episodes only."""

SCHEMA = pa.schema(
    [
        ("snr_db", pa.float64()),
        ("policy", pa.string()),
        ("quantity", pa.string()),
        ("n", pa.int64()),
        *(
            (f"{prefix}{name}", pa.float64())
            for prefix in ("", "difference_")
            for name in ("mean", "standard_error", "low", "high")
        ),
        ("pairs", pa.int64()),
    ]
)


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations, merged as Chan, Golub and LeVeque do."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: FloatArray) -> None:
        """Take in more values; NaN means that nothing was measured."""
        known = values[~np.isnan(values)]
        if not known.size:
            return
        mean = float(known.mean())
        both = self.count + known.size
        shift = mean - self.mean
        self.squares += float(((known - mean) ** 2).sum()) + shift**2 * self.count * known.size / both
        self.mean += shift * known.size / both
        self.count = both

    def estimate(self, prefix: str = "") -> dict[str, float | None]:
        """Mean, standard error and 95 % interval by Student's law; None where there are too few values."""
        from scipy.special import stdtrit  # 0.2 s to import

        values: dict[str, float | None] = dict.fromkeys(("mean", "standard_error", "low", "high"))
        if self.count:
            values["mean"] = self.mean
        if self.count > 1:
            error = math.sqrt(self.squares / (self.count - 1) / self.count)
            half = float(stdtrit(self.count - 1, 0.975)) * error
            values |= {"standard_error": error, "low": self.mean - half, "high": self.mean + half}
        return {prefix + name: value for name, value in values.items()}


@dataclass
class _Cell:
    """One quantity under one policy at one SNR, and its difference to the first policy."""

    own: _Moments = field(default_factory=_Moments)
    difference: _Moments = field(default_factory=_Moments)


class Summary:
    """Statistics of a study's episodes; the order in which parts are added decides the last bits."""

    def __init__(self) -> None:
        self._cells: dict[tuple[float, str], dict[str, _Cell]] = {}

    def add(self, tables: Sequence[Any]) -> None:
        """Take in one part: one table per policy, row by row the same episodes."""
        first: dict[str, FloatArray] = {}
        for table in tables:
            key = (table.column("snr_db")[0].as_py(), table.column("policy")[0].as_py())
            cells = self._cells.setdefault(key, {name: _Cell() for name in QUANTITIES})
            for name, cell in cells.items():
                values = _values(table, name)
                cell.own.add(values)
                if table is tables[0]:
                    first[name] = values
                else:
                    cell.difference.add(values - first[name])

    def rows(self) -> list[dict[str, Any]]:
        """One row per SNR, policy and quantity that was measured; None for what is not defined."""
        return [
            {
                "snr_db": snr_db,
                "policy": policy,
                "quantity": name,
                "n": cell.own.count,
                **cell.own.estimate(),
                **cell.difference.estimate("difference_"),
                "pairs": cell.difference.count,
            }
            for (snr_db, policy), cells in self._cells.items()
            for name, cell in cells.items()
            if cell.own.count
        ]

    def parquet(self) -> bytes:
        """The rows as a Parquet file."""
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self.rows(), SCHEMA), sink)
        return sink.getvalue()


def _values(table: Any, name: str) -> FloatArray:
    column = "first_slot" if name == "shown" else name
    values = np.asarray(table.column(column).to_numpy(), np.float64)
    if name == "shown":
        return (values > 0).astype(np.float64)
    return np.where(values > 0, values, np.nan) if name == "first_slot" else values
