"""Slots that a transfer takes: predicted at a quantile (eq. 11 of the paper), and counted on drawn rates."""

import math
from statistics import NormalDist
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.errors import ParameterError

__all__ = ["latency_quantile", "transfer_slots"]

# How far (relative) rounding may lift x^2 above a whole number of slots that already carries all bits.
ROUNDING = 8 * np.finfo(np.float64).eps


@overload
def latency_quantile(bits: float, mean_rate_bits: float, std_rate_bits: float, quantile: float) -> int: ...


@overload
def latency_quantile(
    bits: ArrayLike, mean_rate_bits: float, std_rate_bits: float, quantile: float
) -> "int | NDArray[np.int64]": ...


def latency_quantile(
    bits: ArrayLike, mean_rate_bits: float, std_rate_bits: float, quantile: float
) -> "int | NDArray[np.int64]":
    """Slots within which a transfer completes with probability `quantile` (the paper's T_q).

    Eq. 11: with the sum of N slots taken as Normal(N Rbar, N sigma_R^2), x = sqrt(T_q) is the positive root
    of Rbar x^2 + Phi^-1(1 - q) sigma_R x - B = 0, and T_q = ceil(x^2), here at least 1. The normal law is an
    approximation: rates are neither negative nor exactly normal.

    Args:
        bits: B, bits to carry, a number or an array of any shape; 0 or more.
        mean_rate_bits: Rbar, bits per slot, positive.
        std_rate_bits: sigma_R, bits per slot, 0 or more.
        quantile: q, inside (0, 1); below 0.5 the answer is optimistic.

    Returns:
        The number of slots: int for a number, int64 array of the same shape for an array.

    Raises:
        ParameterError: if an argument is outside its range or not finite.

    Example:
        >>> latency_quantile(3 * 16384, 4319.9, 559.5, 0.9)
        12
        >>> latency_quantile([8.0, 9.0], 4.0, 0.0, 0.9).tolist()
        [2, 3]
    """
    amounts = _numbers("bits", bits)
    if not np.all(np.isfinite(amounts)) or np.any(amounts < 0.0):
        raise ParameterError(f"bits is {bits!r}; every amount must be finite and 0 or more")
    for name, value in (
        ("mean_rate_bits", mean_rate_bits),
        ("std_rate_bits", std_rate_bits),
        ("quantile", quantile),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise ParameterError(f"{name} is {value!r}; it must be a number")
    if not (math.isfinite(mean_rate_bits) and mean_rate_bits > 0.0):
        raise ParameterError(f"mean_rate_bits is {mean_rate_bits!r}; it must be positive and finite")
    if not (math.isfinite(std_rate_bits) and std_rate_bits >= 0.0):
        raise ParameterError(f"std_rate_bits is {std_rate_bits!r}; it must be 0 or more and finite")
    if not 0.0 < quantile < 1.0:
        raise ParameterError(f"quantile is {quantile!r}; it must lie inside (0, 1)")

    # Phi^-1(1 - q) = -Phi^-1(q), without rounding 1 - q.
    linear = -NormalDist().inv_cdf(quantile) * float(std_rate_bits)
    root = np.sqrt(linear * linear + 4.0 * mean_rate_bits * amounts)
    # Each sign of `linear` has one form of the root that does not cancel; B = 0 and sigma = 0 give 0 / 0 in
    # one.
    x = (root - linear) / (2.0 * mean_rate_bits) if linear <= 0.0 else 2.0 * amounts / (root + linear)
    slots = np.ceil(x * x)
    if slots.size and slots.max() > 2**53:
        raise ParameterError(f"a transfer of {amounts.max():g} bits takes more than 2^53 slots at this rate")
    one_fewer = np.maximum(slots - 1.0, 0.0)
    carried = mean_rate_bits * one_fewer + linear * np.sqrt(one_fewer)
    slots = np.where(carried >= amounts * (1.0 - ROUNDING), one_fewer, slots)
    counted = np.maximum(slots, 1.0).astype(np.int64)
    return int(counted) if counted.ndim == 0 else counted


def transfer_slots(rates_bits: ArrayLike, bits: ArrayLike, *, slot: ArrayLike = 1) -> NDArray[np.int64]:
    """Slots that a transfer takes on given rates (the paper's T_dl(n, B) and, from slot 1, T_ul).

    T_dl(n, B) = min {N : R_n + ... + R_(n+N-1) >= B} (Section II-A), at least 1.

    Args:
        rates_bits: R_1..R_S, bits per slot, shape (..., S), S at least 1.
        bits: B, bits to carry; broadcasts against the leading axes of rates_bits.
        slot: n, the 1-based first slot, 1..S; broadcasts against the leading axes of rates_bits.

    Returns:
        N, int64, shape of the leading axes; S - n + 2 where the rates end first, so that n + N - 1 > S there.

    Raises:
        ParameterError: if slot is outside 1..S or the rates have no slot axis.

    Example:
        >>> transfer_slots([[5.0, 5.0, 5.0], [1.0, 1.0, 1.0]], 8.0, slot=2).tolist()
        [2, 3]
    """
    rates = _numbers("rates_bits", rates_bits)
    if rates.ndim == 0 or rates.shape[-1] == 0:
        raise ParameterError(f"rates_bits has shape {rates.shape}; its last axis needs one rate per slot")
    num_slots = rates.shape[-1]
    first = np.asarray(slot)
    if not np.issubdtype(first.dtype, np.integer) or np.any(first < 1) or np.any(first > num_slots):
        raise ParameterError(f"slot is {slot!r}; it must be a whole number, 1..{num_slots}")
    # Rates before the first slot count as 0, so that the sums are those of this transfer alone.
    usable = np.where(np.arange(1, num_slots + 1) >= first[..., None], rates, 0.0)
    missing = np.cumsum(usable, axis=-1) < _numbers("bits", bits)[..., None]
    last = np.maximum(missing.sum(axis=-1) + 1, first)
    return np.asarray(last - first + 1, dtype=np.int64)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"{name} is {values!r}; it must be a number or an array of numbers") from None
