"""What the messages of the live protocol say, docs/protocol.md; `live/protocol.py` writes and reads them.

What is sent for every refinement is a few numbers; what is sent once is an object, in which unknown keys are
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

__all__ = [
    "CODECS",
    "DEADLINE",
    "FINAL",
    "FRAGMENT_BYTES",
    "GAP",
    "MAX_FRAGMENTS",
    "MAX_PACKETS",
    "NO_PACKET",
    "PROGRESSIVE",
    "VERSION",
    "Ack",
    "Body",
    "Cancel",
    "Failure",
    "Held",
    "Message",
    "Ping",
    "Pong",
    "Ready",
    "Refinement",
    "Request",
    "Reset",
    "Resume",
    "Summary",
]

VERSION = 1

PROGRESSIVE = "progressive/1"
FINAL = "final/1"
CODECS = (PROGRESSIVE, FINAL)

FRAGMENT_BYTES = 4096
"""Most bytes of a packet in one REFINEMENT."""

MAX_FRAGMENTS = 128
"""Most fragments of a packet."""

NO_PACKET = 65535
"""Stands for "none" where a packet's number is asked for."""

MAX_PACKETS = NO_PACKET
"""Packets of a session: numbers 0 .. 65534."""

DEADLINE, GAP = 0, 1
"""Reasons of HELD."""


class Body(BaseModel):
    """A message that is a JSON object."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _text(longest: int, shortest: int = 0) -> StringConstraints:
    return StringConstraints(min_length=shortest, max_length=longest)


_Axis = Annotated[int, Field(ge=1, le=4096)]
_Shape = tuple[_Axis, _Axis, _Axis]
_Seed = Annotated[int, Field(ge=0, lt=2**53)]
_Milliseconds = Annotated[float, Field(ge=0, le=600_000)]
_Word = Annotated[int, Field(ge=0, lt=2**32)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Positive = Annotated[float, Field(ge=0)]


class Request(Body):
    """REQUEST: a device asks for a picture; its deadline counts from here.

    Attributes:
        version: Of the protocol.
        prompt: What is asked for.
        seed: Root seed, None for one of the server's choice.
        deadline_ms: When the device will show what it holds, after it sent this.
        codecs: What the device decodes, the one it likes best first.
        latents: Shapes (channels, height, width) that the device can decode, None for any.
        token: What the server's operator gave the device, if anything.
        rtt_ms: Round trip that the device measured by PING.
        link: A link for the server to emulate, where it offers to; None for the link as it is.

    Example:
        >>> Request(prompt="a red sphere", deadline_ms=2000, codecs=("progressive/1",)).seed is None
        True
    """

    version: Literal[1] = 1
    prompt: Annotated[str, _text(2000)]
    seed: _Seed | None = None
    deadline_ms: Annotated[float, Field(gt=0, le=600_000)]
    codecs: Annotated[tuple[Annotated[str, _text(32)], ...], Field(min_length=1, max_length=16)]
    latents: Annotated[tuple[_Shape, ...], Field(max_length=16)] | None = None
    token: Annotated[str, _text(512)] | None = None
    rtt_ms: _Milliseconds = 0.0
    link: Annotated[dict[str, JsonValue], Field(max_length=16)] | None = None


class Resume(Body):
    """RESUME: a device is back on a new connection, and says what it holds.

    Attributes:
        version: Of the protocol.
        session: As in READY.
        key: As in READY; without it nobody else can take the session over.
        token: As in REQUEST.
        rtt_ms: Round trip of the new connection.
        packet: The last packet that was applied whole, `NO_PACKET` for none.
        prefix: Bytes of the packet after it that were applied.
        crc: CRC-32 of what is held; see `Held`.
    """

    version: Literal[1] = 1
    session: Annotated[str, _text(64, 1)]
    key: Annotated[str, _text(64, 1)]
    token: Annotated[str, _text(512)] | None = None
    rtt_ms: _Milliseconds = 0.0
    packet: Annotated[int, Field(ge=0, le=NO_PACKET)]
    prefix: _Word
    crc: _Word


class Ready(Body):
    """READY: the server has taken the request.

    Attributes:
        version: Of the protocol.
        session: Names the session in RESUME.
        key: Proves in RESUME that the session is the device's own.
        codec: One of the request's.
        latent_shape: (channels, height, width).
        num_steps: T, denoising steps.
        slot_ms: Time of one step, as the server expects it.
        model: What generates.
        seed: The server's choice, None where the device made it.
        caption: The prompt as the model reads it, None where that is how it was written.
        notes: Remarks for the user on how the prompt was read.
    """

    version: Literal[1] = 1
    session: Annotated[str, _text(64, 1)]
    key: Annotated[str, _text(64, 1)]
    codec: Annotated[str, _text(32)]
    latent_shape: _Shape
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    slot_ms: Annotated[float, Field(gt=0, le=600_000)]
    model: Annotated[str, _text(512)]
    seed: _Seed | None = None
    caption: Annotated[str, _text(4000)] | None = None
    notes: Annotated[tuple[Annotated[str, _text(1000)], ...], Field(max_length=16)] = ()


class Summary(Body):
    """SUMMARY: how it went, as the server knows it.

    Attributes:
        session: As in READY.
        deadline_met: Whether the device held anything of the picture at the deadline.
        packets: Packets made for the device.
        bytes: Length of all REFINEMENT messages sent.
        predicted_mse: Error to x_0, per number of the latent, that the server expects of what the device
            holds; None if it does not know what that is.
        reached_mse: The error itself; None if x_0 was not generated, or as above.
        agrees: Whether the device reported the very bits that the server believes it holds; None without a
            report.
        mean_rate_bits_per_second: What the link carried while it was busy; None without acknowledgements.
        steps: Denoising steps done.
        num_steps: T.
    """

    session: Annotated[str, _text(64, 1)]
    deadline_met: bool
    packets: Annotated[int, Field(ge=0, le=MAX_PACKETS)]
    bytes: _Count
    predicted_mse: _Positive | None
    reached_mse: _Positive | None
    agrees: bool | None
    mean_rate_bits_per_second: _Positive | None
    steps: Annotated[int, Field(ge=0, le=1000)]
    num_steps: Annotated[int, Field(ge=1, le=1000)]


class Failure(Body):
    """ERROR: why the server refuses or ends a session; it closes the connection after it.

    Attributes:
        code: "bad-request", "unauthorized", "busy", "deadline-too-short", "unsupported", "too-large",
            "unknown-session", "shutting-down", "internal", or another of that form.
        message: For people.
        retry_after_ms: When to try again, None where that would not help.
    """

    code: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    message: Annotated[str, _text(2000)]
    retry_after_ms: _Milliseconds | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK: a REFINEMENT has arrived.

    Attributes:
        packet: Number of its packet.
        fragment: Number of its fragment, with bit 7 if it was the packet's last.
        received_bytes: Length of all REFINEMENT messages on this connection so far, modulo 2^32.
        clock_us: The device's clock in microseconds, of any beginning, modulo 2^32.
    """

    packet: int
    fragment: int
    received_bytes: int
    clock_us: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """CANCEL: the device wants nothing more."""


@dataclass(frozen=True, slots=True)
class Ping:
    """PING: asks for a PONG with the same nonce."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """PONG: answers a PING."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Held:
    """HELD: what the device holds, at the deadline or where it cannot go on.

    Attributes:
        reason: `DEADLINE`, or `GAP`: a message was damaged or missing, and the device waits for RESET.
        packet: The last packet that was applied whole, `NO_PACKET` for none.
        prefix: Bytes of the packet after it that were applied.
        crc: CRC-32 of what is held as little-endian float32: of the coefficients in scan order by a
            progressive codec, else of the latent in C order; zeros before anything came.
    """

    reason: int
    packet: int
    prefix: int
    crc: int


@dataclass(frozen=True, slots=True)
class Refinement:
    """REFINEMENT: a part of a packet.

    Attributes:
        packet: The packet's number, from 0.
        fragment: The part's number, from 0.
        last: Whether the packet ends here.
        data: 1 .. 4096 bytes.
    """

    packet: int
    fragment: int
    last: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """RESET: how to go on after a gap, or on a new connection.

    Attributes:
        packet: The number of the packet that comes next.
        keep: Whether to keep what was reported by HELD or RESUME; otherwise hold zeros.
    """

    packet: int
    keep: bool


Message: TypeAlias = (
    Request | Ack | Cancel | Ping | Pong | Resume | Held | Ready | Refinement | Reset | Summary | Failure
)
