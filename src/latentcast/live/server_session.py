"""The server's side of one request, as a state machine without I/O or clock.

The owner hands in what happens, with the time, and sends what `poll` returns: messages of the device
(`receive`), denoising steps (`offer`), connections that break and come back (`detach`, `attach`). Times are
seconds of one monotonic clock; one that jumps back stands still for the session.

What is under way to the device is bounded by a window: what the link carries in a round trip and in the time
of two packets, by the estimate from the device's acknowledgements. A packet is made when there is room for
it, from the newest step; in the memory of a session lie at most `MAX_KEPT` packets with what was held before
them, the fragments of one packet, and `MAX_CONTROLS` short messages.
"""

from __future__ import annotations

import hmac
import math
from collections import deque
from typing import Any

from latentcast.diffusion.source import Step
from latentcast.errors import ParameterError, ProtocolError
from latentcast.live.downlink import Downlink, LatencyRecord
from latentcast.live.messages import (
    DEADLINE,
    PROGRESSIVE,
    Ack,
    Cancel,
    Failure,
    Held,
    Message,
    Ping,
    Pong,
    Ready,
    Request,
    Reset,
    Resume,
    Summary,
)
from latentcast.live.protocol import encode
from latentcast.live.served_model import ServedModel, choose_codec
from latentcast.live.streams import FinalStream, ProgressiveStream, Stream

__all__ = [
    "GRACE_SECONDS",
    "MAX_CONTROLS",
    "ServerSession",
]

GRACE_SECONDS = 2.0
"""How long after the deadline the device's report is waited for."""

ABSENCE_SECONDS = 10.0
"""How long a device may be away before its request is given up."""

LONGEST_UPLOAD_SECONDS = 5.0
"""How long a request may have been on its way; a device's clock that says more has jumped."""

JUMP_SECONDS = 0.25
"""By how much an ACK may correct what one before it said of the request; more is a clock that has jumped."""

KEEPALIVE_SECONDS = 5.0
SILENCE_SECONDS = 15.0

MAX_CONTROLS = 16
"""Most short messages that wait for `poll`."""


class ServerSession:
    """One request, from REQUEST to SUMMARY.

    Args:
        request: What the device asked for.
        session: Names the session.
        key: Proves that a RESUME is the device's; hard to guess.
        model: What generates.
        slot_seconds: Time of one denoising step, as the engine expects it.
        num_steps: T.
        received_at: When the request came.
        seed: Root seed; None for the request's.
        caption: The prompt as the model reads it; None for the prompt.
        notes: Remarks on that for the user.

    Raises:
        ProtocolError: If device and model have no codec or latent shape in common.
        ParameterError: If a time or number is out of range.

    Example:
        >>> from latentcast.codec.calibration import Calibration
        >>> from latentcast.diffusion.path import NoisePath
        >>> path = NoisePath.stable_diffusion
        >>> model = ServedModel(
        ...     name="m", latent_shape=(4, 8, 8), path=path, calibration=lambda n: Calibration.white(path(n))
        ... )
        >>> session = ServerSession(
        ...     request=Request(prompt="a cat", deadline_ms=2000, codecs=("progressive/1",)),
        ...     session="s", key="k", model=model, slot_seconds=0.03, num_steps=50, received_at=10.0,
        ... )
        >>> ready, = session.poll(10.0)
        >>> session.wants_steps, session.ended
        (True, False)
    """

    def __init__(
        self,
        *,
        request: Request,
        session: str,
        key: str,
        model: ServedModel,
        slot_seconds: float,
        num_steps: int,
        received_at: float,
        seed: int | None = None,
        caption: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        if not 0.0 < slot_seconds < math.inf:
            raise ParameterError(f"slot_seconds is {slot_seconds}; it must be positive and finite")
        self.session = session
        self.codec = choose_codec(request, model)
        self._key = key
        self._slot = slot_seconds
        self._num_steps = num_steps
        rtt = min(request.rtt_ms, request.deadline_ms) / 1e3
        self._received_at = received_at
        self._rtt = rtt
        self._asked_at: float | None = None
        self._deadline_seconds = request.deadline_ms / 1e3
        # The latest that it can be, for how long the session lives; and the likely one, for what is planned.
        self._latest = self._deadline = received_at - rtt / 2 + self._deadline_seconds
        self._deadline_slots = max(int((request.deadline_ms / 1e3 - rtt / 2) / slot_seconds), 0)
        self._stream: Stream
        if self.codec == PROGRESSIVE:
            self._stream = ProgressiveStream(
                model.calibration(num_steps), model.latent_shape, deadline_slots=self._deadline_slots
            )
        else:
            self._stream = FinalStream(model.path(num_steps), model.latent_shape)
        self._downlink = Downlink(
            self._stream, slot_seconds=slot_seconds, rtt_seconds=rtt, deadline=self._deadline
        )
        self._controls: deque[bytes] = deque()
        self._now = self._heard_at = self._pinged_at = received_at
        self._detached_at: float | None = None
        self._is_over = False
        self._ended = False
        self._agrees: bool | None = None
        self._reported = False
        self._control(
            Ready(
                session=session,
                key=key,
                codec=self.codec,
                latent_shape=model.latent_shape,
                num_steps=num_steps,
                slot_ms=float(f"{slot_seconds * 1e3:.4g}"),
                model=model.name,
                seed=seed if request.seed is None else None,
                caption=None if caption in (None, request.prompt) else caption[:4000],
                notes=tuple(note[:1000] for note in notes[:16]),
            )
        )

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it: the owner sends what `poll` gave last, and closes."""
        return self._ended and not (self._controls and self.attached)

    @property
    def attached(self) -> bool:
        """Whether it has a connection."""
        return self._detached_at is None

    @property
    def wants_steps(self) -> bool:
        """Whether denoising should go on."""
        return not (self._is_over or self._ended or self._stream.step == 0)

    @property
    def deadline(self) -> float:
        """When the device will show what it holds, on the server's clock."""
        return self._deadline

    @property
    def step(self) -> int:
        """The newest step; T before the first."""
        return self._stream.step

    @property
    def latency(self) -> LatencyRecord:
        """How long packets took, against what was predicted."""
        return self._downlink.latency

    @property
    def rate_bits(self) -> float | None:
        """Estimated bits of a slot, None before the first acknowledgement."""
        rate = self._downlink.rate(self._now)
        return None if rate is None else 8.0 * rate * self._slot

    @property
    def spread_bits(self) -> float:
        """Estimated standard deviation of the bits of a slot."""
        return self._downlink.spread_bits(self._now)

    def is_silent(self, now: float) -> bool:
        """Whether the device has said nothing for so long that the connection counts as broken."""
        return self.attached and now - self._heard_at > SILENCE_SECONDS

    def receive(self, message: Message, now: float) -> None:
        """Take a message of the device.

        Args:
            message: As decoded.
            now: Seconds.

        Raises:
            ProtocolError: If the device may not send it, or not now; the session stays as it was.
        """
        now = self._at(now)
        if isinstance(message, Ping | Held) and len(self._controls) >= MAX_CONTROLS:
            raise ProtocolError(
                f"{MAX_CONTROLS} messages wait for an answer before one could be given; send fewer at once"
            )
        match message:
            case Ack():
                self._downlink.acknowledge(message, now)
                self._learn_deadline(message.clock_us / 1e6, now)
            case Ping():
                self._control(Pong(message.nonce))
            case Pong():
                pass
            case Cancel():
                self._end()
            case Held():
                if not self._ended:
                    self._take_report(message)
            case Request() | Resume():
                raise ProtocolError(f"{type(message).__name__.upper()} must be the first message")
            case _:
                raise ProtocolError(f"a device may not send {type(message).__name__.upper()}")
        self._heard_at = now

    def offer(self, step: Step) -> None:
        """Take the newest denoising step, a batch of one.

        Raises:
            ParameterError: If it does not fit, or is older than the last.
        """
        if not self._ended:
            self._stream.offer(step)

    def poll(self, now: float) -> list[bytes]:
        """Messages to send now, in order.

        Args:
            now: Seconds.
        """
        now = self._at(now)
        self._pass_time(now)
        messages: list[bytes] = []
        if self.attached:
            for control in self._controls:
                self._downlink.sent_ahead(control, now)
            messages += self._controls
            self._controls.clear()
            if not self._ended and not self._is_over:
                messages += self._downlink.messages(now)
            if not self._ended and now - max(self._heard_at, self._pinged_at) >= KEEPALIVE_SECONDS:
                self._pinged_at = now
                messages.append(encode(Ping(int(now * 1e3) % 2**32)))
        return messages

    def next_poll(self, now: float) -> float | None:
        """When to poll again if nothing happens before; None for never.

        Args:
            now: Seconds.
        """
        now = self._at(now)
        if self._ended:
            return None
        if self._controls and self.attached:
            return now
        times = [self._latest + GRACE_SECONDS if self._is_over else self._latest]
        if self._detached_at is not None:
            times.append(self._detached_at + ABSENCE_SECONDS)
        else:
            times.append(max(self._heard_at, self._pinged_at) + KEEPALIVE_SECONDS)
            again = self._downlink.next_poll()
            if again is not None and not self._is_over:
                times.append(again)
        return max(min(times), now)

    def attach(self, resume: Resume, now: float) -> None:
        """Go on over a new connection, from what the device reports.

        Args:
            resume: The first message there.
            now: Seconds.

        Raises:
            ProtocolError: If the key is not the session's, or the session has ended.
        """
        now = self._at(now)
        if not hmac.compare_digest(resume.key.encode(), self._key.encode()):
            raise ProtocolError("the key is not the session's", code="unauthorized")
        if self._ended:
            raise ProtocolError(f"the session {self.session} has ended", code="unknown-session")
        self._detached_at = None
        self._heard_at = now
        self._rtt = min(resume.rtt_ms / 1e3, max(self._deadline - now, 0.0))
        self._downlink.reconnected(self._rtt)
        self._controls.clear()
        self._go_on(resume.packet, resume.prefix, resume.crc)

    def detach(self, now: float) -> None:
        """Note that the connection is gone; the device may come back.

        Args:
            now: Seconds.
        """
        if self.attached:
            self._detached_at = self._at(now)
            self._controls.clear()
            self._downlink.forget_packets()
            if self._reported:
                self._end()

    def fail(self, code: str, message: str, retry_after_ms: float | None = None) -> None:
        """End the session with an ERROR, which `poll` gives out.

        Args:
            code: As in `Failure`.
            message: For people.
            retry_after_ms: When the device may try again.
        """
        if not self._ended:
            self._end()
            self._control(Failure(code=code, message=message[:2000], retry_after_ms=retry_after_ms))

    def summary(self) -> dict[str, Any]:
        """What SUMMARY says, as plain values."""
        return self._summary().model_dump()

    def _summary(self) -> Summary:
        knows = self._agrees if self._reported else self._stream.num_kept == 0
        rate = self._downlink.mean_rate
        return Summary(
            session=self.session,
            deadline_met=bool(knows and self._stream.has_picture)
            if self._reported
            else self._downlink.arrived_packets > 0,
            packets=self._stream.next_packet,
            bytes=self._downlink.sent_bytes,
            predicted_mse=self._stream.predicted_mse if knows else None,
            reached_mse=self._stream.reached_mse if knows else None,
            agrees=self._agrees,
            mean_rate_bits_per_second=None if rate is None else 8.0 * rate,
            steps=self._num_steps - self._stream.step,
            num_steps=self._num_steps,
        )

    def _learn_deadline(self, since_request: float, now: float) -> None:
        """Move the deadline forward if an ACK shows that the request was longer on its way than a PING."""
        asked_at = now - since_request - self._rtt / 2
        before = self._received_at if self._asked_at is None else self._asked_at
        furthest = LONGEST_UPLOAD_SECONDS if self._asked_at is None else JUMP_SECONDS
        if not before - furthest <= asked_at:
            return
        self._asked_at = min(asked_at, before)
        deadline = self._asked_at + self._deadline_seconds
        if deadline < self._deadline:
            self._deadline = deadline
            self._downlink.expect_deadline(deadline)

    def _take_report(self, held: Held) -> None:
        if held.reason == DEADLINE:
            if not self._reported:
                self._reported = True
                self._agrees = self._stream.report(held.packet, held.prefix, held.crc)
                self._control(self._summary())
                self._end()
        elif not self._is_over:
            self._go_on(held.packet, held.prefix, held.crc)

    def _go_on(self, packet: int, prefix: int, crc: int) -> None:
        self._downlink.forget_packets()
        keep = self._stream.go_on(packet, prefix, crc)
        self._control(Reset(self._stream.next_packet, keep))

    def _pass_time(self, now: float) -> None:
        if self._ended:
            return
        if now >= self._latest:
            self._is_over = True
        if now >= self._latest + GRACE_SECONDS:
            self._control(self._summary())
            self._end()
        elif self._detached_at is not None and now - self._detached_at >= ABSENCE_SECONDS:
            self._end()

    def _end(self) -> None:
        self._ended = self._is_over = True
        self._downlink.forget_packets()

    def _control(self, message: Message) -> None:
        self._controls.append(encode(message))

    def _at(self, now: float) -> float:
        # Monotonic clocks do not go back; a caller's may.
        self._now = max(self._now, now)
        return self._now
