"""Backward induction over the lengths of passes, compiled: a live service plans anew as its link changes."""

from typing import Any

import numba
import numpy as np

__all__ = ["best_lengths"]


@numba.njit(cache=True)
def best_lengths(sums: Any, left: Any, log_errors: Any, uplink_slots: Any) -> Any:
    """The length of the pass that leaves the least error at the deadline, for every slot and error.

    Args:
        sums: sums of mmse(t(n)) over the slots from 0 on, float64 (T_d + 1,).
        left: what of the difference to the target a pass over 1, 2, ... slots leaves, float64 (lengths,).
        log_errors: evenly spaced logarithms of the error at the beginning of a slot, rising, float64 (E,).
        uplink_slots: T_ul; no pass begins in these.

    Returns:
        int64 (T_d, E); 0 is to wait.

    Example:
        >>> logs = np.log(np.geomspace(1e-3, 1.0, 31))
        >>> sums = np.cumsum([0.0, 1.0, 0.5, 0.0, 0.0])  # from the third slot on the target is exact
        >>> best_lengths(sums, np.array([0.1, 0.01]), logs, 0)[:, -1].tolist()
        [0, 1, 1, 1]
    """
    deadline, count = sums.size - 1, log_errors.size
    errors = np.exp(log_errors)
    per_log = (count - 1) / (log_errors[-1] - log_errors[0])
    # value[n] is the logarithm of the error at the deadline, by that at the beginning of slot n.
    value = np.empty((deadline + 2, count))
    value[deadline + 1] = log_errors
    table = np.zeros((deadline, count), np.int64)
    for slot in range(deadline, 0, -1):
        value[slot] = value[slot + 1]
        if slot <= uplink_slots:
            continue
        for length in range(1, min(left.size, deadline - slot + 1) + 1):
            mean = (sums[slot - 1 + length] - sums[slot - 1]) / length
            later = value[slot + length]
            for index in range(count - 1, -1, -1):
                if errors[index] <= mean:
                    break
                after = mean + (errors[index] - mean) * left[length - 1]
                place = max((np.log(after) - log_errors[0]) * per_log, 0.0)
                cell = min(int(place), count - 2)
                final = later[cell] + min(place - cell, 1.0) * (later[cell + 1] - later[cell])
                if final < value[slot, index] - 1e-12:
                    value[slot, index] = final
                    table[slot - 1, index] = length
    return table
