"""The columns of the tidy table of a study: one row per SNR, policy and episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError

__all__ = ["BOUND_COLUMNS", "COLUMNS", "PICTURE_COLUMNS", "Column", "EpisodeColumns"]

Values: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        name: the column's name.
        dtype: NumPy's name of the type; "str" for text.
        unit: unit of the values, empty for a name or a number without one.
        meaning: one line for whoever reads the table.
    """

    name: str
    dtype: str
    unit: str
    meaning: str


COLUMNS = (
    Column("snr_db", "float64", "dB", "average signal-to-noise ratio of the link"),
    Column("policy", "str", "", "the policy's name"),
    Column("episode", "int64", "", "number of the episode; equal numbers had equal channel draws"),
    Column("uplink_slots", "int32", "slots", "T_ul, slots of the prompt's upload; T_d + 1 if it never ended"),
    Column("latent_mse", "float64", "", "error of the latent held at the deadline; at model level D_total"),
    Column("held_step", "int32", "", "step of the latent held at the deadline; T if nothing arrived"),
    Column("first_slot", "int32", "slots", "first slot at whose end the device had something; 0 for never"),
    Column("transmissions", "int32", "", "transfers started"),
    Column("bits_sent", "float64", "bits", "bits of the transfers that arrived by the deadline"),
    Column("predicted_mse", "float64", "", "D_total that the distortion model gives for what is held"),
    Column("judged_transfers", "int32", "", "transfers begun with their predicted latency left"),
    Column("quantile_slots", "int32", "slots", "predicted latency quantile, summed over judged transfers"),
    Column(
        "actual_slots",
        "int32",
        "slots",
        "slots really taken, summed over them, to T_d + 1 if still under way",
    ),
    Column("late_transfers", "int32", "", "judged transfers that took longer than the quantile"),
    Column(
        "limit_mse",
        "float64",
        "",
        "sequential rate-distortion limit on the episode's rates, of a Gaussian source with the moments of "
        "this one; NaN if they are not known",
    ),
    Column(
        "clairvoyant_mse",
        "float64",
        "",
        "least D_total of the paper's codec with the episode's rates known; model level only, else NaN",
    ),
    Column("psnr_db", "float64", "dB", "PSNR of the picture at the deadline; NaN if not asked for"),
    Column("ssim", "float64", "", "SSIM of the picture at the deadline; NaN if not asked for"),
    Column("ms_ssim", "float64", "", "multi-scale SSIM of the picture at the deadline; NaN if not asked for"),
    Column("flip", "float64", "", "FLIP error of the picture at the deadline; NaN if not asked for"),
    Column("lpips", "float64", "", "LPIPS distance of the picture at the deadline; NaN if not asked for"),
)
"""The table's columns in order.

Latency is judged on the transfers that begin while their predicted latency still ends by the deadline. The
choice is made when a transfer starts, so it favours neither quick nor slow ones, and whether such a transfer
is late is always known: a share of late_transfers / judged_transfers of about 1 - q is good calibration.
"""

PICTURE_COLUMNS = ("psnr_db", "ssim", "ms_ssim", "flip", "lpips")
"""Columns that exist at latent level only, and there when asked for."""

BOUND_COLUMNS = ("limit_mse", "clairvoyant_mse")
"""Bounds of an episode, the same for every policy."""

OPTIONAL_COLUMNS = (*BOUND_COLUMNS, *PICTURE_COLUMNS)

CONSTANT_COLUMNS = ("snr_db", "policy")


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeColumns:
    """Episodes of one SNR and policy, side by side.

    Attributes:
        snr_db: the link's average signal-to-noise ratio.
        policy: the policy's name.
        values: every other column of `COLUMNS` by name, each of shape (episodes,) and of its column's type,
            read-only; bounds and picture columns that are not given become NaN.

    Raises:
        ParameterError: if a column is missing, unknown or of another length.

    Example:
        >>> names = [column.name for column in COLUMNS[2:] if column.name not in OPTIONAL_COLUMNS]
        >>> block = EpisodeColumns(snr_db=3.0, policy="lookahead", values={name: [1, 2] for name in names})
        >>> len(block), len(block.take(1)), block.column("snr_db").tolist(), block.values["flip"].tolist()
        (2, 1, [3.0, 3.0], [nan, nan])
    """

    snr_db: float
    policy: str
    values: Mapping[str, Values]

    def __post_init__(self) -> None:
        wanted = {column.name: column.dtype for column in COLUMNS if column.name not in CONSTANT_COLUMNS}
        for name in (wanted.keys() - set(OPTIONAL_COLUMNS)) ^ (self.values.keys() - set(OPTIONAL_COLUMNS)):
            fault = "lacks" if name in wanted else "has the unknown"
            raise ParameterError(f"values {fault} column {name!r}; the columns are {', '.join(wanted)}")
        size = len(self.values["episode"])
        made: dict[str, Values] = {}
        for name, dtype in wanted.items():
            array = np.array(self.values.get(name, np.full(size, np.nan)), dtype=dtype)
            if array.shape != (size,):
                raise ParameterError(f"column {name} has shape {array.shape}; it must be ({size},)")
            array.flags.writeable = False
            made[name] = array
        object.__setattr__(self, "values", made)

    def __len__(self) -> int:
        return len(self.values["episode"])

    def column(self, name: str) -> Values:
        """One column by name, shape (episodes,); SNR and policy are repeated."""
        if name in CONSTANT_COLUMNS:
            return np.full(len(self), getattr(self, name))
        return self.values[name]

    def adding(self, values: Mapping[str, Values]) -> EpisodeColumns:
        """The same episodes with further columns."""
        return EpisodeColumns(snr_db=self.snr_db, policy=self.policy, values={**self.values, **values})

    def take(self, count: int) -> EpisodeColumns:
        """The first `count` episodes, or all where there are fewer: a study's last block may be short."""
        return EpisodeColumns(
            snr_db=self.snr_db,
            policy=self.policy,
            values={name: array[:count] for name, array in self.values.items()},
        )
