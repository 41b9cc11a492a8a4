"""The law of the bits that one slot of a waterfilled link carries, prepared once per link.

The K gains of a slot are g = s d: their sum s has the Gamma(K) law and is independent of their direction d.
For a fixed direction the rate grows with s, and the s at which it reaches r is known in closed form, so that
the chance of a rate below r is a Gamma probability averaged over directions. The directions are the points of
a lattice, the rest is exact; with one sub-channel there is one direction and everything is.

With noise floors f_1 <= f_2 <= ... of the direction, m sub-channels are active from s_m on, where the rate is
R_m nats per symbol:

    s_1 = R_1 = 0,  s_(m+1) = s_m + m (f_(m+1) - f_m) / K,  R_(m+1) = R_m + m ln(f_(m+1) / f_m),
    s(r) = s_m + m f_m (exp((r - R_m) / m) - 1) / K  for R_m <= r < R_(m+1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.errors import ParameterError
from latentcast.link.rayleigh import RayleighLink

__all__ = ["RateLaw"]

FloatArray: TypeAlias = NDArray[np.float64]

# Rank-1 lattices of the Korobov form (L'Ecuyer and Lemieux, 2000): the most sub-channels they serve, points,
# multiplier. Over many sub-channels a direction averages by itself, and fewer are needed.
LATTICES = ((128, 8191, 5130), (65536, 2039, 1487))

# Scores (standard normal quantiles) of the table: +-8.25 is beyond the finest float64 uniform number.
SCORE_LIMIT = 8.25
NODES = 133
TABLE_CELLS = 4096

# Few directions already show where the nodes belong.
PILOT_DIRECTIONS = 64
PILOT_RATES = 2049
PILOT_TAIL = 1e-17

# Rates looked up at a time: the temporary arrays stay in a core's cache.
CHUNK_RATES = 1 << 14

# Grid of a sum's law in units of one slot's spread: its step, and how far the tails are followed.
SUM_STEP = 1.0 / 32.0
SUM_REACH = 12.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RateLaw:
    """Distribution of the rate R of one slot, in bits, as a table over the normal score Phi^-1(u).

    Made by `prepare`. Against the true law the probabilities err by a few 1e-4 at most, the mean by less than
    0.01 % and the spread by less than 0.1 %, from 1 to 512 sub-channels and -60 to 100 dB; one sub-channel
    has the closed form to interpolation error.

    Attributes:
        link: the link.
        table: quantiles at 4097 evenly spaced scores from -8.25 to 8.25, bits, increasing, read-only.

    Example:
        >>> law = RateLaw.prepare(RayleighLink(snr_db=0.0))
        >>> round(law.mean_bits), round(law.std_bits)
        (4308, 315)
        >>> law.quantile([0.1, 0.5, 0.9]).round().tolist()
        [3906.0, 4307.0, 4713.0]
    """

    link: RayleighLink
    table: FloatArray = field(repr=False)

    @staticmethod
    def prepare(link: RayleighLink) -> RateLaw:
        """The law of a link, from a cache of the last 64 links; deterministic, a fraction of a second."""
        return _prepare(link)

    @cached_property
    def mean_bits(self) -> float:
        """E[R], the true mean of per-slot waterfilling, not the paper's ergodic Rbar."""
        return float(_score_weights() @ self.table)

    @cached_property
    def std_bits(self) -> float:
        """Standard deviation of R."""
        return math.sqrt(float(_score_weights() @ (self.table - self.mean_bits) ** 2))

    def quantile(self, probability: ArrayLike) -> FloatArray:
        """Rates at given probabilities; uniform numbers become draws of R.

        Args:
            probability: u, within 0..1, any shape; the ends give the table's first and last rate.

        Returns:
            R in bits with P(R <= result) = u, float64, shape of probability.

        Raises:
            ParameterError: if a probability is outside 0..1.
        """
        from scipy.special import ndtri  # 0.2 s to import, which start-up must not pay

        given = np.asarray(probability, dtype=np.float64)
        if not np.all((given >= 0.0) & (given <= 1.0)):
            raise ParameterError(f"probability is {probability!r}; every value must lie within 0..1")
        flat = given.reshape(-1)
        rates = np.empty(flat.size)
        slopes = np.append(np.diff(self.table), 0.0)
        per_score = TABLE_CELLS / (2.0 * SCORE_LIMIT)
        for start in range(0, flat.size, CHUNK_RATES):
            place = ndtri(flat[start : start + CHUNK_RATES])
            np.clip(place, -SCORE_LIMIT, SCORE_LIMIT, out=place)
            place += SCORE_LIMIT
            place *= per_score
            cell = place.astype(np.intp)
            place -= cell
            place *= slopes.take(cell)
            np.add(place, self.table.take(cell), out=rates[start : start + CHUNK_RATES])
        return rates.reshape(given.shape)

    def cdf(self, rate_bits: ArrayLike) -> FloatArray:
        """P(R <= rate), float64, shape of rate_bits; 0 and 1 beyond the table's ends."""
        from scipy.special import ndtr

        rates = np.asarray(rate_bits, dtype=np.float64)
        score = np.interp(rates, self.table, _scores(), left=-np.inf, right=np.inf)
        return np.asarray(ndtr(score), dtype=np.float64)

    def transfer_slots_cdf(self, bits: float, max_slots: int) -> FloatArray:
        """P(R_1 + ... + R_N >= bits) for N = 1..max_slots: a transfer is through within N slots.

        The law of each sum is a convolution of the slot's own law on a grid of 1/32 of its spread. Sums whose
        mean is more than 12 of their standard deviations away from bits count as certain.

        Args:
            bits: bits to carry, 0 or more.
            max_slots: number of sums, 1 or more.

        Returns:
            The probabilities, float64, shape (max_slots,), not falling.

        Raises:
            ParameterError: if bits or max_slots is out of range.

        Example:
            >>> law = RateLaw.prepare(RayleighLink(snr_db=0.0))
            >>> law.transfer_slots_cdf(3 * 16384, 13)[10:].round(4).tolist()
            [0.0472, 0.9903, 1.0]
        """
        if not (math.isfinite(bits) and bits >= 0.0):
            raise ParameterError(f"bits is {bits!r}; it must be finite and 0 or more")
        if isinstance(max_slots, bool) or not isinstance(max_slots, (int, np.integer)) or max_slots < 1:
            raise ParameterError(f"max_slots is {max_slots!r}; it must be a whole number of at least 1")
        counts = np.arange(1, max_slots + 1)
        surplus = (bits - counts * self.mean_bits) / self.std_bits
        through = np.where(surplus <= 0.0, 1.0, 0.0)
        through[0] = 1.0 - float(self.cdf(bits)) if bits > 0.0 else 1.0
        (open_cases,) = np.nonzero(np.abs(surplus[1:]) <= SUM_REACH * np.sqrt(counts[1:]))
        if open_cases.size:
            # Both sides of the longest sum fit, so that nothing wraps around the circular convolution.
            half = math.ceil(SUM_REACH * math.sqrt(open_cases[-1] + 2) / SUM_STEP)
            spectrum = np.fft.rfft(self._centred_weights(half))
            for case in open_cases + 1:
                weights = np.fft.fftshift(np.fft.irfft(spectrum ** int(counts[case]), n=2 * half))
                below = np.cumsum(weights) - 0.5 * weights
                at = np.interp(surplus[case] / SUM_STEP, np.arange(-half, half), below)
                through[case] = min(max(1.0 - float(at), 0.0), 1.0)
        return np.maximum.accumulate(through)

    def _centred_weights(self, half: int) -> FloatArray:
        """Law of (R - mean) / std on a circular grid of 2 half steps; shares between two points keep the mean."""
        place = (self.table - self.mean_bits) / (self.std_bits * SUM_STEP)
        place = np.clip(place, 1 - half, half - 2)
        cell = np.floor(place).astype(np.intp)
        weights, size = _score_weights(), 2 * half
        upper = weights * (place - cell)
        grid: FloatArray = np.bincount(cell % size, weights - upper, minlength=size)
        grid += np.bincount((cell + 1) % size, upper, minlength=size)
        return grid


@lru_cache(maxsize=64)
def _prepare(link: RayleighLink) -> RateLaw:
    from scipy.special import ndtri

    directions = _Directions.of(link.num_subchannels, link.mean_snr)
    # A pilot over a few directions finds rates near the quantiles of evenly spaced scores.
    pilot = directions.first(PILOT_DIRECTIONS)
    tried = np.geomspace(*pilot.rate_range(), PILOT_RATES)
    lower, upper = pilot.tails(tried)
    pilot_scores = np.where(lower < upper, ndtri(lower), -ndtri(upper))
    wanted = np.linspace(-SCORE_LIMIT, SCORE_LIMIT, NODES)
    rates = np.exp(np.interp(wanted, np.maximum.accumulate(pilot_scores), np.log(tried)))
    lower, upper = directions.tails(rates)
    scores = np.where(lower < upper, ndtri(lower), -ndtri(upper))
    table = _cubic(_scores(), scores, rates)
    table *= float(link.symbols_per_slot) / math.log(2.0)
    table.flags.writeable = False
    return RateLaw(link=link, table=table)


@dataclass(frozen=True)
class _Directions:
    """Directions with, per row, floors f_m, sums s_m and rates R_m, each (directions, K)."""

    floors: FloatArray
    sums: FloatArray
    rates: FloatArray

    @staticmethod
    def of(num_subchannels: int, mean_snr: float) -> _Directions:
        if num_subchannels == 1:
            gains = np.ones((1, 1))
        else:
            _, points, multiplier = next(row for row in LATTICES if num_subchannels <= row[0])
            gains = _sorted_directions(num_subchannels, points, multiplier)
        floors = 1.0 / (mean_snr * gains)
        active = np.arange(1.0, num_subchannels)
        sums, rates = np.zeros_like(floors), np.zeros_like(floors)
        np.cumsum(active * np.diff(floors, axis=1) / num_subchannels, axis=1, out=sums[:, 1:])
        np.cumsum(active * np.log(floors[:, 1:] / floors[:, :-1]), axis=1, out=rates[:, 1:])
        return _Directions(floors, sums, rates)

    def first(self, count: int) -> _Directions:
        return _Directions(self.floors[:count], self.sums[:count], self.rates[:count])

    def rate_range(self) -> tuple[float, float]:
        """Rates that cover all but PILOT_TAIL of either tail, whatever the direction."""
        from scipy.special import gammainccinv, gammaincinv

        num_subchannels = self.floors.shape[1]
        ends = []
        for total in (gammaincinv(num_subchannels, PILOT_TAIL), gammainccinv(num_subchannels, PILOT_TAIL)):
            last = (self.sums <= total).sum(axis=1)
            floor, begun, rate = self._at(last)
            ends.append(rate + last * np.log1p((total - begun) * num_subchannels / (last * floor)))
        return float(ends[0].min()), float(ends[1].max())

    def tails(self, rates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P(R <= r) and P(R > r) for rates in nats per symbol, each shape (rates,)."""
        from scipy.special import gammainc, gammaincc

        num_subchannels = self.floors.shape[1]
        lower, upper = np.empty_like(rates), np.empty_like(rates)
        last = np.zeros(len(self.floors), dtype=np.intp)
        for index, rate in enumerate(rates.tolist()):
            last = (self.rates <= rate).sum(axis=1)
            floor, begun, reached = self._at(last)
            total = begun + last * floor * np.expm1((rate - reached) / last) / num_subchannels
            lower[index] = gammainc(num_subchannels, total).mean()
            # The smaller tail is computed directly; 1 - p would round it away.
            upper[index] = (
                1.0 - lower[index] if lower[index] < 0.5 else gammaincc(num_subchannels, total).mean()
            )
        return lower, upper

    def _at(self, last: NDArray[np.intp]) -> tuple[FloatArray, FloatArray, FloatArray]:
        rows = np.arange(len(last))
        return self.floors[rows, last - 1], self.sums[rows, last - 1], self.rates[rows, last - 1]


def _sorted_directions(num_subchannels: int, points: int, multiplier: int) -> FloatArray:
    """Gains of unit sum in falling order, shape (points, K), from a shifted lattice.

    In falling order exponential gains are sums of independent spacings E_j / j (Renyi), so nothing is sorted,
    and the lattice's first, best coordinates go to the spacings at the top.
    """
    powers = [1]
    for _ in range(num_subchannels - 1):
        powers.append(powers[-1] * multiplier % points)
    shift = np.random.default_rng(np.random.SeedSequence(0)).random(num_subchannels)
    uniform = (np.arange(points)[:, None] * np.array(powers) % points / points + shift) % 1.0
    spacings = -np.log1p(-np.maximum(uniform, np.finfo(np.float64).eps))
    spacings /= spacings.sum(axis=1, keepdims=True)
    spacings /= np.arange(1, num_subchannels + 1)
    return np.cumsum(spacings[:, ::-1], axis=1)[:, ::-1]


def _scores() -> FloatArray:
    return np.linspace(-SCORE_LIMIT, SCORE_LIMIT, TABLE_CELLS + 1)


@lru_cache(maxsize=1)
def _score_weights() -> FloatArray:
    """Probability of each entry of a table; so fine a sum of a smooth function times a density is exact."""
    weights = np.exp(-0.5 * _scores() ** 2)
    weights /= weights.sum()
    return weights


def _cubic(places: FloatArray, nodes: FloatArray, values: FloatArray) -> FloatArray:
    """Cubic Hermite interpolation with central slopes, which keeps rising values rising; straight outside."""
    slopes = np.gradient(values, nodes)
    cell = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, len(nodes) - 2)
    width = nodes[cell + 1] - nodes[cell]
    t = np.clip((places - nodes[cell]) / width, 0.0, 1.0)
    rise = values[cell + 1] - values[cell]
    ahead, behind = slopes[cell] * width - rise, rise - slopes[cell + 1] * width
    return np.asarray(values[cell] + t * rise + t * (1.0 - t) * ((1.0 - t) * ahead + t * behind))
