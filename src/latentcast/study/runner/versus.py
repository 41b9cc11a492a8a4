"""A study's first policy against the others: SNR saved at equal error, and where it is better or worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.study.metrics.catalog import METRICS

__all__ = ["LEVELS", "Saving", "Verdict", "savings", "verdicts"]

FloatArray: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = Sequence[dict[str, Any]]

LEVELS = (1.0, 0.5, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4, 1e-5, 1e-6)
"""Latent MSEs at which SNRs are compared."""

LOWER_IS_BETTER = {"latent_mse": True} | {kind.column: kind.direction == "lower" for kind in METRICS.values()}


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How much less SNR the first policy needs for an error than another.

    Attributes:
        policy: The other.
        latent_mse: The error.
        snr_db: The lowest SNR at which the other reaches it, by interpolation of the logarithm; the highest
            of the study where it never does.
        first_snr_db: The SNR from which on the first policy reaches it; the lowest of the study where it
            always does.
        saved_db: Their difference.
        at_least: Whether one of the two lies beyond the study's SNRs, so that more is saved.
    """

    policy: str
    latent_mse: float
    snr_db: float
    first_snr_db: float
    saved_db: float
    at_least: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where the first policy is better, and where worse, by 95 % intervals of paired differences.

    Attributes:
        policy: The other.
        quantity: What is compared.
        better: SNRs at which the first is better.
        equal: SNRs at which the interval holds no difference.
        worse: SNRs at which the first is worse.
    """

    policy: str
    quantity: str
    better: tuple[float, ...]
    equal: tuple[float, ...]
    worse: tuple[float, ...]


def savings(rows: Rows, levels: Sequence[float] = LEVELS) -> list[Saving]:
    """Compare SNRs at equal latent MSE.

    Args:
        rows: `Summary.rows`.
        levels: Errors to compare at.

    Returns:
        By policy, then level; without levels that either policy's SNRs tell nothing of.

    Example:
        >>> def row(policy, snr_db, mean):
        ...     return {"policy": policy, "snr_db": snr_db, "quantity": "latent_mse", "mean": mean}
        >>> rows = [row("new", 0, 0.1), row("new", 10, 0.001), row("old", 0, 1.0), row("old", 10, 0.01)]
        >>> [(s.latent_mse, s.saved_db, s.at_least) for s in savings(rows, [0.5, 0.05, 0.01])]
        [(0.5, 1.505, True), (0.05, 5.0, False), (0.01, 5.0, False)]
    """
    curves = _curves(rows, "latent_mse")
    if not curves:
        return []
    first, *others = curves
    snr_db, mean = curves[first]
    # From which SNR on the first is at most so bad, and for the others the best that they have shown.
    steady = np.maximum.accumulate(mean[::-1])[::-1]
    found = []
    for policy in others:
        other_snr, other_mean = curves[policy]
        best = np.minimum.accumulate(other_mean)
        for level in levels:
            mine, theirs = _crossing(snr_db, steady, level), _crossing(other_snr, best, level)
            if mine is None or (mine == snr_db[0] and theirs == other_snr[0]):
                continue
            reached = float(other_snr[-1]) if theirs is None else theirs
            found.append(
                Saving(
                    policy=policy,
                    latent_mse=level,
                    snr_db=round(reached, 3),
                    first_snr_db=round(mine, 3),
                    saved_db=round(reached - mine, 3),
                    at_least=theirs is None or mine == float(snr_db[0]),
                )
            )
    return found


def verdicts(rows: Rows) -> list[Verdict]:
    """Say where the first policy is better or worse, for the latent MSE and every picture metric.

    Args:
        rows: `Summary.rows`.

    Returns:
        By policy, then quantity.
    """
    places: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        lower_is_better = LOWER_IS_BETTER.get(row["quantity"])
        if lower_is_better is None or not row["pairs"]:
            continue
        low, high = row["difference_low"], row["difference_high"]
        if low is None:  # of one pair
            continue
        place = places.setdefault((row["policy"], row["quantity"]), {"better": [], "equal": [], "worse": []})
        # The difference is the other's value less the first's.
        above, below = low > 0.0, high < 0.0
        first_wins = above if lower_is_better else below
        place["better" if first_wins else "worse" if above or below else "equal"].append(row["snr_db"])
    policies = dict.fromkeys(policy for policy, _ in places)
    return [
        Verdict(policy=policy, quantity=quantity, **{name: tuple(at) for name, at in place.items()})
        for wanted in policies
        for (policy, quantity), place in places.items()
        if policy == wanted
    ]


def _curves(rows: Rows, quantity: str) -> dict[str, tuple[FloatArray, FloatArray]]:
    """SNRs, rising, and means by policy, in the study's order."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["quantity"] == quantity:
            points.setdefault(row["policy"], []).append((row["snr_db"], row["mean"]))
    return {
        policy: (np.array(sorted(values))[:, 0], np.array(sorted(values))[:, 1])
        for policy, values in points.items()
    }


def _crossing(snr_db: FloatArray, mean: FloatArray, level: float) -> float | None:
    """Where a falling curve comes down to a level; its first SNR if it is there already, None for never."""
    (below,) = np.nonzero(mean <= level)
    if not below.size:
        return None
    index = int(below[0])
    if index == 0 or mean[index] <= 0.0:
        return float(snr_db[index])
    above, under = math.log(mean[index - 1]), math.log(mean[index])
    share = (above - math.log(level)) / (above - under)
    return float(snr_db[index - 1] + share * (snr_db[index] - snr_db[index - 1]))
