"""The device's side of one request, as a state machine without I/O or clock.

The owner hands in what happens, with the time of one monotonic clock, and sends what `poll` returns. It
connects (`connected`), passes on messages (`receive`), and says when the connection broke (`lost`); if
`wants_connection` then, it connects again, and the session resumes. Nothing that was received is lost to a
damaged message: whatever cannot be used makes the session ask the server to go on from what it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from pydantic import JsonValue

from latentcast.diffusion.source import FloatArray, LatentShape
from latentcast.errors import LiveError, PacketError, ParameterError, ProtocolError
from latentcast.live.assembly import Applied, Assembly
from latentcast.live.messages import (
    CODECS,
    DEADLINE,
    GAP,
    PROGRESSIVE,
    Ack,
    Cancel,
    Failure,
    Held,
    Message,
    Ping,
    Pong,
    Ready,
    Refinement,
    Request,
    Reset,
    Resume,
    Summary,
)
from latentcast.live.protocol import decode, encode

__all__ = ["MAX_GAPS", "MAX_LATENT_SIZE", "SUMMARY_SECONDS", "Arrival", "DeviceSession", "RefusalError"]

MAX_GAPS = 16
"""After so many damaged or missing messages a session gives up."""

MAX_LATENT_SIZE = 1 << 20
"""Largest latent that a device takes; with one unfinished packet that bounds its memory."""

SUMMARY_SECONDS = 2.0
"""How long after the deadline the summary is waited for."""

PINGS = 3
PONG_SECONDS = 1.0
KEEPALIVE_SECONDS = 5.0
SILENCE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A packet, or the part of one at the deadline, that was applied.

    Attributes:
        seconds: Since the request.
        packet: Its number.
        bytes: Of it that were applied.
        total_bytes: Of all REFINEMENT messages so far.
        whole: Whether it was complete.
    """

    seconds: float
    packet: int
    bytes: int
    total_bytes: int
    whole: bool


class _Phase(Enum):
    OFFLINE = auto()
    MEASURING = auto()  # PING before the first message
    ASKED = auto()  # REQUEST is sent
    RUNNING = auto()
    WAITING = auto()  # for RESET
    OVER = auto()  # past the deadline, for SUMMARY
    ENDED = auto()


class RefusalError(LiveError):
    """The server refuses a request, or ends it.

    Args:
        reason: For people.
        failure: The server's ERROR, None if it sent none.

    Attributes:
        code: Of the ERROR, None without.
        retry_after_ms: When to try again, None if that would not help.
    """

    def __init__(self, reason: str, failure: Failure | None = None) -> None:
        super().__init__(reason)
        self.code = None if failure is None else failure.code
        self.retry_after_ms = None if failure is None else failure.retry_after_ms


class DeviceSession:
    """One request of a device, from the first connection to the summary.

    Args:
        prompt: What is asked for.
        deadline_seconds: When the device shows what it holds, after the request has gone out; positive, at
            most 600.
        seed: Root seed, None for one of the server's choice.
        codecs: What the device decodes, best first.
        latents: Latent shapes that the device can decode, None for any.
        token: What the server's operator gave.
        link: A link for the server to emulate.

    Attributes:
        ready: What the server answered, None before.
        summary: What the server said in the end, None before or if it never did.
        arrivals: What was applied and when, in order.
        total_bytes: Length of all REFINEMENT messages, on all connections.

    Raises:
        ParameterError: If an argument is out of range.

    Example:
        >>> device = DeviceSession(prompt="a red sphere", deadline_seconds=2.0)
        >>> device.connected(now=0.0)
        >>> [decode(data, sender="device") for data in device.poll(now=0.0)]
        [Ping(nonce=0)]
    """

    def __init__(
        self,
        *,
        prompt: str,
        deadline_seconds: float,
        seed: int | None = None,
        codecs: tuple[str, ...] = (PROGRESSIVE,),
        latents: tuple[LatentShape, ...] | None = None,
        token: str | None = None,
        link: dict[str, JsonValue] | None = None,
    ) -> None:
        for codec in codecs:
            if codec not in CODECS:
                raise ParameterError(f"codec is {codec!r}; a device decodes {', '.join(CODECS)}")
        if not 0.0 < deadline_seconds <= 600.0:
            raise ParameterError(f"the deadline is {deadline_seconds} s; it must be above 0, at most 600")
        try:
            # Pydantic's own error is a ValueError.
            self._request = Request(
                prompt=prompt,
                seed=seed,
                deadline_ms=deadline_seconds * 1e3,
                codecs=codecs,
                latents=latents,
                token=token,
                link=link,
            )
            encode(self._request)
        except ValueError as error:
            raise ParameterError(f"this cannot be asked for: {error}") from None
        self.ready: Ready | None = None
        self.summary: Summary | None = None
        self.arrivals: list[Arrival] = []
        self.total_bytes = 0
        self._phase = _Phase.OFFLINE
        self._error: LiveError | None = None
        self._asked_at: float | None = None
        self._assembly: Assembly | None = None
        self._received = 0
        self._gaps = 0
        self._outgoing: list[Message] = []
        self._pings = 0
        self._pinged_at = self._heard_at = 0.0
        self._rtt: float | None = None

    @property
    def latent(self) -> FloatArray | None:
        """What the device would show, float32 (channels, height, width); None before READY."""
        return None if self._assembly is None else self._assembly.latent

    @property
    def packets(self) -> int:
        """Packets that were applied whole."""
        return 0 if self._assembly is None else self._assembly.packets

    @property
    def crc(self) -> int | None:
        """CRC-32 of what is held, as HELD reports it; None before READY."""
        return None if self._assembly is None else self._assembly.holding.crc

    @property
    def deadline(self) -> float | None:
        """When to show what is held, None before the request has gone out."""
        return None if self._asked_at is None else self._asked_at + self._request.deadline_ms / 1e3

    @property
    def rtt_seconds(self) -> float | None:
        """The shortest round trip that was measured on this connection."""
        return self._rtt

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed: what is held is what is shown."""
        return self._phase in (_Phase.OVER, _Phase.ENDED)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: the owner sends what `poll` gives, and closes."""
        return self._phase is _Phase.ENDED and not self._outgoing

    @property
    def wants_connection(self) -> bool:
        """Whether the owner should connect, or connect again."""
        return self._phase is _Phase.OFFLINE

    @property
    def error(self) -> LiveError | None:
        """Why the session ended without a picture of its own, None if it did not."""
        return self._error

    def connected(self, now: float) -> None:
        """Note that there is a connection.

        Args:
            now: Seconds.
        """
        if self._phase is not _Phase.OFFLINE:
            raise ParameterError("the session has a connection, or needs none")
        self._phase = _Phase.MEASURING
        self._received = self._pings = 0
        self._rtt = None
        self._heard_at = now
        self._outgoing.clear()
        self._ping(now)

    def lost(self, now: float) -> None:
        """Note that the connection is gone.

        Args:
            now: Seconds.
        """
        self._outgoing.clear()
        if self._phase is _Phase.OVER:
            self._phase = _Phase.ENDED
        elif self._phase is _Phase.ASKED:
            self._fail(now, "the server closed the connection without an answer")
        elif self._phase is not _Phase.ENDED:
            self._apply_prefix(now)
            self._phase = _Phase.OFFLINE

    def cancel(self) -> None:
        """Want nothing more: `poll` gives CANCEL."""
        if self._phase not in (_Phase.OFFLINE, _Phase.OVER, _Phase.ENDED):
            self._outgoing = [Cancel()]
        self._phase = _Phase.ENDED

    def receive(self, data: bytes, now: float) -> None:
        """Take a message of the server; any bytes are dealt with.

        Args:
            data: As it came.
            now: Seconds.
        """
        if self._phase in (_Phase.OFFLINE, _Phase.ENDED):
            return
        self._heard_at = now
        try:
            message = decode(data, sender="server")
        except ProtocolError as error:
            self._gap(now, str(error))
            return
        match message:
            case Refinement():
                self._take_refinement(message, len(data), now)
            case Ping():
                self._outgoing.append(Pong(message.nonce))
            case Pong():
                self._take_pong(message, now)
            case Ready():
                self._take_ready(message, now)
            case Reset():
                self._take_reset(message)
            case Summary():
                self.summary = message
                self._end_early(now)
                self._phase = _Phase.ENDED
            case Failure():
                self._fail(now, f"the server refuses ({message.code}): {message.message}", message)

    def poll(self, now: float) -> list[bytes]:
        """Messages to send now, in order.

        Args:
            now: Seconds.
        """
        self._pass_time(now)
        messages = [encode(message) for message in self._outgoing]
        self._outgoing.clear()
        return messages

    def next_poll(self, now: float) -> float | None:
        """When to poll again if nothing happens before; None for never.

        Args:
            now: Seconds.
        """
        if self._outgoing:
            return now
        if self._phase is _Phase.ENDED:
            return None
        times: list[float] = []
        deadline = self.deadline
        if deadline is not None:
            times.append(deadline + SUMMARY_SECONDS if self._phase is _Phase.OVER else deadline)
        if self._phase is _Phase.MEASURING:
            times.append(self._pinged_at + PONG_SECONDS)
        if self._phase is not _Phase.OFFLINE:
            times.append(max(self._heard_at, self._pinged_at) + KEEPALIVE_SECONDS)
        return max(min(times), now) if times else None

    def is_silent(self, now: float) -> bool:
        """Whether the server has said nothing for so long that the connection counts as broken."""
        online = self._phase not in (_Phase.OFFLINE, _Phase.ENDED)
        return online and now - self._heard_at > SILENCE_SECONDS

    def _pass_time(self, now: float) -> None:
        deadline = self.deadline
        if deadline is not None and now >= deadline and not self.is_over:
            self._reach_deadline(now)
        if self._phase is _Phase.OVER and deadline is not None and now >= deadline + SUMMARY_SECONDS:
            self._phase = _Phase.ENDED
        if self._phase is _Phase.MEASURING and now - self._pinged_at >= PONG_SECONDS:
            # A very slow or lossy link: time is dearer than the measurement.
            self._ask(now)
        idle = now - max(self._heard_at, self._pinged_at) >= KEEPALIVE_SECONDS
        if idle and self._phase not in (_Phase.OFFLINE, _Phase.ENDED):
            self._ping(now)

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        self._outgoing.append(Ping(self._pings))
        self._pings += 1

    def _take_pong(self, pong: Pong, now: float) -> None:
        if pong.nonce != self._pings - 1:
            return
        taken = now - self._pinged_at
        self._rtt = taken if self._rtt is None else min(self._rtt, taken)
        if self._phase is _Phase.MEASURING:
            # Whoever resumes is in a hurry.
            if self._pings >= PINGS or self.ready is not None:
                self._ask(now)
            else:
                self._ping(now)

    def _ask(self, now: float) -> None:
        rtt_ms = 1e3 * min(PONG_SECONDS if self._rtt is None else self._rtt, 600.0)
        if self.ready is None or self._assembly is None:
            self._asked_at = now
            self._phase = _Phase.ASKED
            self._outgoing.append(self._request.model_copy(update={"rtt_ms": rtt_ms}))
            return
        packet, prefix, crc = self._assembly.holding
        self._phase = _Phase.WAITING
        self._outgoing.append(
            Resume(
                session=self.ready.session,
                key=self.ready.key,
                token=self._request.token,
                rtt_ms=rtt_ms,
                packet=packet,
                prefix=prefix,
                crc=crc,
            )
        )

    def _take_ready(self, ready: Ready, now: float) -> None:
        if self._phase is not _Phase.ASKED:
            self._gap(now, "READY came when none was asked for")
            return
        size = math.prod(ready.latent_shape)
        if ready.codec not in self._request.codecs or size > MAX_LATENT_SIZE:
            self._outgoing.append(Cancel())
            self._fail(
                now,
                f"the server sends latents of {ready.latent_shape} by {ready.codec}; this device takes "
                f"{MAX_LATENT_SIZE} numbers by {', '.join(self._request.codecs)}",
            )
            return
        asked = self._request
        self.ready = ready.model_copy(
            update={
                "seed": asked.seed if ready.seed is None else ready.seed,
                "caption": asked.prompt if ready.caption is None else ready.caption,
            }
        )
        self._assembly = Assembly(ready.codec, ready.latent_shape)
        self._phase = _Phase.RUNNING

    def _take_refinement(self, message: Refinement, length: int, now: float) -> None:
        if self._phase not in (_Phase.RUNNING, _Phase.WAITING) or self._assembly is None:
            return
        self._received = (self._received + length) % 2**32
        self.total_bytes += length
        if self._phase is _Phase.RUNNING:
            try:
                self._note(self._assembly.take(message), now)
            except PacketError as error:
                self._gap(now, str(error))
        flags = message.fragment | (0x80 if message.last else 0)
        # After HELD, if there is one: what is acknowledged is not kept for us any more.
        since = int(self._seconds_since_asked(now) * 1e6) % 2**32
        self._outgoing.append(Ack(message.packet, flags, self._received, since))

    def _seconds_since_asked(self, now: float) -> float:
        return 0.0 if self._asked_at is None else now - self._asked_at

    def _note(self, applied: Applied | None, now: float) -> None:
        if applied is not None:
            self.arrivals.append(
                Arrival(
                    seconds=self._seconds_since_asked(now),
                    packet=applied.packet,
                    bytes=applied.bytes,
                    total_bytes=self.total_bytes,
                    whole=applied.whole,
                )
            )

    def _apply_prefix(self, now: float) -> None:
        """Use what came of the unfinished packet; nothing more of it will."""
        if self._assembly is not None:
            self._note(self._assembly.apply_prefix(), now)

    def _gap(self, now: float, reason: str) -> None:
        if self._assembly is None:
            self._fail(now, f"the server sent something else than an answer: {reason}")
            return
        if self._phase is not _Phase.RUNNING:
            return
        self._gaps += 1
        if self._gaps > MAX_GAPS:
            self._outgoing.append(Cancel())
            self._fail(now, f"too much came damaged; at last: {reason}")
            return
        self._apply_prefix(now)
        self._phase = _Phase.WAITING
        self._outgoing.append(Held(GAP, *self._assembly.holding))

    def _take_reset(self, reset: Reset) -> None:
        if self._phase is _Phase.WAITING and self._assembly is not None:
            self._phase = _Phase.RUNNING
            self._assembly.go_on(reset.packet, keep=bool(reset.keep))

    def _reach_deadline(self, now: float) -> None:
        if self._assembly is None:
            self._outgoing.append(Cancel())
            self._fail(now, "the server had not answered by the deadline")
            return
        online = self._phase in (_Phase.RUNNING, _Phase.WAITING)
        self._apply_prefix(now)
        self._phase = _Phase.OVER if online else _Phase.ENDED
        # A RESUME that has not gone out yet must stay first.
        first = [message for message in self._outgoing if isinstance(message, Resume)]
        self._outgoing = [*first, Held(DEADLINE, *self._assembly.holding)] if online else []

    def _end_early(self, now: float) -> None:
        if self._phase in (_Phase.RUNNING, _Phase.WAITING):
            self._apply_prefix(now)

    def _fail(self, now: float, reason: str, failure: Failure | None = None) -> None:
        self._end_early(now)
        self._error = RefusalError(reason, failure)
        self._phase = _Phase.ENDED
