"""Waterfilling of a million slots of 60 sub-channels, against bisection of one slot after the other."""

from functools import partial

import numpy as np

from latentcast.link.rayleigh import RayleighLink, waterfill
from timing import best_seconds, report

SLOTS = 1_000_000
BISECTED_SLOTS = 200
CHUNK = 10_000


def bisect_slots(gains: np.ndarray) -> None:
    """The usual way: for each slot, the water level by bisection to machine precision."""
    for gain in gains:
        floors = 1.0 / gain
        low, high = floors.min(), floors.min() + gain.size
        for _ in range(53):
            level = 0.5 * (low + high)
            if np.maximum(level - floors, 0.0).sum() > gain.size:
                high = level
            else:
                low = level


def waterfill_chunks(gains: np.ndarray) -> None:
    """A million slots from the same chunk of gains over and over, so that memory stays small."""
    for _ in range(SLOTS // CHUNK):
        waterfill(gains, 60.0)


def main() -> None:
    link = RayleighLink(snr_db=6.0)
    gains = np.random.default_rng(0).standard_exponential((CHUNK, 60)) * link.mean_snr
    bisected = best_seconds(partial(bisect_slots, gains[:BISECTED_SLOTS]), calls=1, repeats=3)
    bisected *= SLOTS / BISECTED_SLOTS
    reference = f"per-slot bisection, from {BISECTED_SLOTS} slots"
    filled = best_seconds(partial(waterfill_chunks, gains), calls=1, repeats=1)
    report("waterfill, a million slots", filled, reference, bisected)
    drawn = best_seconds(
        lambda: link.sample(SLOTS // 1000, 1000, rng=np.random.default_rng(1)), calls=1, repeats=1
    )
    report("sample (draw, fill, rates), a million slots", drawn, reference, bisected)


if __name__ == "__main__":
    main()
