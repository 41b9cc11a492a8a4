"""Backward induction over passes, compiled: the best length of a pass in every slot, for every error.

The recursion is that of `latentcast.policy.progressive`. Errors stand on a grid even in the logarithm,
so that neither a search nor a power is needed; where the target is exact a pass is a shift along the grid.
"""

from typing import Any

import numba
import numpy as np

__all__ = ["best_lengths"]


@numba.njit(cache=True)
def best_lengths(floors: Any, left: Any, errors: Any, first_slot: Any) -> Any:
    """The lengths of passes that leave the least expected error at the deadline.

    Args:
        floors: m_n, the target's error in slots 1..T_d, float64, not rising.
        left: delta(h r), what a pass of h = 1, 2, ... slots leaves of a unit variance, float64.
        errors: V, evenly spaced in the logarithm, rising, float64 (n,).
        first_slot: the first slot in which anything can be sent.

    Returns:
        int64 (T_d, n), of slot n in row n - 1; 0 is to wait.
    """
    slots, num_errors = floors.size, errors.size
    logs = np.log(errors)
    first, per_log = logs[0], (num_errors - 1) / (logs[-1] - logs[0])
    sums = np.zeros(slots + 1)
    for slot in range(slots):
        sums[slot + 1] = sums[slot] + floors[slot]
    log_left = np.log(left)
    value = np.empty((slots + 2, num_errors))
    value[slots + 1] = logs
    best = np.zeros((slots, num_errors), np.int64)
    log_after = np.empty(num_errors)
    for slot in range(slots, 0, -1):
        now, lengths = value[slot], best[slot - 1]
        now[:] = value[slot + 1]
        if slot < first_slot:
            continue
        for length in range(1, min(left.size, slots - slot + 1) + 1):
            mean = (sums[slot - 1 + length] - sums[slot - 1]) / length
            later = value[slot + length]
            above = np.searchsorted(errors, mean, side="right")
            # In a loop without the look-up, which is 1.7 times as quick in all.
            if mean > 0.0:
                for i in range(above, num_errors):
                    log_after[i] = np.log(mean + (errors[i] - mean) * left[length - 1])
            else:
                for i in range(above, num_errors):
                    log_after[i] = logs[i] + log_left[length - 1]
            for i in range(above, num_errors):
                place = min(max((log_after[i] - first) * per_log, 0.0), num_errors - 1.0)
                whole = min(int(place), num_errors - 2)
                final = later[whole] + (place - whole) * (later[whole + 1] - later[whole])
                if final < now[i] - 1e-12:
                    now[i] = final
                    lengths[i] = length
    return best
