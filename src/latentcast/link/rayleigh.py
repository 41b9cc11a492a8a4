"""Rayleigh block fading over sub-channels, with waterfilling in every slot (Section II-A of the paper)."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.errors import ParameterError
from latentcast.link.latency import transfer_slots

__all__ = ["RayleighLink", "SnrReference", "uplink_slots", "waterfill"]

FloatArray: TypeAlias = NDArray[np.float64]
SnrReference: TypeAlias = Literal["subchannel", "total"]

SNR_DB_MIN = -60.0
SNR_DB_MAX = 100.0
MAX_SUBCHANNELS = 65536

# Gains drawn and waterfilled at a time: 2 MB of float64, which stays in a core's cache.
CHUNK_GAINS = 1 << 18

# Gauss-Legendre nodes of the ergodic integrals; 200 reach machine precision from -60 to 100 dB.
QUADRATURE_NODES = 200


def waterfill(gain_to_noise: ArrayLike, power: ArrayLike) -> FloatArray:
    """Rate-optimal power per sub-channel: p_j = (1/lambda - N0 Ws/g_j)^+ with sum_j p_j = P (Section II-A).

    Exact: the water level is found by sorting, not by iteration.

    Args:
        gain_to_noise: g_j / (N0 Ws), per unit of power, shape (..., K), finite and 0 or more.
        power: P, total power; a number, or an array that broadcasts to the leading axes; 0 or more.

    Returns:
        Power per sub-channel, float64, shape (..., K); all 0 where every gain is 0.

    Raises:
        ParameterError: if there is no sub-channel, or a value is negative or not finite.

    Example:
        >>> waterfill([1.0, 0.5, 0.1], 3.0).tolist()
        [2.0, 1.0, 0.0]
    """
    try:
        gains = np.asarray(gain_to_noise, dtype=np.float64)
        budget = np.asarray(power, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(f"gain_to_noise and power must be numbers or arrays of them: {error}") from None
    if gains.ndim == 0 or gains.shape[-1] == 0:
        raise ParameterError(
            f"gain_to_noise has shape {gains.shape}; its last axis needs one gain per sub-channel"
        )
    if not np.all(np.isfinite(gains)) or np.any(gains < 0.0):
        raise ParameterError(
            "gain_to_noise holds negative or non-finite values; every gain must be 0 or more"
        )
    if not np.all(np.isfinite(budget)) or np.any(budget < 0.0):
        raise ParameterError(f"power is {power!r}; it must be finite and 0 or more")
    try:
        budget = np.broadcast_to(budget, gains.shape[:-1])[..., None]
    except ValueError:
        raise ParameterError(
            f"power has shape {budget.shape}; it must broadcast to the leading axes {gains.shape[:-1]}"
        ) from None
    # The noise floors 1/g are taken relative to the lowest, so that weak channels do not cancel digits.
    best = gains.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        depth = (best - gains) / best / gains
    depth[np.isnan(depth)] = np.inf
    floors = np.sort(depth, axis=-1)
    counts = np.arange(1, gains.shape[-1] + 1)
    with np.errstate(over="ignore"):
        levels = (budget + np.cumsum(floors, axis=-1)) / counts
    active = np.maximum((levels > floors).sum(axis=-1, keepdims=True), 1)
    level = np.take_along_axis(levels, active - 1, axis=-1)
    with np.errstate(invalid="ignore"):
        filled = np.maximum(level - depth, 0.0)
    return np.where(np.isfinite(depth), filled, 0.0)


def uplink_slots(rates_bits: ArrayLike, uplink_bits: float) -> NDArray[np.int64]:
    """First slot by which the prompt has been uploaded (the paper's T_ul).

    T_ul = min {N : R_1 + ... + R_N >= B_s} (Section II-A).

    Args:
        rates_bits: R_n, bits per slot, shape (..., S), slots 1..S.
        uplink_bits: B_s, bits of the prompt.

    Returns:
        T_ul, int64, shape of the leading axes; S + 1 where the rates end first.

    Raises:
        ParameterError: if the rates have no slot axis.

    Example:
        >>> uplink_slots([[4.0, 4.0, 4.0], [1.0, 1.0, 1.0]], 8.0).tolist()
        [2, 4]
    """
    return transfer_slots(rates_bits, uplink_bits)


@dataclass(frozen=True, kw_only=True)
class RayleighLink:
    """K parallel sub-channels with independent Rayleigh block fading and waterfilling within each slot.

    R_n = L sum_j log2(1 + p_nj g_nj / (N0 Ws)) bits in slot n, with exponential gains of mean Gamma that are
    new in every slot (Section II-A). The power budget holds in each slot; power is not saved from slot to
    slot.

    Attributes:
        num_subchannels: K, 1..65536.
        symbols_per_slot: L, symbols of one sub-channel per slot, positive.
        snr_db: average signal-to-noise ratio in dB, -60..100.
        snr_reference: what snr_db is measured on. "subchannel": the average of one sub-channel, so that the
            budget is K times the power it stands for (the reading under which the paper's curves are
            possible); "total": P Gamma / (N0 Ws) with P the budget of all sub-channels together.

    Raises:
        ParameterError: if an attribute is outside its range.

    Example:
        >>> link = RayleighLink(snr_db=0.0)
        >>> round(link.mean_rate_bits, 1), round(link.std_rate_bits, 1)
        (4319.9, 559.5)
        >>> link.sample(2, 3, rng=np.random.default_rng(0)).shape
        (2, 3)
    """

    num_subchannels: int = 60
    symbols_per_slot: float = 70.0
    snr_db: float
    snr_reference: SnrReference = "subchannel"

    def __post_init__(self) -> None:
        count = self.num_subchannels
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise ParameterError(f"num_subchannels is {count!r}; it must be a whole number")
        if not 1 <= count <= MAX_SUBCHANNELS:
            raise ParameterError(f"num_subchannels is {count}; it must be 1..{MAX_SUBCHANNELS}")
        if not _is_real(self.symbols_per_slot) or not 0.0 < self.symbols_per_slot < math.inf:
            raise ParameterError(
                f"symbols_per_slot is {self.symbols_per_slot!r}; it must be positive and finite"
            )
        if not _is_real(self.snr_db) or not SNR_DB_MIN <= self.snr_db <= SNR_DB_MAX:
            raise ParameterError(
                f"snr_db is {self.snr_db!r}; it must be a number of decibels, {SNR_DB_MIN:g}..{SNR_DB_MAX:g}"
            )
        if self.snr_reference not in get_args(SnrReference):
            raise ParameterError(
                f"snr_reference is {self.snr_reference!r}; it must be 'subchannel' or 'total'"
            )

    @property
    def mean_snr(self) -> float:
        """Average linear signal-to-noise ratio of one sub-channel under equal power."""
        ratio = 10.0 ** (self.snr_db / 10.0)
        return float(ratio / self.num_subchannels if self.snr_reference == "total" else ratio)

    @cached_property
    def mean_rate_bits(self) -> float:
        """Ergodic bits per slot, the paper's Rbar (Section IV-B).

        L K E[log2(g / gamma_0)^+] with the ergodic cut-off gamma_0. In closed form L K E1(gamma_0 / Gamma) /
        ln 2. It is the limit of many sub-channels: with K sub-channels the mean of true per-slot waterfilling
        differs slightly.
        """
        from scipy.special import exp1  # 0.2 s to import, which start-up must not pay

        per_subchannel = float(exp1(_relative_cutoff(self.mean_snr))) / math.log(2.0)
        return float(self.symbols_per_slot) * self.num_subchannels * per_subchannel

    @cached_property
    def std_rate_bits(self) -> float:
        """Spread of the bits per slot, the paper's sigma_R (Section IV-B).

        L sqrt(K) times the standard deviation of log2(g / gamma_0)^+. It holds the cut-off fixed at its
        ergodic value and so overstates the spread of true per-slot waterfilling (560 against 315 bits at 0
        dB).
        """
        spread = math.sqrt(_log_gain_variance(_relative_cutoff(self.mean_snr))) / math.log(2.0)
        return float(self.symbols_per_slot) * math.sqrt(self.num_subchannels) * spread

    def sample(self, num_episodes: int, num_slots: int, *, rng: np.random.Generator) -> FloatArray:
        """Draw the rates R_n of many episodes, waterfilled exactly in every slot.

        Gains are drawn episode by episode, slot by slot, so that episode i depends on the generator's state,
        num_slots and i alone, whatever num_episodes is; memory beyond the result stays at a few MB.

        Args:
            num_episodes: number of independent episodes, 0 or more.
            num_slots: slots of an episode, 1 or more.
            rng: source of the draws; advanced by num_episodes * num_slots * K exponentials.

        Returns:
            R_n in bits per slot, float64, shape (num_episodes, num_slots).

        Raises:
            ParameterError: if a count is too small.

        Example:
            >>> link = RayleighLink(num_subchannels=4, symbols_per_slot=1.0, snr_db=10.0)
            >>> rates = [link.sample(n, 5, rng=np.random.default_rng(7)) for n in (2, 3)]
            >>> bool((rates[0] == rates[1][:2]).all())
            True
        """
        if num_episodes < 0 or num_slots < 1:
            raise ParameterError(
                f"num_episodes is {num_episodes} and num_slots {num_slots}; they must be at least 0 and 1"
            )
        rates = np.empty(num_episodes * num_slots)
        chunk = max(1, CHUNK_GAINS // self.num_subchannels)
        for start in range(0, rates.size, chunk):
            part = rates[start : start + chunk]
            gains = rng.standard_exponential((part.size, self.num_subchannels))
            part[:] = _waterfilled_rate(gains, self.mean_snr)
        rates *= float(self.symbols_per_slot)
        return rates.reshape(num_episodes, num_slots)


def _waterfilled_rate(gains: FloatArray, mean_snr: float) -> FloatArray:
    """Bits per symbol of waterfilled unit-mean gains, shape (slots, K), which are overwritten.

    sum_j log2(1 + p_j g_j). With the level mu, 1 + p_j g_j = mu g_j on every active sub-channel, so the
    powers themselves are not needed.
    """
    num_subchannels = gains.shape[-1]
    gains *= mean_snr
    gains.sort(axis=-1)
    with np.errstate(divide="ignore"):
        floors = np.reciprocal(gains[:, ::-1])
    levels = np.cumsum(floors, axis=-1)
    levels += num_subchannels
    levels /= np.arange(1, num_subchannels + 1)
    active = (levels > floors).sum(axis=-1)
    level = levels[np.arange(active.size), active - 1]
    gains *= level[:, None]
    np.maximum(gains, 1.0, out=gains)
    np.log2(gains, out=gains)
    rates: FloatArray = gains.sum(axis=-1)
    return rates


def _relative_cutoff(mean_snr: float) -> float:
    """Ergodic waterfilling cut-off over the mean gain, u = gamma_0 / Gamma (Section IV-B).

    The power constraint E[(1/gamma_0 - 1/g)^+] = 1 with exponential g is e^-u / u - E1(u) = E2(u) / u =
    Gamma.
    """
    from scipy.special import expn

    # Newton on log u, where the logarithm of E2(u) / u is concave and falling. E2(u) / u < e^-u for u > 1, so
    # that -ln Gamma is never below the root there; from far below, a step would leave float64's range.
    log_cutoff = math.log(max(1.0 / (1.0 + mean_snr), -math.log(mean_snr)))
    for _ in range(100):
        cutoff = math.exp(log_cutoff)
        first, second = float(expn(1, cutoff)), float(expn(2, cutoff))
        excess = math.log(second / cutoff / mean_snr)
        change = excess / (1.0 + cutoff * first / second)
        log_cutoff += change
        if abs(change) < 1e-15 * max(1.0, abs(log_cutoff)):
            break
    return math.exp(log_cutoff)


def _log_gain_variance(cutoff: float) -> float:
    """Variance of ln(g / gamma_0)^+ for exponential g with gamma_0 / Gamma = cutoff, in squared nats.

    With g = gamma_0 e^y the density of y > 0 is u e^y exp(-u e^y), and y = 0 has mass 1 - e^-u. The squared
    deviations are integrated, which are all positive; the difference of two moments would cancel digits.
    """
    from scipy.special import exp1

    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    end = math.log(750.0 / cutoff)
    y = 0.5 * end * (nodes + 1.0)
    hazard = cutoff * np.exp(y)
    density = hazard * np.exp(-hazard)
    mean = float(exp1(cutoff))
    above = 0.5 * end * float(weights @ ((y - mean) ** 2 * density))
    return above - mean * mean * math.expm1(-cutoff)


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
