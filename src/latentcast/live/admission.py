"""Who is let in: as many steps as can be finished comfortably before the deadline, or a refusal.

The engine takes all requests forward at one pace, which depends on how many there are. From that follows when
everyone would finish if one more came, and whether anyone would then be late. The busier the server is, the
fewer steps a newcomer gets, so that others still find room; whom not even the fewest steps can serve in time
is refused, with a reason and the time after which there will be room.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latentcast.errors import LiveError
from latentcast.live.engine import Work

__all__ = ["STEP_COUNTS", "Admission", "RefusedError", "admit", "finish_seconds"]

STEP_COUNTS = (50, 40, 30, 20, 10)
"""Numbers of denoising steps on offer."""

# Of the time until its deadline a newcomer may need so much, for the rest is the link's; those who were let
# in before may be slowed down to the second figure.
_COMFORT = 0.8
_TOLERATED = 0.95
_LONGEST_RETRY_SECONDS = 60.0

SlotSeconds = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Admission:
    """How a request is served.

    Attributes:
        num_steps: T.
        slot_seconds: Expected time of a step.
    """

    num_steps: int
    slot_seconds: float


class RefusedError(LiveError):
    """A request is not served.

    Attributes:
        code: As in the protocol's ERROR: "busy", "deadline-too-short", ...
        retry_seconds: When to try again; None where that would not help.
    """

    def __init__(self, code: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_seconds = retry_seconds


def admit(
    *,
    seconds_left: float,
    under_way: Sequence[Work],
    slot_seconds: SlotSeconds,
    now: float,
    step_counts: Sequence[int] = STEP_COUNTS,
) -> Admission:
    """Decide on a request.

    Args:
        seconds_left: Until its last refinement has to leave.
        under_way: What is left to do for everyone else.
        slot_seconds: Time of a step of one request among so many.
        now: On the clock of the others' deadlines.
        step_counts: On offer, falling.

    Returns:
        The number of steps, and how long one is expected to take.

    Raises:
        RefusedError: If it cannot be served in time.

    Example:
        >>> admit(seconds_left=2.0, under_way=[], slot_seconds=lambda active: 0.02 + 0.01 * active, now=0.0)
        Admission(num_steps=50, slot_seconds=0.03)
    """
    fewest = step_counts[-1]
    needed = fewest * slot_seconds(1) / _COMFORT
    if needed > seconds_left:
        raise RefusedError(
            "deadline-too-short",
            f"the deadline leaves {seconds_left * 1e3:.0f} ms for generating; this server needs about "
            f"{needed * 1e3:.0f} ms when nobody else is there",
        )
    num_active = len(under_way) + 1
    # As many again may come: who gets more than the fewest steps must have time for them, too.
    crowded = slot_seconds(2 * num_active - 1)
    for num_steps in step_counts[:-1]:
        if num_steps * crowded <= _COMFORT * seconds_left and _fits(
            num_steps, seconds_left, under_way, slot_seconds, now
        ):
            return Admission(num_steps=num_steps, slot_seconds=slot_seconds(num_active))
    if _fits(fewest, seconds_left, under_way, slot_seconds, now):
        return Admission(num_steps=fewest, slot_seconds=slot_seconds(num_active))
    retry = _seconds_until_room(fewest, seconds_left, under_way, slot_seconds, now)
    raise RefusedError(
        "busy",
        f"{len(under_way)} requests are being served; one more could not be finished in "
        f"{seconds_left * 1e3:.0f} ms",
        retry,
    )


def finish_seconds(steps: Sequence[int], slot_seconds: SlotSeconds) -> list[float]:
    """When each is finished if all go forward at one pace, faster as others leave.

    Example:
        >>> finish_seconds([10, 30], lambda active: 0.1 * active)
        [2.0, 4.0]
    """
    times = [0.0] * len(steps)
    elapsed, done = 0.0, 0
    for rank, item in enumerate(sorted(range(len(steps)), key=lambda item: steps[item])):
        elapsed += (steps[item] - done) * slot_seconds(len(steps) - rank)
        done = steps[item]
        times[item] = elapsed
    return times


def _fits(
    num_steps: int, seconds_left: float, under_way: Sequence[Work], slot_seconds: SlotSeconds, now: float
) -> bool:
    *others, own = finish_seconds([*(work.steps for work in under_way), num_steps], slot_seconds)
    return own <= _COMFORT * seconds_left and all(
        finish <= _TOLERATED * (work.deadline - now) for finish, work in zip(others, under_way, strict=True)
    )


def _seconds_until_room(
    num_steps: int, seconds_left: float, under_way: Sequence[Work], slot_seconds: SlotSeconds, now: float
) -> float:
    """The first time somebody has finished and there is room for as few steps as this."""
    finishes = finish_seconds([work.steps for work in under_way], slot_seconds)
    times = sorted(finishes)

    def has_room(later: float) -> bool:
        # Who goes on has done a part of the steps that is the larger, the nearer its own end is.
        rest = [
            Work(steps=max(round(work.steps * (1.0 - later / finish)), 1), deadline=work.deadline)
            for work, finish in zip(under_way, finishes, strict=True)
            if finish > later
        ]
        return _fits(num_steps, seconds_left, rest, slot_seconds, now + later)

    # A refusal must not cost much, and there is the more room the more have finished.
    first = bisect_left(times, True, key=has_room)
    return min(times[first] if first < len(times) else max(times, default=0.0), _LONGEST_RETRY_SECONDS)
