"""Messages of the live protocol as bytes, without I/O; docs/protocol.md describes them byte by byte.

A message is its type, its body, and the CRC-32 of both, little-endian. What is sent for every refinement is
binary; what is sent once is a JSON object, in which unknown keys are refused. Any bytes decode or raise
`ProtocolError`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple, dataclass
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError
from pydantic_core import PydanticSerializationError

from latentcast.errors import ProtocolError

__all__ = [
    "CODECS",
    "DEADLINE",
    "DEVICE_MESSAGE_BYTES",
    "FINAL",
    "FRAGMENT_BYTES",
    "GAP",
    "MAX_FRAGMENTS",
    "MAX_PACKETS",
    "NO_PACKET",
    "OVERHEAD_BYTES",
    "PROGRESSIVE",
    "REFINEMENT_TYPE",
    "SERVER_MESSAGE_BYTES",
    "VERSION",
    "Ack",
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
    "Sender",
    "Summary",
    "decode",
    "encode",
    "failure_of",
]

Sender: TypeAlias = Literal["device", "server"]

VERSION = 1

PROGRESSIVE = "progressive/1"
FINAL = "final/1"
CODECS = (PROGRESSIVE, FINAL)

DEVICE_MESSAGE_BYTES = 8192
"""Longest message from a device."""

SERVER_MESSAGE_BYTES = 65536
"""Longest message from a server."""

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

_CRC = struct.Struct("<I")
_REFINEMENT = struct.Struct("<HB")
_LAST = 0x80

OVERHEAD_BYTES = 1 + _REFINEMENT.size + _CRC.size
"""What a REFINEMENT takes beside its part of the packet."""


class _Body(BaseModel):
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


class Request(_Body):
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


class Resume(_Body):
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


class Ready(_Body):
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


class Summary(_Body):
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


class Failure(_Body):
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

_JSON: dict[int, type[_Body]] = {1: Request, 6: Resume, 16: Ready, 19: Summary, 20: Failure}
_FIELDS: dict[int, tuple[type, struct.Struct]] = {
    2: (Ack, struct.Struct("<HBII")),
    3: (Cancel, struct.Struct("<")),
    4: (Ping, struct.Struct("<I")),
    5: (Pong, struct.Struct("<I")),
    7: (Held, struct.Struct("<BHII")),
    18: (Reset, struct.Struct("<H?")),
}
REFINEMENT_TYPE = 17
"""First byte of a REFINEMENT."""

_TYPE_OF: dict[type, int] = {
    **{kind: number for number, kind in _JSON.items()},
    **{kind: number for number, (kind, _) in _FIELDS.items()},
    Refinement: REFINEMENT_TYPE,
}
_NAMES = {number: kind.__name__.upper() for kind, number in _TYPE_OF.items()} | {20: "ERROR"}
_ALLOWED: dict[Sender, frozenset[int]] = {
    "device": frozenset({1, 2, 3, 4, 5, 6, 7}),
    "server": frozenset({4, 5, 16, 17, 18, 19, 20}),
}
_LONGEST: dict[Sender, int] = {"device": DEVICE_MESSAGE_BYTES, "server": SERVER_MESSAGE_BYTES}


def encode(message: Message) -> bytes:
    """The bytes of a message.

    Raises:
        ProtocolError: If a value does not fit its field, or the message is longer than any may be.

    Example:
        >>> encode(Ping(7)).hex()
        '0407000000646975ae'
        >>> decode(encode(Ping(7)), sender="device")
        Ping(nonce=7)
    """
    number = _TYPE_OF[type(message)]
    try:
        if isinstance(message, _Body):
            # On a slow link every key costs; what is as it is by default goes without saying.
            body = message.model_dump_json(exclude_defaults=True).encode()
        elif isinstance(message, Refinement):
            _check_refinement(message)
            flags = message.fragment | (_LAST if message.last else 0)
            body = _REFINEMENT.pack(message.packet, flags) + message.data
        else:
            body = _FIELDS[number][1].pack(*astuple(message))
            _check_fields(message)
    except (struct.error, PydanticSerializationError, UnicodeError) as error:
        raise ProtocolError(f"{_NAMES[number]} cannot be written: {error}") from None
    content = bytes([number]) + body
    data = content + _CRC.pack(zlib.crc32(content))
    _check_length(data, "device" if number < 16 else "server")
    return data


def decode(data: bytes | bytearray | memoryview, *, sender: Sender) -> Message:
    """The message that the bytes are; any bytes give a message or a ProtocolError, nothing else.

    Args:
        data: One whole message.
        sender: Whose message it is: each side may send its own types only.

    Raises:
        ProtocolError: If it is not a message that this side may send.

    Example:
        >>> decode(b"?", sender="device")
        Traceback (most recent call last):
        ...
        latentcast.errors.ProtocolError: a message of 1 bytes is shorter than its type and CRC-32
    """
    data = bytes(data)
    _check_length(data, sender)
    if len(data) <= _CRC.size:
        raise ProtocolError(f"a message of {len(data)} bytes is shorter than its type and CRC-32")
    content = data[: -_CRC.size]
    if zlib.crc32(content) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise ProtocolError("a message's CRC-32 does not match its content; it was damaged on its way")
    number, body = content[0], content[1:]
    if number not in _ALLOWED[sender]:
        named = f"{_NAMES[number]} " if number in _NAMES else ""
        raise ProtocolError(f"a {sender} sent message type {number} {named}which it may not send")
    if number in _JSON:
        return _decode_json(number, body)
    if number == REFINEMENT_TYPE:
        return _decode_refinement(body)
    kind, fields = _FIELDS[number]
    if len(body) != fields.size:
        raise ProtocolError(f"{_NAMES[number]} has a body of {len(body)} bytes; it must have {fields.size}")
    message = cast("Message", kind(*fields.unpack(body)))
    _check_fields(message)
    # A truth value has one spelling, as every message has.
    if isinstance(message, Reset) and body[-1] > 1:
        raise ProtocolError(f"RESET says keep {body[-1]}; it must be 0 or 1")
    return message


def failure_of(error: ProtocolError) -> Failure:
    """The ERROR message that tells the other side what it did wrong.

    Example:
        >>> failure_of(ProtocolError("too much", code="too-large")).code
        'too-large'
    """
    return Failure(code=error.code, message=str(error)[:2000])


def _decode_json(number: int, body: bytes) -> Message:
    try:
        return cast("Message", _JSON[number].model_validate_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:40]
        where = f" at {place!r}" if place else ""
        raise ProtocolError(f"{_NAMES[number]} is not as it must be{where}: {first['msg'][:200]}") from None


def _decode_refinement(body: bytes) -> Refinement:
    if len(body) < _REFINEMENT.size:
        raise ProtocolError(f"REFINEMENT has a body of {len(body)} bytes; it has at least 4")
    packet, flags = _REFINEMENT.unpack_from(body)
    message = Refinement(packet, flags & ~_LAST, flags >= _LAST, body[_REFINEMENT.size :])
    _check_refinement(message)
    return message


def _check_refinement(message: Refinement) -> None:
    if not 1 <= len(message.data) <= FRAGMENT_BYTES:
        raise ProtocolError(f"REFINEMENT carries {len(message.data)} bytes; it must be 1..{FRAGMENT_BYTES}")
    if not 0 <= message.packet < MAX_PACKETS or not 0 <= message.fragment < MAX_FRAGMENTS:
        raise ProtocolError(
            f"REFINEMENT is fragment {message.fragment} of packet {message.packet}; fragments go to "
            f"{MAX_FRAGMENTS - 1} and packets to {MAX_PACKETS - 1}"
        )


def _check_fields(message: Message) -> None:
    if isinstance(message, Held) and message.reason not in (DEADLINE, GAP):
        raise ProtocolError(f"HELD gives reason {message.reason}; it must be {DEADLINE} or {GAP}")


def _check_length(data: bytes, sender: Sender) -> None:
    if len(data) > _LONGEST[sender]:
        raise ProtocolError(
            f"a message of {len(data)} bytes from a {sender}; it may have {_LONGEST[sender]}",
            code="too-large",
        )
