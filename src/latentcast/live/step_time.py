"""How long a call of the denoiser takes, by the number of requests in it, under the present load."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latentcast.errors import ParameterError

__all__ = ["StepTime"]

# Weight of the newest call: a change of the machine's load is followed within some ten calls.
_WEIGHT = 0.15


class StepTime:
    """Seconds of one call for batches of any size.

    The shape over batch sizes is measured once, by `measured`; what the calls really take moves its level.

    Args:
        sizes: Batch sizes, rising, from 1; the last one is the largest batch.
        seconds: What a call took at each of them.

    Raises:
        ParameterError: If the two do not fit each other.

    Example:
        >>> step_time = StepTime([1, 4], [0.010, 0.025])
        >>> step_time.call_seconds(2), step_time.slot_seconds(8)
        (0.015, 0.05)
    """

    def __init__(self, sizes: Sequence[int], seconds: Sequence[float]) -> None:
        if (
            len(sizes) != len(seconds)
            or list(sizes[:1]) != [1]
            or any(np.diff(sizes) <= 0)
            or min(seconds) <= 0
        ):
            raise ParameterError(
                f"batch sizes are {list(sizes)} and seconds {list(seconds)}; give as many positive seconds "
                "as rising sizes, from 1"
            )
        # A larger batch never takes less: where it seems to, the machine had something else to do.
        rising = np.maximum.accumulate(np.array(seconds, np.float64))
        # Of every size: who is let in is decided by many of these.
        self._seconds: list[float] = np.interp(np.arange(1, sizes[-1] + 1), sizes, rising).tolist()
        self._level = 1.0

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return len(self._seconds)

    def observe(self, size: int, seconds: float) -> None:
        """Note what a call took."""
        expected = self._shape(size)
        # A single hiccup says nothing about the calls to come.
        ratio = min(max(seconds / expected, self._level / 4), self._level * 4)
        self._level += _WEIGHT * (ratio - self._level)

    def call_seconds(self, size: int) -> float:
        """What a call for a batch of this size takes."""
        return self._level * self._shape(size)

    def slot_seconds(self, num_active: int) -> float:
        """Time between two steps of one request among so many, where more than a batch take turns."""
        calls = max(math.ceil(num_active / self.max_batch), 1)
        return calls * self.call_seconds(math.ceil(num_active / calls))

    def _shape(self, size: int) -> float:
        return self._seconds[min(max(size, 1), len(self._seconds)) - 1]
