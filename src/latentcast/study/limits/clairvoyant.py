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

    best = np.full(len(rates_bits), diffusion_distortion(path, num_steps))
    episodes = np.arange(len(rates_bits))
    for reference in range(num_steps, 0, -1):
        if reference == num_steps:
            idle = uplink[:, 0] + 1
        else:
            new = uplink[:, 0] + 1 + num_steps - reference
            idle = np.where(
                new <= slots[-1], soonest[episodes, np.minimum(new, slots[-1]) - 1], slots[-1] + 1
            )
        possible = (slots >= idle[:, None]) & (steps < reference)
        last = np.where(possible, totals[finest, steps, reference], np.inf)
        best = np.minimum(best, last.min(axis=1))
    return best


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
