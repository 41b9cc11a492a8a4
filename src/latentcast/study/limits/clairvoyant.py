"""The best that the paper's codec could do if every slot's rate were known in advance.

The derivation is in `docs/limits.md`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.distortion import DistortionBase, diffusion_distortion, total_distortion
from latentcast.scenario import Scenario

__all__ = ["clairvoyant_distortion"]

FloatArray: TypeAlias = NDArray[np.float64]


def clairvoyant_distortion(
    scenario: Scenario, rates_bits: FloatArray, *, base: DistortionBase = "panter-dite"
) -> FloatArray:
    """Least D_total (eq. 8) at the deadline over all schedules, with the rates known in advance.

    D_total depends on the last transfer's (t, t_p, b) alone, and the soonest way to hold x_tp is one transfer
    of the fewest bits in the slot in which x_tp is new. So two transfers are enough, and the best last one
    over all t_p, starts and levels is exact.

    Args:
        scenario: the setting.
        rates_bits: R_n, shape (episodes, T_d).
        base: D_base; see `base_distortion`.

    Returns:
        The distortion, float64, shape (episodes,); D_diff(T) where nothing can arrive.

    Raises:
        ParameterError: if the rates have another shape, or base is unknown.

    Example:
        >>> scenario = Scenario.paper(snr_db=0.0)
        >>> clairvoyant_distortion(scenario, np.full((1, 60), 4320.0)).round(4).tolist()
        [0.0865]
    """
    if rates_bits.ndim != 2 or rates_bits.shape[1] != scenario.deadline_slots:
        raise ParameterError(
            f"rates_bits has shape {rates_bits.shape}; it must be (episodes, {scenario.deadline_slots})"
        )
    path, num_steps = scenario.path, scenario.num_steps
    slots = np.arange(1, scenario.deadline_slots + 1)
    uplink = uplink_slots(rates_bits, scenario.uplink_bits)[:, None]
    steps = num_steps - np.clip(slots - uplink - 1, 0, num_steps)
    # Bits through until the deadline from each start, and the index of the finest level that they carry.
    carried = np.cumsum(rates_bits[:, ::-1], axis=1)[:, ::-1]
    sizes = float(scenario.latent_size) * np.array(scenario.bit_levels)
    finest = np.searchsorted(sizes, carried, side="right") - 1
    soonest = _first_idle(rates_bits, sizes[0])
    totals = _totals(scenario, base)

    # A lower reference is never worse, but for x_T, and it is held later: of those that can be held in a slot
    # the last one and x_T are all that matter.
    reference = num_steps - _held(soonest, uplink, num_steps)
    started = (slots > uplink) & (steps < num_steps)
    first = np.where(started, totals[finest, steps, num_steps], np.inf)
    later = np.where(started & (reference < num_steps), totals[finest, steps, reference], np.inf)
    best = np.minimum(first, later).min(axis=1, initial=float(diffusion_distortion(path, num_steps)))
    return np.asarray(best)


def _held(soonest: NDArray[np.int64], uplink: NDArray[np.int64], num_steps: int) -> NDArray[np.int64]:
    """How many of the references T-1, ..., 1 can be held in each slot with the channel idle."""
    episodes, num_slots = soonest.shape
    new = uplink + 1 + np.arange(1, num_steps)
    idle = np.take_along_axis(soonest, np.minimum(new, num_slots) - 1, axis=1)
    idle = np.where(new <= num_slots, np.minimum(idle, num_slots + 1), num_slots + 1)
    counts = np.zeros((episodes, num_slots + 2), np.int64)
    np.add.at(counts, (np.arange(episodes)[:, None], idle), 1)
    return np.cumsum(counts, axis=1)[:, 1:-1]


def _first_idle(rates: FloatArray, bits: float) -> NDArray[np.int64]:
    """First idle slot after a transfer that starts in each slot, T_d + 1 or more where it ends too late."""
    num_slots = rates.shape[1]
    idle = np.full(rates.shape, num_slots + 1)
    for start in range(num_slots):
        missing = np.cumsum(rates[:, start:], axis=1) < bits
        idle[:, start] = start + 2 + missing.sum(axis=1)
    return idle


def _totals(scenario: Scenario, base: DistortionBase) -> FloatArray:
    """D_total by level, step and reference; infinite where not below, and for level -1."""
    num_steps = scenario.num_steps
    table = np.full((len(scenario.bit_levels) + 1, num_steps + 1, num_steps + 1), np.inf)
    step, reference = np.nonzero(np.less.outer(np.arange(num_steps + 1), np.arange(num_steps + 1)))
    for level, bits in enumerate(scenario.bit_levels):
        table[level, step, reference] = total_distortion(scenario.path, step, reference, bits, base=base)
    return table
