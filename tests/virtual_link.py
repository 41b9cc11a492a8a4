"""A link in virtual time: a queue that is served at a rate which changes from slot to slot."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class VirtualLink:
    """Bytes leave in the order they came in, at the rate of the slot; then they travel a fixed time.

    Args:
        bytes_per_slot: What each slot carries from time 0 on; the last one's rate goes on for ever.
        slot_seconds: Length of a slot.
        delay_seconds: One way.
        overhead_bytes: What the link carries for a message beside its bytes.

    Attributes:
        free_at: When it will have carried all that was handed over.
    """

    def __init__(
        self,
        bytes_per_slot: ArrayLike,
        *,
        slot_seconds: float,
        delay_seconds: float = 0.0,
        overhead_bytes: int = 0,
    ) -> None:
        rates = np.asarray(bytes_per_slot, np.float64)
        far = np.full(100_000, max(float(rates[-1]), 1e-9))
        self._carried = np.concatenate([[0.0], np.cumsum(np.concatenate([rates, far]))])
        self._times = np.arange(self._carried.size) * slot_seconds
        self._delay = delay_seconds
        self._overhead = overhead_bytes
        self.free_at = 0.0

    def send(self, length: int, now: float) -> float:
        """When a message has arrived that is handed over now."""
        start = max(now, self.free_at)
        done = float(np.interp(start, self._times, self._carried)) + length + self._overhead
        # Where the rate is 0 many times have carried the same: the first.
        index = int(np.searchsorted(self._carried, done, side="left"))
        low, high = self._carried[index - 1], self._carried[index]
        share = (done - low) / (high - low)
        self.free_at = float(self._times[index - 1] + share * (self._times[index] - self._times[index - 1]))
        return self.free_at + self._delay
