"""The engine with a denoiser that counts, waits to be let go, and fails where it is told to."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from latentcast.diffusion.source import Step
from latentcast.errors import LatentcastError, LiveError, ModelError, ParameterError
from latentcast.live.engine import MAX_BATCH, Engine, Work
from latentcast.live.step_time import StepTime

PATIENCE_SECONDS = 180.0


@dataclass(eq=False)
class CountedRun:
    caption: str
    index: int


class CountingDenoiser:
    """Every step of a run holds its index; calls are recorded and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()
        self.called = threading.Event()
        self.one_call = threading.Semaphore(0)
        self.single = False

    def start(self, caption: str, seed: int, num_steps: int) -> CountedRun:
        if caption == "cannot start":
            raise ModelError("cannot start")
        return CountedRun(caption, num_steps)

    def advance(self, runs: Sequence[CountedRun]) -> list[Step]:
        self.called.set()
        self.go.wait(PATIENCE_SECONDS)
        if self.single:
            self.one_call.acquire(timeout=PATIENCE_SECONDS)
        self.batches.append([run.caption for run in runs])
        if any(run.caption == "breaks" and run.index == 2 for run in runs):
            raise ModelError("broken")
        steps = []
        for run in runs:
            run.index -= 1
            latent = np.full((1, 1, 2, 2), run.index, np.float32)
            steps.append(Step(run.index, latent, latent))
        return steps


class Listener:
    """What the engine said of one request."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ends: list[LatentcastError | None] = []
        self.ended = threading.Event()
        self.moved = threading.Condition()

    def on_step(self, step: Step) -> None:
        with self.moved:
            self.steps.append(step.index)
            self.moved.notify_all()

    def on_end(self, error: LatentcastError | None) -> None:
        self.ends.append(error)
        self.ended.set()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.moved:
            assert self.moved.wait_for(condition, PATIENCE_SECONDS)


@pytest.fixture
def denoiser() -> CountingDenoiser:
    return CountingDenoiser()


@pytest.fixture
def engine(denoiser: CountingDenoiser) -> Iterator[Engine]:
    engine = Engine(denoiser, max_requests=5 * MAX_BATCH)
    denoiser.batches.clear()
    denoiser.called.clear()
    yield engine
    denoiser.go.set()
    denoiser.single = False
    denoiser.one_call.release(1000)
    engine.close()


def submit(engine: Engine, caption: str, num_steps: int = 4, deadline: float = np.inf) -> Listener:
    listener = Listener()
    engine.submit(caption, 0, num_steps, deadline, listener.on_step, listener.on_end)
    return listener


def test_every_step_comes_once_and_then_the_end(engine: Engine) -> None:
    listeners = [submit(engine, str(steps), steps) for steps in (1, 5, 3)]
    for steps, listener in zip((1, 5, 3), listeners, strict=True):
        assert listener.ended.wait(PATIENCE_SECONDS)
        assert listener.steps == list(range(steps - 1, -1, -1))
        assert listener.ends == [None]
    assert engine.under_way() == []


def test_requests_that_come_later_join_the_calls(engine: Engine, denoiser: CountingDenoiser) -> None:
    denoiser.single = True
    first = submit(engine, "first")
    denoiser.one_call.release()
    first.wait_for(lambda: len(first.steps) == 1)
    second = submit(engine, "second", deadline=7.0e9)
    denoiser.one_call.release(2)
    second.wait_for(lambda: len(second.steps) >= 1)
    assert denoiser.batches[0] == ["first"]
    assert denoiser.batches[-1] == ["first", "second"]
    assert any(work == Work(steps=3, deadline=7.0e9) for work in engine.under_way())


def test_cancelling_stops_at_the_next_step(engine: Engine, denoiser: CountingDenoiser) -> None:
    denoiser.single = True
    leaving, staying = Listener(), submit(engine, "staying", 50)
    ticket = engine.submit("leaving", 0, 50, np.inf, leaving.on_step, leaving.on_end)
    denoiser.one_call.release(3)
    staying.wait_for(lambda: len(staying.steps) == 3)
    ticket.cancel()
    assert len(engine.under_way()) == 1
    denoiser.one_call.release(3)
    staying.wait_for(lambda: len(staying.steps) == 6)
    # One call may have been under way when it was cancelled.
    assert sum("leaving" in batch for batch in denoiser.batches) <= 4
    assert not leaving.ends


def test_a_pause_keeps_a_request_where_it_is(engine: Engine, denoiser: CountingDenoiser) -> None:
    denoiser.single = True
    away, staying = Listener(), submit(engine, "staying", 50)
    ticket = engine.submit("away", 0, 50, np.inf, away.on_step, away.on_end)
    denoiser.one_call.release(3)
    staying.wait_for(lambda: len(staying.steps) == 3)
    ticket.pause()
    denoiser.one_call.release(5)
    staying.wait_for(lambda: len(staying.steps) == 8)
    # One call may have been under way when it paused.
    assert sum("away" in batch for batch in denoiser.batches) <= 4
    assert len(engine.under_way()) == 2
    ticket.go_on()
    denoiser.one_call.release(1000)
    assert away.ended.wait(PATIENCE_SECONDS)
    assert away.steps == list(range(49, -1, -1))


def test_who_pauses_alone_is_ended_with_the_engine(engine: Engine, denoiser: CountingDenoiser) -> None:
    denoiser.single = True
    away = Listener()
    ticket = engine.submit("away", 0, 50, np.inf, away.on_step, away.on_end)
    ticket.pause()
    denoiser.one_call.release(1000)
    engine.close()
    assert len(denoiser.batches) <= 1
    assert [type(end) for end in away.ends] == [LiveError]


def test_a_failure_ends_only_the_request_that_is_to_blame(engine: Engine, denoiser: CountingDenoiser) -> None:
    denoiser.go.clear()
    good, broken, other = (submit(engine, caption) for caption in ("good", "breaks", "other"))
    unstarted = submit(engine, "cannot start")
    denoiser.go.set()
    for listener in (good, broken, other, unstarted):
        assert listener.ended.wait(PATIENCE_SECONDS)
    assert good.steps == other.steps == [3, 2, 1, 0]
    assert good.ends == other.ends == [None]
    assert broken.steps == [3, 2]
    assert [str(error) for error in broken.ends] == ["broken"]
    assert [str(error) for error in unstarted.ends] == ["cannot start"]
    assert not unstarted.steps


def test_a_failing_listener_ends_its_own_request(engine: Engine) -> None:
    bad = Listener()

    def fail(step: Step) -> None:
        raise ValueError("no room")

    engine.submit("bad", 0, 4, np.inf, fail, bad.on_end)
    good = submit(engine, "good")
    assert good.ended.wait(PATIENCE_SECONDS)
    assert bad.ended.wait(PATIENCE_SECONDS)
    assert good.ends == [None]
    assert isinstance(bad.ends[0], ModelError)


def test_nobody_starves_where_more_came_than_fit(engine: Engine, denoiser: CountingDenoiser) -> None:
    """The one with the most steps to go still gets a turn among many that have fewer."""
    denoiser.go.clear()
    patient = submit(engine, "patient", 200)
    short = [submit(engine, f"short {n}", 40) for n in range(3 * MAX_BATCH)]
    denoiser.go.set()
    patient.wait_for(lambda: len(patient.steps) >= 4)
    assert max(map(len, denoiser.batches)) == MAX_BATCH
    turns = [number for number, batch in enumerate(denoiser.batches) if "patient" in batch]
    # Four calls make a fair turn. Passed over for twice as long, it comes next but for the others of whom the
    # same is true, and who have fewer steps left: two batches.
    assert max(np.diff([0, *turns])) <= 2 * 4 + 2 + 1
    assert all(listener.steps for listener in short)


def test_where_more_came_than_fit_those_near_their_end_go_first(
    engine: Engine, denoiser: CountingDenoiser
) -> None:
    """Half of them are finished long before the others, and the others no later than at one pace."""
    denoiser.go.clear()
    # Until all are there: else the first call may take only some of them, and the last ones are not full.
    submit(engine, "held up", 1)
    assert denoiser.called.wait(PATIENCE_SECONDS)
    long = [submit(engine, f"long {n}", 30) for n in range(2 * MAX_BATCH)]
    short = [submit(engine, f"short {n}", 10) for n in range(2 * MAX_BATCH)]
    denoiser.go.set()
    for listener in [*long, *short]:
        assert listener.ended.wait(PATIENCE_SECONDS)
    last = {name: number for number, batch in enumerate(denoiser.batches[1:]) for name in batch}
    calls = [max(last[f"{kind} {n}"] + 1 for n in range(2 * MAX_BATCH)) for kind in ("short", "long")]
    # All at one pace: 10 steps of four batches each, then 20 of two.
    assert calls[0] <= 4 * 10
    assert calls[1] == 4 * 10 + 2 * 20
    first = sorted(last[f"short {n}"] + 1 for n in range(2 * MAX_BATCH))[MAX_BATCH - 1]
    assert first <= 25


def test_the_deadline_ends_a_request() -> None:
    now = [0.0]
    denoiser = CountingDenoiser()
    engine = Engine(denoiser, clock=lambda: now[0])
    try:
        denoiser.single = True
        listener = submit(engine, "slow", 50, deadline=10.0)
        denoiser.one_call.release()
        listener.wait_for(lambda: len(listener.steps) == 1)
        now[0] = 10.0
        denoiser.one_call.release(2)
        assert listener.ended.wait(PATIENCE_SECONDS)
        assert isinstance(listener.ends[0], LiveError)
        assert "deadline is over" in str(listener.ends[0])
        assert len(listener.steps) <= 2
    finally:
        denoiser.single = False
        engine.close()


def test_the_queue_is_bounded() -> None:
    denoiser = CountingDenoiser()
    engine = Engine(denoiser, max_requests=2)
    denoiser.go.clear()
    submit(engine, "a"), submit(engine, "b")
    with pytest.raises(LiveError, match="has 2 requests, which is all"):
        submit(engine, "c")
    denoiser.go.set()
    engine.close()


def test_closing_ends_everyone_and_the_thread(denoiser: CountingDenoiser) -> None:
    engine = Engine(denoiser)
    denoiser.single = True
    listener = submit(engine, "a", 50)
    denoiser.one_call.release()
    listener.wait_for(lambda: bool(listener.steps))
    denoiser.one_call.release(1)
    engine.close()
    assert "shutting down" in str(listener.ends[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "latentcast engine"]
    with pytest.raises(LiveError, match="closed"):
        submit(engine, "b")


def test_calls_are_told() -> None:
    calls: list[tuple[int, float]] = []
    engine = Engine(CountingDenoiser(), on_call=lambda size, seconds: calls.append((size, seconds)))
    listener = submit(engine, "a", 3)
    assert listener.ended.wait(PATIENCE_SECONDS)
    engine.close()
    assert [size for size, _ in calls] == [1, 1, 1]
    assert all(seconds > 0.0 for _, seconds in calls)


def test_step_time_follows_the_load() -> None:
    step_time = StepTime([1, 4, 16], [0.01, 0.02, 0.06])
    assert step_time.max_batch == 16
    assert step_time.slot_seconds(0) == step_time.call_seconds(1) == 0.01
    assert step_time.slot_seconds(40) == pytest.approx(3 * step_time.call_seconds(14))
    step_time.observe(4, 1000.0)
    # A hiccup counts as four times the expected, at the weight of one call.
    assert step_time.call_seconds(4) == pytest.approx(0.02 * (1 + 0.15 * 3))
    for _ in range(50):
        step_time.observe(1, 0.03)
    assert step_time.call_seconds(16) == pytest.approx(0.18, rel=0.01)


@pytest.mark.parametrize("sizes", [[], [2, 4], [1, 1], [1]])
def test_step_time_needs_a_shape(sizes: list[int]) -> None:
    with pytest.raises(ParameterError, match="as many positive seconds"):
        StepTime(sizes, [0.1, 0.2])
