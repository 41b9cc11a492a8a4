"""Who is let in: as many steps as can be finished comfortably before the deadline, or a refusal.

The engine takes all requests forward at one pace, which depends on how many there are. From that follows when
everyone would finish if one more came, and whether anyone would then be late. The busier the server is, the
fewer steps a newcomer gets, so that others still find room; whom not even the fewest steps can serve in time
is refused, with a reason and the time after which there will be room. Those who are refused together are told
to come back one after another, as far apart as each needs the machine: all at once they would be refused
again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from latentcast.errors import LiveError
from latentcast.live.engine import MAX_BATCH, Work

__all__ = ["STEP_COUNTS", "Admission", "RefusedError", "WaitingLine", "admit", "finish_seconds"]

STEP_COUNTS = (50, 40, 30, 20, 10)
"""Numbers of denoising steps on offer."""

# Of the time until its deadline everyone's steps may need so much; the rest is the link's, and for what was
# not foreseen: others who come, and devices or anything else on the same machine.
_SHARE = 0.8
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
    waiting: Sequence[float] = (),
) -> Admission:
    """Decide on a request.

    Args:
        seconds_left: Until its last refinement has to leave.
        under_way: What is left to do for everyone else.
        slot_seconds: Time of a step of one request among so many.
        now: On the clock of the others' deadlines.
        step_counts: On offer, falling.
        waiting: When others were told to come back, on the same clock.

    Returns:
        The number of steps, and how long one is expected to take.

    Raises:
        RefusedError: If it cannot be served in time.

    Example:
        >>> admit(seconds_left=2.0, under_way=[], slot_seconds=lambda active: 0.02 + 0.01 * active, now=0.0)
        Admission(num_steps=50, slot_seconds=0.03)
    """
    slot_seconds = cache(slot_seconds)  # asked for hundreds of times, of a few numbers
    fewest = step_counts[-1]
    needed = fewest * slot_seconds(1) / _SHARE
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
        if num_steps * crowded <= _SHARE * seconds_left and _fits(
            num_steps, seconds_left, under_way, slot_seconds, now
        ):
            return Admission(num_steps=num_steps, slot_seconds=slot_seconds(num_active))
    if _fits(fewest, seconds_left, under_way, slot_seconds, now):
        return Admission(num_steps=fewest, slot_seconds=slot_seconds(num_active))
    retry = _seconds_until_room(fewest, seconds_left, under_way, slot_seconds, now, waiting)
    raise RefusedError(
        "busy",
        f"{len(under_way)} requests are being served; one more could not be finished in "
        f"{seconds_left * 1e3:.0f} ms",
        retry,
    )


class WaitingLine:
    """When those who were refused were told to come back, up to a minute ahead.

    Example:
        >>> line = WaitingLine()
        >>> [line.join(now=100.0, earliest=102.0, turn_seconds=0.5) for _ in range(3)]
        [102.0, 102.5, 103.0]
        >>> line.join(now=100.0, earliest=101.8, turn_seconds=0.5)
        103.5
        >>> line.join(now=100.0, earliest=101.0, turn_seconds=0.5)
        101.0
    """

    def __init__(self) -> None:
        self._times: list[float] = []

    @property
    def times(self) -> Sequence[float]:
        """On the clock of `join`, rising; some may be over."""
        return self._times

    def join(self, *, now: float, earliest: float, turn_seconds: float) -> float:
        """The first time that is nobody else's.

        Args:
            now: Whoever was told an earlier time is back, or has given up.
            earliest: When there will be room, on the same clock.
            turn_seconds: How far apart times are.

        Returns:
            The time; beyond a minute it may be others', too.
        """
        latest = now + _LONGEST_RETRY_SECONDS
        del self._times[: bisect_left(self._times, now)]
        time = earliest
        for taken in self._times[bisect_left(self._times, earliest - turn_seconds) :]:
            if taken - time >= turn_seconds:
                break
            time = max(time, taken + turn_seconds)
        if time >= latest:
            return latest
        insort(self._times, time)
        return time


def finish_seconds(steps: Sequence[int], slot_seconds: SlotSeconds) -> list[float]:
    """When each is finished if all go forward at one pace, faster as others leave.

    Example:
        >>> finish_seconds([10, 30], lambda active: 0.1 * active)
        [2.0, 4.0]
    """
    times = [0.0] * len(steps)
    elapsed, done, left = 0.0, 0, len(steps)
    for item in sorted(range(len(steps)), key=steps.__getitem__):
        if steps[item] > done:
            elapsed += (steps[item] - done) * slot_seconds(left)
            done = steps[item]
        left -= 1
        times[item] = elapsed
    return times


def _fits(
    num_steps: int, seconds_left: float, under_way: Sequence[Work], slot_seconds: SlotSeconds, now: float
) -> bool:
    *others, own = finish_seconds([*(work.steps for work in under_way), num_steps], slot_seconds)
    return own <= _SHARE * seconds_left and all(
        finish <= _SHARE * (work.deadline - now) for finish, work in zip(others, under_way, strict=True)
    )


def _seconds_until_room(
    num_steps: int,
    seconds_left: float,
    under_way: Sequence[Work],
    slot_seconds: SlotSeconds,
    now: float,
    waiting: Sequence[float],
) -> float:
    """The first time somebody has finished and there is room for as few steps as this."""
    forecast = _forecast(under_way, slot_seconds)

    def has_room(later: float) -> bool:
        rest = [
            Work(steps=run.steps_after(later), deadline=run.work.deadline)
            for run in forecast
            if run.end > later
        ]
        # Who waits is taken for one like this, let in when told to come, and goes forward with the others.
        back = [time for time in waiting if now <= time <= now + later]
        pace = slot_seconds(len(rest) + len(back) + 1)
        for time in back:
            left = num_steps - int((now + later - time) / pace)
            if left > 0:
                rest.append(Work(steps=left, deadline=time + seconds_left))
        return _fits(num_steps, seconds_left, rest, slot_seconds, now + later)

    # A refusal must not cost much, and there is the more room the more have finished.
    times = [run.end for run in forecast]
    first = bisect_left(times, True, key=has_room)
    return min(times[first] if first < len(times) else max(times, default=0.0), _LONGEST_RETRY_SECONDS)


class _Run(NamedTuple):
    """When the engine takes a request to its end, in seconds from now."""

    work: Work
    begin: float
    end: float

    def steps_after(self, seconds: float) -> int:
        """Steps to go, of those that are not finished by then."""
        done = max(seconds - self.begin, 0.0) / (self.end - self.begin)
        return max(round(self.work.steps * (1.0 - done)), 1)


def _forecast(under_way: Sequence[Work], slot_seconds: SlotSeconds) -> list[_Run]:
    """One batch after another, those with the fewest steps left first, as the engine has them."""
    ranked = sorted(under_way, key=lambda work: work.steps)
    runs: list[_Run] = []
    begin = 0.0
    for i in range(0, len(ranked), MAX_BATCH):
        batch = ranked[i : i + MAX_BATCH]
        ends = finish_seconds([work.steps for work in batch], slot_seconds)
        runs += [_Run(work, begin, begin + end) for work, end in zip(batch, ends, strict=True)]
        begin += ends[-1]
    return runs
