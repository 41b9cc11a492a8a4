"""Messages of the live protocol as bytes, without I/O; docs/protocol.md describes them byte by byte.

A message is its type, its body, and the CRC-32 of both, little-endian. What is sent for every refinement is
binary; what is sent once is a JSON object, in which unknown keys are refused. Any bytes decode or raise
`ProtocolError`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple
from typing import Literal, TypeAlias, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from latentcast.errors import ProtocolError
from latentcast.live.messages import (
    DEADLINE,
    FRAGMENT_BYTES,
    GAP,
    MAX_FRAGMENTS,
    MAX_PACKETS,
    Ack,
    Body,
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

__all__ = [
    "DEVICE_MESSAGE_BYTES",
    "OVERHEAD_BYTES",
    "REFINEMENT_TYPE",
    "SERVER_MESSAGE_BYTES",
    "Sender",
    "decode",
    "encode",
    "failure_of",
]

Sender: TypeAlias = Literal["device", "server"]

DEVICE_MESSAGE_BYTES = 8192
"""Longest message from a device."""

SERVER_MESSAGE_BYTES = 65536
"""Longest message from a server."""

_CRC = struct.Struct("<I")
_REFINEMENT = struct.Struct("<HB")
_LAST = 0x80

OVERHEAD_BYTES = 1 + _REFINEMENT.size + _CRC.size
"""What a REFINEMENT takes beside its part of the packet."""


_JSON: dict[int, type[Body]] = {1: Request, 6: Resume, 16: Ready, 19: Summary, 20: Failure}
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
        if isinstance(message, Body):
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
