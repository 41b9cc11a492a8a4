"""The engine: one thread that denoises many requests in common calls, step by step.

A request joins at the next call and leaves after its last step, when it is cancelled, or at its deadline; it
may pause in between.
Where there are more than fit a call, those go first that have the fewest steps left, but nobody is passed
over for long. So each finishes no later than if all went forward at one pace, which is what they are let in
by (`admission`), and most much earlier: the link has the more time for what they end with, and where the
machine is slower than was foreseen few are late instead of all.
A call that fails is made again for each request alone, so that only the one to blame ends.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from latentcast.diffusion.source import Step
from latentcast.errors import LatentcastError, LiveError, ModelError
from latentcast.live.step_time import StepTime

__all__ = ["MAX_BATCH", "Denoiser", "Engine", "Ticket", "Work"]

MAX_BATCH = 16
"""Requests in one call: from about here on, larger ones bring no more throughput on a CPU, only delay."""

_MEASURED_SIZES = (1, 4, MAX_BATCH)
_CALLS_PER_SIZE = 2
# Turns in which a request may be passed over, in multiples of what fair turns would make it wait.
_PATIENCE = 2

StepListener = Callable[[Step], None]
EndListener = Callable[[LatentcastError | None], None]


class Denoiser(Protocol):
    """What the engine drives; `diffusion.batching.BatchedDenoiser` is one."""

    def start(self, caption: str, seed: int, num_steps: int) -> Any:
        """Begin a run."""

    def advance(self, runs: Sequence[Any]) -> list[Step]:
        """Take every run one step further."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do for a request.

    Attributes:
        steps: Denoising steps to go.
        deadline: When they must be done, on the engine's clock in seconds.
    """

    steps: int
    deadline: float


class Ticket:
    """A request in the engine's hands. Made by `Engine.submit`."""

    def __init__(
        self,
        caption: str,
        seed: int,
        num_steps: int,
        deadline: float,
        on_step: StepListener,
        on_end: EndListener | None,
        changed: threading.Condition,
    ) -> None:
        self.caption = caption
        self.seed = seed
        self.num_steps = num_steps
        self.deadline = deadline
        self._on_step = on_step
        self._on_end = on_end
        self._run: Any = None
        self._steps_left = num_steps
        self._passed_over = 0
        self._cancelled = threading.Event()
        self._changed = changed
        self._paused = False

    @property
    def steps_left(self) -> int:
        """Denoising steps to go."""
        return self._steps_left

    def cancel(self) -> None:
        """Want no more steps: the request is not in the next call. Its end is not told."""
        self._cancelled.set()
        with self._changed:
            self._changed.notify()

    def pause(self) -> None:
        """Want no more steps for now: the request is not in the next call, and stays where it is."""
        self._paused = True

    def go_on(self) -> None:
        """Want steps again."""
        if self._paused:
            with self._changed:
                self._paused = False
                self._changed.notify()

    @property
    def _is_active(self) -> bool:
        return not (self._paused or self._cancelled.is_set())

    def _end(self, error: LatentcastError | None) -> None:
        if self._on_end is not None and not self._cancelled.is_set():
            self._on_end(error)
        self._cancelled.set()


class Engine:
    """Denoises what is submitted, in a thread of its own.

    It first measures how long calls take; `slot_seconds` follows the load from there.

    Args:
        denoiser: What takes the steps; used by the engine's thread alone from now on.
        max_requests: Most requests at a time.
        on_call: Told of every call: batch size and seconds.
        clock: Monotonic seconds.

    Raises:
        ModelError: If the denoiser fails at once.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        max_requests: int = 64,
        on_call: Callable[[int, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._denoiser = denoiser
        self._max_requests = max_requests
        self._on_call = on_call
        self._clock = clock
        self._step_time = self._measured()
        self._tickets: list[Ticket] = []
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="latentcast engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        caption: str,
        seed: int,
        num_steps: int,
        deadline: float,
        on_step: StepListener,
        on_end: EndListener | None = None,
    ) -> Ticket:
        """Take a request.

        Args:
            caption: What the network is told.
            seed: The root seed.
            num_steps: T.
            deadline: When the last step must be done, on the engine's clock in seconds.
            on_step: Called with every step, in the engine's thread; it should be quick.
            on_end: Called there once, with None after the last step, or with what ended the request before.

        Raises:
            LiveError: If the engine is full or closed.
        """
        ticket = Ticket(caption, seed, num_steps, deadline, on_step, on_end, self._changed)
        with self._changed:
            self._tickets = [known for known in self._tickets if not known._cancelled.is_set()]
            if self._closing:
                raise LiveError("the engine is closed; it takes no more requests")
            if len(self._tickets) >= self._max_requests:
                raise LiveError(
                    f"the engine has {len(self._tickets)} requests, which is all that it may hold"
                )
            self._tickets.append(ticket)
            self._changed.notify()
        return ticket

    def under_way(self) -> list[Work]:
        """What is left to do for everyone."""
        with self._changed:
            return [
                Work(steps=ticket.steps_left, deadline=ticket.deadline)
                for ticket in self._tickets
                if not ticket._cancelled.is_set()
            ]

    def slot_seconds(self, num_active: int) -> float:
        """Time between two steps of one request among so many, under the present load."""
        return self._step_time.slot_seconds(num_active)

    def close(self) -> None:
        """End all requests after the call under way, and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _measured(self) -> StepTime:
        seconds = []
        for size in _MEASURED_SIZES:
            runs = [self._denoiser.start("", seed, 1 + _CALLS_PER_SIZE) for seed in range(size)]
            self._denoiser.advance(runs)
            times = []
            for _ in range(_CALLS_PER_SIZE):
                began = time.perf_counter()
                self._denoiser.advance(runs)
                times.append(time.perf_counter() - began)
            seconds.append(max(min(times), 1e-6))
        return StepTime(_MEASURED_SIZES, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closing:
                    # Those who left are let go of at once, also while all that are left pause.
                    self._tickets = [ticket for ticket in self._tickets if not ticket._cancelled.is_set()]
                    if any(ticket._is_active for ticket in self._tickets):
                        break
                    self._changed.wait()
                if self._closing:
                    ended, self._tickets = self._tickets, []
                    break
                tickets = [ticket for ticket in self._tickets if ticket._is_active]
            began = time.perf_counter()
            served = self._turn(tickets)
            if served:
                seconds = time.perf_counter() - began
                self._step_time.observe(served, seconds)
                if self._on_call is not None:
                    self._on_call(served, seconds)
        for ticket in ended:
            ticket._end(LiveError("the server is shutting down"))

    def _turn(self, tickets: list[Ticket]) -> int:
        """One call for those whose turn it is; returns how many took a step."""
        now = self._clock()
        for ticket in tickets:
            if ticket.deadline <= now:
                ticket._end(LiveError("the deadline is over; the remaining steps are left out"))
        chosen = _chosen([ticket for ticket in tickets if not ticket._cancelled.is_set()])
        started = [ticket for ticket in chosen if self._start(ticket)]
        if not started:
            return 0
        try:
            steps = self._denoiser.advance([ticket._run for ticket in started])
        except Exception as error:
            if len(started) == 1:
                started[0]._end(_as_ours(error))
                return 0
            return sum(self._advance_alone(ticket) for ticket in started)
        for ticket, step in zip(started, steps, strict=True):
            self._hand_out(ticket, step)
        return len(started)

    def _advance_alone(self, ticket: Ticket) -> bool:
        try:
            (step,) = self._denoiser.advance([ticket._run])
        except Exception as error:
            ticket._end(_as_ours(error))
            return False
        self._hand_out(ticket, step)
        return True

    def _start(self, ticket: Ticket) -> bool:
        if ticket._run is None:
            try:
                ticket._run = self._denoiser.start(ticket.caption, ticket.seed, ticket.num_steps)
            except Exception as error:
                ticket._end(_as_ours(error))
                return False
        return True

    def _hand_out(self, ticket: Ticket, step: Step) -> None:
        ticket._steps_left = step.index
        if not ticket._cancelled.is_set():
            try:
                ticket._on_step(step)
            except Exception as error:  # of the listener; the others must not suffer
                ticket._end(_as_ours(error))
                return
        if step.index == 0:
            ticket._end(None)


def _chosen(tickets: list[Ticket]) -> list[Ticket]:
    """At most a batch: first who waited too long, then who has the fewest steps left."""
    if len(tickets) <= MAX_BATCH:
        return tickets
    patience = _PATIENCE * math.ceil(len(tickets) / MAX_BATCH)
    # Of equals who came first: sorting keeps their order.
    ranked = sorted(tickets, key=lambda ticket: (ticket._passed_over < patience, ticket.steps_left))
    for ticket in ranked[:MAX_BATCH]:
        ticket._passed_over = 0
    for ticket in ranked[MAX_BATCH:]:
        ticket._passed_over += 1
    return ranked[:MAX_BATCH]


def _as_ours(error: Exception) -> LatentcastError:
    if isinstance(error, LatentcastError):
        return error
    return ModelError(" ".join(f"{type(error).__name__}: {error}".split())[:300])
