"""The sequential rate-distortion limit of a Gaussian latent that becomes known step by step.

The derivation is in `docs/limits.md`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

__all__ = ["gaussian_mmse", "sequential_limit"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

# Episodes of a shaped source at a time: their excess in all slots and bands stays at some tens of MB.
CHUNK_VALUES = 1 << 22

# An excess of 0 has no logarithm; this one is lost in any sum.
LEAST_EXCESS = 1e-300

# Sweeps over the slots end when one of them lowers no episode's error by more than this share.
SWEEP_GAIN = 2e-5
MAX_SWEEPS = 200


def gaussian_mmse(path: NoisePath, variances: ArrayLike = 1.0) -> FloatArray:
    """Error of E[x_0 | x_t] for independent Gaussian numbers, v s_t^2 / (a_t^2 v + s_t^2).

    The estimate is made from x_t itself. Of unit variance on a variance-preserving path the error is
    1 - abar_t.

    Args:
        path: the noise path.
        variances: v, one per band, positive, shape (bands,) or a number.

    Returns:
        mmse(t) for t = 0..T, float64, shape (T + 1, bands), or (T + 1,) for a number.

    Raises:
        ParameterError: if a variance is not positive and finite, or the shape is another.

    Example:
        >>> gaussian_mmse(NoisePath.stable_diffusion(50))[[0, 25, 50]].round(3).tolist()
        [0.0, 0.698, 0.994]
    """
    v = np.asarray(variances, dtype=np.float64)
    if v.ndim > 1 or not np.all(np.isfinite(v) & (v > 0.0)):
        raise ParameterError(f"variances is {variances!r}; it must be one positive number per band")
    a, s = (part.reshape(-1, *(1,) * v.ndim) for part in (path.signal, path.noise))
    return np.asarray(v * s**2 / (a**2 * v + s**2))


def sequential_limit(
    rates_bits: FloatArray,
    *,
    latent_size: int,
    uplink: IntArray,
    mmse: FloatArray,
    variances: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
) -> FloatArray:
    """Least mean squared error at the deadline that any code could reach on the given rates.

    In slot n the server knows x_t(n) and the slot carries r_n = R_n / M bits per number, so a band's error
    falls as V <- mmse(t) + (V - mmse(t)) 2^(-2 r). One band takes all bits of every slot. Several share a
    slot's bits, mean of r = r_n, by reverse waterfilling; the shares of all slots are chosen together, for
    the least error at the deadline with all rates known, to a few 1e-4 of it. A shaped source costs some
    10 ns per episode, slot, band and sweep, of which there are tens.

    Args:
        rates_bits: R_n, 0 or more, shape (episodes, slots), slots 1..T_d.
        latent_size: M.
        uplink: T_ul of the episodes, int64, shape (episodes,); x_T is there in slot T_ul + 1, and every slot
            brings one step more.
        mmse: error of the best estimate from x_t, shape (T + 1,), or (T + 1, bands); not rising as t falls.
        variances: error before anything arrived, a number or shape (bands,); the source's variances, or
            mmse(T) for a device that shares the noise x_T, which differs by nothing visible.
        weights: numbers in a band, in any unit; a number or shape (bands,).

    Returns:
        The mean squared error per number at the end of the last slot, float64, shape (episodes,).

    Raises:
        ParameterError: if shapes do not match, a rate is negative or not finite, or mmse rises towards the
            final latent.

    Example:
        >>> mmse = gaussian_mmse(NoisePath.stable_diffusion(50))
        >>> sequential_limit(
        ...     np.full((1, 60), 4311.0), latent_size=16384, uplink=np.array([2]), mmse=mmse
        ... ).round(4).tolist()
        [0.0027]
    """
    errors, start, shares = _bands(mmse, variances, weights)
    rates = np.asarray(rates_bits, dtype=np.float64)
    if rates.ndim != 2 or uplink.shape != rates.shape[:1]:
        raise ParameterError(
            f"rates_bits has shape {rates.shape} and uplink {uplink.shape}; "
            "they must be (episodes, slots) and (episodes,)"
        )
    if not np.all(np.isfinite(rates) & (rates >= 0.0)):
        raise ParameterError("rates_bits holds negative or non-finite values; every rate must be 0 or more")
    num_slots, num_steps = rates.shape[1], len(errors) - 1
    since = np.arange(1, num_slots + 1) - uplink[:, None]
    steps = num_steps - np.clip(since - 1, 0, num_steps)
    # Nothing is known before the upload is through: those slots carry nothing.
    bits = np.where(since > 0, rates / latent_size, 0.0)
    result = np.empty(len(rates))
    chunk = max(1, CHUNK_VALUES // (max(num_slots, 1) * start.size))
    for first in range(0, len(rates), chunk):
        part = slice(first, first + chunk)
        floors = errors[steps[part].T]
        result[part] = _least_error(bits[part].T, floors, start, shares)
    return result


def _bands(
    mmse: FloatArray, variances: ArrayLike, weights: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    errors = np.asarray(mmse, dtype=np.float64)
    errors = errors[:, None] if errors.ndim == 1 else errors
    try:
        start, counts = (
            np.broadcast_to(np.asarray(values, dtype=np.float64), errors.shape[1:])
            for values in (variances, weights)
        )
    except ValueError:
        raise ParameterError(
            f"mmse has shape {errors.shape}, variances {np.shape(variances)} and weights "
            f"{np.shape(weights)}; the last two need one number per band"
        ) from None
    if errors.ndim != 2 or np.any(np.diff(errors, axis=0) < 0.0) or np.any(errors[-1] > start):
        raise ParameterError("mmse must not exceed the variances nor rise as t falls, shape (T + 1, bands)")
    if not (np.all(counts > 0.0) and np.all(np.isfinite(counts))):
        raise ParameterError(f"weights is {weights!r}; every weight must be positive and finite")
    return errors, start, counts / counts.sum()


def _least_error(bits: FloatArray, floors: FloatArray, start: FloatArray, shares: FloatArray) -> FloatArray:
    """Error at the end; bits (slots, episodes), floors (slots, episodes, bands)."""
    # What later slots still do to the excess of a band: 2^(-2 (sum of its later rates)), as a logarithm.
    later = np.zeros_like(floors)
    best = np.full(bits.shape[1], np.inf)
    for _ in range(MAX_SWEEPS):
        error = np.broadcast_to(start, floors.shape[1:])
        fall = np.zeros_like(floors)
        for slot, rate in enumerate(bits):
            excess = np.maximum(error - floors[slot], LEAST_EXCESS)
            if shares.size == 1:
                fall[slot] = 2.0 * rate[:, None]
            else:
                fall[slot] = _reverse_waterfill(np.log2(excess) - later[slot], rate, shares)
            error = floors[slot] + excess * np.exp2(-fall[slot])
        total = error @ shares
        done = np.all(total >= best * (1.0 - SWEEP_GAIN))
        best = np.minimum(best, total)
        if done or shares.size == 1:
            break
        # Rates of the slots after each one, from this sweep.
        later = np.cumsum(fall[::-1], axis=0)[::-1] - fall
    return best


def _reverse_waterfill(log_excess: FloatArray, rate: FloatArray, shares: FloatArray) -> FloatArray:
    """Doublings 2 r_b taken off each band's excess: down to one level, with mean r_b = rate.

    Newton's method from below on the piecewise linear equation sum_b w_b (L_b - level)^+ = 2 rate, which ends
    exactly after finitely many steps; log_excess has shape (episodes, bands).
    """
    above = np.ones(log_excess.shape, dtype=bool)
    while True:
        weight = above * shares
        level = ((weight * log_excess).sum(axis=1) - 2.0 * rate) / weight.sum(axis=1)
        still = above & (log_excess > level[:, None])
        # Rounding may take a band's own level for one above it; the highest band always stays.
        still |= above & (log_excess == log_excess.max(axis=1, keepdims=True))
        if np.array_equal(still, above):
            return np.asarray(np.maximum(log_excess - level[:, None], 0.0))
        above = still
