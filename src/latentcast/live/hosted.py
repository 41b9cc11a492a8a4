"""One session as the server hosts it: the protocol's state, its denoising run, and the device's connection.

`ServerSession` decides everything and knows neither clock nor socket; here are both. A task per session sends
what the session has to send and sleeps until there may be more. Steps come from the engine's thread and the
newest replaces those that nobody has looked at; a device that reads slowly holds up its own task alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from latentcast.diffusion.source import Step
from latentcast.errors import LatentcastError, ProtocolError
from latentcast.live.comparison import Recording
from latentcast.live.engine import Engine, Ticket
from latentcast.live.messages import Ack, Cancel, Resume
from latentcast.live.protocol import decode
from latentcast.live.server_session import ServerSession
from latentcast.live.transport import Transport, TransportClosed

__all__ = ["HostedSession"]

# A message that cannot be handed over for so long ends the connection.
SEND_SECONDS = 10.0
# WebSocket close codes of a device that is done, or leaves the page.
_GOODBYE = (1000, 1001)
# A session is looked at so often, whatever it says; more often while its device is away.
_IDLE_SECONDS = 5.0
_AWAY_SECONDS = 1.0
# Loops count in milliseconds, and some ring a little early: for nothing, and again and again.
_LATE_SECONDS = 1e-3
# Denoising goes on for so long without the device, to have something for it when it is back at once.
_PAUSE_SECONDS = 2.0


class HostedSession:
    """A session with its engine ticket and, while the device is there, its transport.

    All methods belong to the event loop's thread; the engine's thread only leaves steps and the end there.

    Args:
        session: The protocol's state.
        transport: Where the device is.
        recording: Notes what happened, for the page's comparison.
        on_end: Called once when the session is over.
        behind: Puts a transport behind an emulated link, on every connection the same one.

    Attributes:
        failure: What ended the session before its time, None if nothing did.
        begun_at: When it began, in seconds of the monotonic clock.
        generated_at: When x_0 was there, None if it was not yet.
    """

    def __init__(
        self,
        session: ServerSession,
        transport: Transport,
        recording: Recording,
        on_end: Callable[[HostedSession], None],
        behind: Callable[[Transport], Transport] | None = None,
    ) -> None:
        self.session = session
        self._behind = behind
        self.failure: LatentcastError | None = None
        self.begun_at = time.monotonic()
        self.generated_at: float | None = None
        self._transport: Transport | None = transport if behind is None else behind(transport)
        self._recording = recording
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        # The moment for which the task that serves the device sleeps; it is at it where that is infinite.
        self._looks_at = math.inf
        self._ticket: Ticket | None = None
        self._newest: Step | None = None
        self._offered: Step | None = None
        self._told = False
        self._left_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the device is there."""
        return self._transport is not None

    def begin(self, engine: Engine, *, caption: str, seed: int, num_steps: int) -> None:
        """Start denoising, and the task that serves the device.

        Raises:
            LiveError: If the engine takes nothing more.
        """
        self._ticket = engine.submit(
            caption, seed, num_steps, self.session.deadline, self._step, self._finished
        )
        self._task = self._loop.create_task(self._serve())

    async def listen(self) -> None:
        """Take the device's messages until it leaves, is at fault, or the session is over."""
        transport = self._transport
        if transport is None:
            return
        try:
            while self._transport is transport:
                message = decode(await transport.receive(), sender="device")
                now = time.monotonic()
                self.session.receive(message, now)
                if isinstance(message, Ack):
                    self._recording.acknowledged(now, message.received_bytes)
                self._stop_if_unwanted()
                again = self.session.next_poll(now)
                if again is None or again < self._looks_at:
                    self._changed.set()
        except TransportClosed as closed:
            # Who says goodbye does not come back; whose connection breaks may.
            if self._transport is transport and closed.code in _GOODBYE:
                self.session.receive(Cancel(), time.monotonic())
            self._let_go(transport)
        except ProtocolError as error:
            if self._transport is transport:
                self.fail(error, error.code)
        if self._transport is transport:
            await self.wait()

    def attach(self, transport: Transport, resume: Resume) -> None:
        """Go on with a device that is back; its former connection, if it still stands, is closed.

        Raises:
            ProtocolError: If the session does not take it.
        """
        self.session.attach(resume, time.monotonic())
        former, self._transport = (
            self._transport,
            transport if self._behind is None else self._behind(transport),
        )
        self._left_at = None
        if self._ticket is not None:
            self._ticket.go_on()
        if former is not None:
            self._close_soon(former, 1000, "the device came back on another connection")
        self._changed.set()

    def fail(self, error: LatentcastError, code: str = "internal") -> None:
        """End the session with an ERROR to the device."""
        if not self.session.ended and self.failure is None:
            self.failure = error
            self.session.fail(code, str(error))
            self._changed.set()

    async def wait(self) -> None:
        """Return when the session is over."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _serve(self) -> None:
        try:
            while True:
                self._changed.clear()
                self._offer()
                await self._send(self.session.poll(time.monotonic()))
                self._stop_if_unwanted()
                now = time.monotonic()
                again = self.session.next_poll(now)
                if self.session.ended or (again is None and self._transport is None):
                    break
                if self._left_at is not None and now - self._left_at >= _PAUSE_SECONDS and self._ticket:
                    self._ticket.pause()
                if self._transport is not None and self.session.is_silent(now):
                    self._close_soon(self._transport, 1001, "nothing has been heard of the device")
                    self._let_go(self._transport)
                idle = _IDLE_SECONDS if self._left_at is None else _AWAY_SECONDS
                # Nothing to wait for: the last words have come up since.
                self._looks_at = now if again is None else min(again, now + idle)
                seconds = 0.0 if again is None else max(self._looks_at - now, 0.0) + _LATE_SECONDS
                # asyncio.wait_for would make a task each time.
                alarm = self._loop.call_later(seconds, self._changed.set)
                await self._changed.wait()
                self._looks_at = math.inf
                alarm.cancel()
        except Exception as error:  # a mistake of ours must not look like a quiet end
            self.failure = error if isinstance(error, LatentcastError) else LatentcastError(repr(error))
        finally:
            if self._ticket is not None:
                self._ticket.cancel()
            transport, self._transport = self._transport, None
            self._on_end(self)
            if transport is not None:
                await transport.close(1000 if self.failure is None else 1011)

    async def _send(self, messages: list[bytes]) -> None:
        for message in messages:
            transport = self._transport
            if transport is None:
                return
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await transport.send(message)
            except TransportClosed:
                self._let_go(transport)
            except TimeoutError:
                self._close_soon(transport, 1008, "the device reads too slowly")
                self._let_go(transport)

    def _let_go(self, transport: Transport) -> None:
        if self._transport is transport:
            self._transport = None
            self._left_at = time.monotonic()
            self.session.detach(self._left_at)
            self._stop_if_unwanted()
            self._changed.set()

    def _close_soon(self, transport: Transport, code: int, reason: str) -> None:
        task = self._loop.create_task(transport.close(code, reason))
        # The loop itself keeps no strong reference to a task.
        _CLOSING.add(task)
        task.add_done_callback(_CLOSING.discard)

    def _stop_if_unwanted(self) -> None:
        if self._ticket is not None and not self.session.wants_steps:
            self._ticket.cancel()

    def _offer(self) -> None:
        """Give the session the newest step, once."""
        step = self._newest
        if step is not None and step is not self._offered:
            self._offered = step
            now = time.monotonic()
            if step.index == 0:
                self.generated_at = now
            self._recording.step(now, step)
            self.session.offer(step)

    def _step(self, step: Step) -> None:
        self._newest = step
        if not self._told and not self._loop.is_closed():
            self._told = True
            self._loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        self._told = False
        self._changed.set()

    def _finished(self, error: LatentcastError | None) -> None:
        if error is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._denoising_failed, error)

    def _denoising_failed(self, error: LatentcastError) -> None:
        # At the deadline the engine drops a run that is not finished; that is no failure of the session.
        if self.session.wants_steps and time.monotonic() < self.session.deadline:
            self.fail(error)


_CLOSING: set[asyncio.Task[None]] = set()
