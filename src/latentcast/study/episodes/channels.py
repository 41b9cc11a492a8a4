"""Common random numbers: the channel draws that all policies and all SNRs share."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.link.law import RateLaw

__all__ = ["BLOCK_EPISODES", "episode_rates"]

FloatArray: TypeAlias = NDArray[np.float64]

BLOCK_EPISODES = 4096
"""Episodes of a block. Random streams belong to blocks, so that a result never depends on who runs which."""


def episode_rates(
    law: RateLaw, deadline_slots: int, *, seed: int, block: int, count: int = BLOCK_EPISODES
) -> FloatArray:
    """Rates of the episodes of one block; row i of block b is episode b * 4096 + i.

    Every rate is the law's quantile of one uniform number, which depends on the seed, the episode, the slot
    and the number of slots alone: at a higher SNR the same episode is the same luck on a better link.

    Args:
        law: the law of one slot's rate.
        deadline_slots: T_d, slots of an episode.
        seed: root seed, 0 or more.
        block: number of the block, 0 or more.
        count: episodes wanted, the block's first, 1..4096.

    Returns:
        R_n in bits per slot, float64, shape (count, deadline_slots).

    Example:
        >>> from latentcast.link.rayleigh import RayleighLink
        >>> law = RateLaw.prepare(RayleighLink(snr_db=0.0))
        >>> few, many = (episode_rates(law, 5, seed=1, block=0, count=count) for count in (2, 3))
        >>> bool((few == many[:2]).all())
        True
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
    return law.quantile(rng.random((count, deadline_slots)))
