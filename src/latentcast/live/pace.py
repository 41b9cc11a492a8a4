"""When denoising steps come: the next one, and x_0, after which nothing grows old any more."""

from __future__ import annotations

__all__ = ["StepPace"]

_KNOWN_STEPS = 3
"""After so many steps their own pace counts, and no longer what was announced."""


class StepPace:
    """Watches the steps of one request.

    Args:
        num_steps: T.
        slot_seconds: Time of a step, as announced.

    Example:
        >>> pace = StepPace(50, 0.1)
        >>> for step, now in ((49, 1.0), (46, 1.6), (45, 1.8)):
        ...     pace.note(step, now)
        >>> round(pace.next_in(1.9), 3), round(pace.final_in(1.9), 3)
        (0.1, 8.9)
    """

    def __init__(self, num_steps: int, slot_seconds: float) -> None:
        self._num_steps = num_steps
        self._slot = slot_seconds
        self._step = num_steps
        self._first: tuple[int, float] | None = None
        self._at = 0.0

    def note(self, step: int, now: float) -> None:
        """Note the newest step; the same again is no news."""
        if step == self._step:
            return
        self._step, self._at = step, now
        if self._first is None:
            self._first = (step, now)

    def next_in(self, now: float) -> float:
        """Seconds until the next step is due, less than 0 if it is late or none will come."""
        return self._until(1, now)

    def final_in(self, now: float) -> float:
        """Seconds until x_0 is due, less than 0 if it is late or there."""
        return self._until(self._step, now)

    def patience(self, now: float) -> float:
        """Seconds after which the next step is not to be waited for: twice what it takes, or what it took."""
        return max(2.0 * self.next_in(now), now - self._at)

    def _until(self, steps: int, now: float) -> float:
        if self._first is None or self._step == 0:
            return -1.0
        step, began = self._first
        done = step - self._step
        pace = (self._at - began) / done if done >= _KNOWN_STEPS else self._slot
        return self._at + steps * pace - now
