"""Admission against what the engine would do with everyone's steps."""

import numpy as np
import pytest

from latentcast.live.admission import RefusedError, WaitingLine, admit, finish_seconds
from latentcast.live.engine import MAX_BATCH, Work


def slot_seconds(num_active: int) -> float:
    return 0.010 + 0.020 * num_active


def simulated(steps: list[int]) -> list[float]:
    """Everyone takes one step per slot, step by step."""
    times, now, left = [0.0] * len(steps), 0.0, list(steps)
    while any(left):
        active = [item for item, count in enumerate(left) if count]
        now += slot_seconds(len(active))
        for item in active:
            left[item] -= 1
            times[item] = now
    return times


def test_finish_times_are_those_of_the_engine() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = rng.integers(1, 50, size=rng.integers(1, 12)).tolist()
        np.testing.assert_allclose(finish_seconds(steps, slot_seconds), simulated(steps))
    assert finish_seconds([], slot_seconds) == []


def test_alone_as_many_steps_as_the_deadline_allows() -> None:
    got = [
        admit(seconds_left=seconds, under_way=[], slot_seconds=slot_seconds, now=0.0).num_steps
        for seconds in (10.0, 1.9, 1.8, 1.3, 0.5, 0.4)
    ]
    # 30 ms a step, and four fifths of the time.
    assert got == [50, 50, 40, 30, 10, 10]


def test_too_short_a_deadline_is_refused_for_good() -> None:
    with pytest.raises(RefusedError, match="needs about 375 ms") as caught:
        admit(seconds_left=0.37, under_way=[], slot_seconds=slot_seconds, now=0.0)
    assert (caught.value.code, caught.value.retry_seconds) == ("deadline-too-short", None)


def test_whoever_is_let_in_is_in_time_and_makes_nobody_late() -> None:
    """Devices come at once until one is refused: everyone admitted finishes before the deadline."""
    work: list[Work] = []
    counts = []

    def come_until_one_is_refused() -> None:
        for _ in range(1000):
            come()

    def come() -> None:
        admission = admit(seconds_left=5.0, under_way=work, slot_seconds=slot_seconds, now=0.0)
        assert admission.slot_seconds == slot_seconds(len(work) + 1)
        counts.append(admission.num_steps)
        work.append(Work(steps=admission.num_steps, deadline=5.0))

    with pytest.raises(RefusedError) as caught:
        come_until_one_is_refused()
    assert caught.value.code == "busy"
    retry = caught.value.retry_seconds
    finishes = simulated([item.steps for item in work])
    # A fifth of the time is the link's, and for what was not foreseen.
    assert max(finishes) <= 0.8 * 5.0
    # The fuller it is, the fewer steps.
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 50
    assert counts[-1] < 30
    assert len(counts) >= 5
    # At the retry time there is room.
    assert retry is not None
    left = [
        Work(steps=max(item.steps - round(item.steps * retry / finish), 1), deadline=5.0)
        for item, finish in zip(work, finishes, strict=True)
        if finish > retry
    ]
    admit(seconds_left=5.0, under_way=left, slot_seconds=slot_seconds, now=retry)


def test_those_who_are_there_are_not_made_late() -> None:
    tight = [Work(steps=50, deadline=1.7)]
    with pytest.raises(RefusedError) as caught:
        admit(seconds_left=100.0, under_way=tight, slot_seconds=slot_seconds, now=0.0)
    assert caught.value.code == "busy"
    assert caught.value.retry_seconds == pytest.approx(50 * slot_seconds(1))
    # Ten seconds of patience more, and both fit.
    easy = [Work(steps=50, deadline=11.7)]
    assert admit(seconds_left=100.0, under_way=easy, slot_seconds=slot_seconds, now=0.0).num_steps == 50


def test_the_time_to_come_back_follows_the_engine_one_batch_after_another() -> None:
    """Short runs are at their end long before they would be if all went on at one pace."""
    short = [Work(steps=10, deadline=100.0)] * MAX_BATCH
    long = [Work(steps=50, deadline=100.0)] * MAX_BATCH

    def pace(num_active: int) -> float:
        return 0.1 * max(num_active / MAX_BATCH, 1.0)

    with pytest.raises(RefusedError) as caught:
        # Among 32 a step takes 0.2 s, among 16 half of that: 10 steps are too many now, and not later.
        admit(seconds_left=2.4, under_way=[*long, *short], slot_seconds=pace, now=0.0, step_counts=(10,))
    assert caught.value.retry_seconds == pytest.approx(10 * pace(MAX_BATCH))


def test_those_who_wait_are_counted_when_the_next_is_told_a_time() -> None:
    """Who was told the first time with room takes that room: the next is sent to a later one."""
    under_way = [Work(steps=count, deadline=30.0) for count in range(12, 60, 4)]
    waiting: list[float] = []
    for _ in range(6):
        with pytest.raises(RefusedError) as refused:
            admit(
                seconds_left=1.2,
                under_way=under_way,
                slot_seconds=slot_seconds,
                now=5.0,
                step_counts=(10,),
                waiting=waiting,
            )
        assert refused.value.retry_seconds is not None
        waiting.append(5.0 + refused.value.retry_seconds)
    assert waiting == sorted(waiting)
    assert len(set(waiting)) >= 4


def test_those_who_are_told_to_come_back_come_one_after_another() -> None:
    rng = np.random.default_rng(0)
    line = WaitingLine()
    now, told = 100.0, list[float]()
    for earliest in now + rng.uniform(0.0, 5.0, 60):
        time = line.join(now=now, earliest=earliest, turn_seconds=0.3)
        assert time >= earliest
        told.append(time)
    assert np.diff(sorted(told)).min() >= 0.3 - 1e-9
    # Times that are over are free again, and beyond a minute nobody is sent.
    assert line.join(now=200.0, earliest=200.0, turn_seconds=0.3) == 200.0
    crowd = [line.join(now=200.0, earliest=201.0, turn_seconds=1.0) for _ in range(100)]
    assert max(crowd) == 260.0
    assert len(line._times) <= 61


def test_the_time_to_retry_is_bounded() -> None:
    work = [Work(steps=50, deadline=1e4)] * 200
    with pytest.raises(RefusedError) as caught:
        admit(seconds_left=1.0, under_way=work, slot_seconds=slot_seconds, now=0.0)
    assert caught.value.retry_seconds == 60.0


def test_the_time_to_come_back_is_the_first_at_which_there_is_room() -> None:
    steps = [12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    under_way = [Work(steps=count, deadline=30.0) for count in steps]
    finishes = finish_seconds(steps, slot_seconds)

    def ask(later: float) -> int:
        rest = [
            Work(steps=max(round(work.steps * (1.0 - later / finish)), 1), deadline=work.deadline)
            for work, finish in zip(under_way, finishes, strict=True)
            if finish > later
        ]
        return admit(
            seconds_left=1.2, under_way=rest, slot_seconds=slot_seconds, now=later, step_counts=(10,)
        ).num_steps

    with pytest.raises(RefusedError) as refused:
        ask(0.0)
    first = refused.value.retry_seconds
    earlier = [later for later in sorted(finishes) if later < (first or 0.0)]
    assert len(earlier) > 1
    for later in earlier:
        with pytest.raises(RefusedError):
            ask(later)
    assert ask(first or 0.0) == 10
