"""The law of a slot's rate, by averaging over the directions of its gains.

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

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Directions"]

FloatArray: TypeAlias = NDArray[np.float64]

# Rank-1 lattices of the Korobov form (L'Ecuyer and Lemieux, 2000): the most sub-channels they serve, points,
# multiplier. Over many sub-channels a direction averages by itself, and fewer are needed; the last row only
# keeps memory below 1 GB.
LATTICES = ((128, 8191, 5130), (2048, 2039, 1487), (65536, 127, 29))

SMALLEST_UNIFORM = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Directions:
    """Directions of a slot's gains with the closed form of their rates.

    Attributes:
        floors: f_m, rising along a row, shape (directions, K).
        sums: s_m, same shape.
        rates: R_m in nats per symbol, same shape.

    Example:
        >>> one = Directions.of(1, mean_snr=1.0)  # R = ln(1 + g), so the median gain ln 2 has score 0
        >>> abs(float(one.scores(np.log1p(np.log([2.0])))[0])) < 1e-12
        True
    """

    floors: FloatArray
    sums: FloatArray
    rates: FloatArray

    @staticmethod
    def of(num_subchannels: int, mean_snr: float) -> Directions:
        """The directions of K sub-channels with an average linear signal-to-noise ratio."""
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
        return Directions(floors, sums, rates)

    def first(self, count: int) -> Directions:
        """The first few directions."""
        return Directions(self.floors[:count], self.sums[:count], self.rates[:count])

    def rate_range(self, tail: float) -> tuple[float, float]:
        """Rates in nats per symbol that leave less than `tail` on either side, whatever the direction."""
        from scipy.special import gammainccinv, gammaincinv  # slow to import, which start-up must not pay

        num_subchannels = self.floors.shape[1]
        ends = []
        for total in (gammaincinv(num_subchannels, tail), gammainccinv(num_subchannels, tail)):
            active, floor, begun, reached = self._segment(self.sums <= total)
            ends.append(reached + active * np.log1p((total - begun) * num_subchannels / (active * floor)))
        return float(ends[0].min()), float(ends[1].max())

    def scores(self, rates: FloatArray) -> FloatArray:
        """Phi^-1(P(R <= r)) for rates r > 0 in nats per symbol, shape (rates,)."""
        from scipy.special import gammainc, gammaincc, ndtri

        num_subchannels = self.floors.shape[1]
        scores = np.empty_like(rates)
        for index, rate in enumerate(rates.tolist()):
            active, floor, begun, reached = self._segment(self.rates <= rate)
            total = begun + active * floor * np.expm1((rate - reached) / active) / num_subchannels
            below = gammainc(num_subchannels, total).mean()
            # Above the median the other tail is averaged, which 1 - p would round away.
            scores[index] = ndtri(below) if below < 0.5 else -ndtri(gammaincc(num_subchannels, total).mean())
        return scores

    def _segment(
        self, begun: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
        """Per direction m, f_m, s_m and R_m of the last segment that has begun."""
        active = begun.sum(axis=1)
        rows = np.arange(active.size)
        last = active - 1
        return active, self.floors[rows, last], self.sums[rows, last], self.rates[rows, last]


def _sorted_directions(num_subchannels: int, points: int, multiplier: int) -> FloatArray:
    """Gains of unit sum in falling order, shape (points, K), from a shifted lattice.

    The largest of K uniform numbers is U^(1/K), the next one that times U^(1/(K-1)), and so on: nothing is
    sorted, and the lattice's first, best coordinates go to the largest gains.
    """
    powers = [1]
    for _ in range(num_subchannels - 1):
        powers.append(powers[-1] * multiplier % points)
    shift = np.random.default_rng(np.random.SeedSequence(0)).random(num_subchannels)
    uniform = (np.arange(points)[:, None] * np.array(powers) % points / points + shift) % 1.0
    # Folded, the coordinates leave no jump between 1 and 0, and the lattice's error falls faster.
    uniform = np.clip(1.0 - np.abs(2.0 * uniform - 1.0), SMALLEST_UNIFORM, 1.0 - SMALLEST_UNIFORM)
    log_ordered = np.cumsum(np.log(uniform) / np.arange(num_subchannels, 0, -1), axis=1)
    gains = -np.log(-np.expm1(log_ordered))
    return np.asarray(gains / gains.sum(axis=1, keepdims=True))
