"""The messages of the live protocol: bytes, limits, and that any bytes decode or raise one error."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.errors import LatentcastError, ProtocolError
from latentcast.live.messages import (
    DEADLINE,
    GAP,
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
from latentcast.live.protocol import (
    DEVICE_MESSAGE_BYTES,
    OVERHEAD_BYTES,
    SERVER_MESSAGE_BYTES,
    Sender,
    decode,
    encode,
    failure_of,
)
from latentcast.live.transport import TransportClosed

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"

EXAMPLES: dict[str, Message] = {
    "REQUEST": Request(
        prompt="a red sphere",
        seed=7,
        deadline_ms=2000,
        codecs=("progressive/1", "final/1"),
        latents=((4, 16, 16),),
        rtt_ms=12.5,
    ),
    "ACK": Ack(3, 0x81, 1500, 4000000000),
    "CANCEL": Cancel(),
    "PING": Ping(7),
    "PONG": Pong(7),
    "RESUME": Resume(session="s1", key="k1", packet=3, prefix=120, crc=0x1234ABCD),
    "HELD": Held(DEADLINE, 3, 120, 0x1234ABCD),
    "READY": Ready(
        session="s1",
        key="k1",
        codec="progressive/1",
        latent_shape=(4, 16, 16),
        num_steps=50,
        slot_ms=30,
        model="scenes",
        caption="a red sphere on a plain floor",
    ),
    "REFINEMENT": Refinement(3, 1, True, bytes.fromhex("346a00ea2fb628cb")),
    "RESET": Reset(5, True),
    "SUMMARY": Summary(
        session="s1",
        deadline_met=True,
        packets=5,
        bytes=1808,
        predicted_mse=0.01,
        reached_mse=0.011,
        agrees=True,
        mean_rate_bits_per_second=7300.0,
        steps=50,
        num_steps=50,
    ),
    "ERROR": Failure(code="busy", message="all places are taken", retry_after_ms=1500),
}


def sender_of(data: bytes) -> Sender:
    return "device" if data[0] < 16 else "server"


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def test_page_has_every_example_and_each_is_exact() -> None:
    written = dict(re.findall(r"```hex (\w+)\n([0-9a-f]+)\n```", PAGE.read_text(encoding="utf-8")))
    assert written == {name: encode(message).hex() for name, message in EXAMPLES.items()}
    for name, data in written.items():
        assert decode(bytes.fromhex(data), sender=sender_of(bytes.fromhex(data))) == EXAMPLES[name]


U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
TEXT = st.text(max_size=40).filter(lambda text: text.isprintable())
NAME = st.text("abcdefgh0123456789-", min_size=1, max_size=64)
TIME = st.floats(0, 600_000)
SHAPE = st.tuples(*[st.integers(1, 4096)] * 3)
SEED = st.integers(0, 2**53 - 1)
MSE = st.none() | st.floats(0, 1e6)
MESSAGES = st.one_of(
    st.builds(
        Request,
        prompt=TEXT,
        seed=st.none() | SEED,
        deadline_ms=st.floats(0, 600_000, exclude_min=True),
        codecs=st.lists(st.text(max_size=8), min_size=1, max_size=4).map(tuple),
        latents=st.none() | st.lists(SHAPE, max_size=4).map(tuple),
        token=st.none() | TEXT,
        rtt_ms=TIME,
        link=st.none() | st.just({"snr_db": 3.0, "kind": "rayleigh"}),
    ),
    st.builds(Ack, U16, U8, U32, U32),
    st.just(Cancel()),
    st.builds(Ping, U32),
    st.builds(Pong, U32),
    st.builds(Resume, session=NAME, key=NAME, token=st.none() | TEXT, packet=U16, prefix=U32, crc=U32),
    st.builds(Held, st.sampled_from([DEADLINE, GAP]), U16, U32, U32),
    st.builds(
        Ready,
        session=NAME,
        key=NAME,
        codec=st.text(max_size=32),
        latent_shape=SHAPE,
        num_steps=st.integers(1, 1000),
        slot_ms=st.floats(0, 600_000, exclude_min=True),
        model=TEXT,
        seed=st.none() | SEED,
        caption=st.none() | TEXT,
        notes=st.lists(TEXT, max_size=3).map(tuple),
    ),
    st.builds(
        Refinement,
        st.integers(0, 65534),
        st.integers(0, 127),
        st.booleans(),
        st.binary(min_size=1, max_size=4096),
    ),
    st.builds(Reset, U16, st.booleans()),
    st.builds(
        Summary,
        session=NAME,
        deadline_met=st.booleans(),
        packets=st.integers(0, 65535),
        bytes=st.integers(0, 2**53 - 1),
        predicted_mse=MSE,
        reached_mse=MSE,
        agrees=st.none() | st.booleans(),
        mean_rate_bits_per_second=MSE,
        steps=st.integers(0, 1000),
        num_steps=st.integers(1, 1000),
    ),
    st.builds(Failure, code=st.just("busy"), message=TEXT, retry_after_ms=st.none() | TIME),
)


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    data = encode(message)
    assert decode(data, sender=sender_of(data)) == message


@given(MESSAGES)
def test_each_side_may_send_its_own_types_only(message: Message) -> None:
    data = encode(message)
    other: Sender = "server" if sender_of(data) == "device" else "device"
    if isinstance(message, Ping | Pong):
        assert decode(data, sender=other) == message
    else:
        with pytest.raises(ProtocolError, match=r"may not send|may have"):
            decode(data, sender=other)


@given(MESSAGES, st.data())
def test_a_changed_bit_is_seen(message: Message, data: st.DataObject) -> None:
    content = bytearray(encode(message))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        decode(content, sender=sender_of(encode(message)))


@given(st.binary(max_size=64), st.sampled_from(["device", "server"]))
def test_any_bytes_decode_or_raise(body: bytes, sender: Sender) -> None:
    for data in (body, sealed(body)):
        try:
            message = decode(data, sender=sender)
        except ProtocolError:
            continue
        # What decodes has one spelling, but for the freedom of JSON.
        if not isinstance(message, Request | Resume | Ready | Summary | Failure):
            assert encode(message) == data


def test_overhead_is_what_is_stated() -> None:
    assert len(encode(Refinement(0, 0, True, b"x"))) == OVERHEAD_BYTES + 1


def request_body(**changes: object) -> bytes:
    import json

    return b"\x01" + json.dumps({"prompt": "x", "deadline_ms": 10, "codecs": ["a"], **changes}).encode()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "shorter than its type"),
        (b"\x63", "message type 99"),
        (b"\x02\x00", "ACK has a body of 1 bytes; it must have 11"),
        (b"\x07\x02" + bytes(10), "HELD gives reason 2"),
        (b"\x01{", "REQUEST is not as it must be"),
        (b"\x01[]", "REQUEST is not as it must be"),
        (b"\x01" + b"[" * 5000, "REQUEST is not as it must be"),
        (b"\x01\xff\xfe", "REQUEST is not as it must be"),
        (b"\x01{}", "at 'prompt': Field required"),
        (request_body(extra=1), "at 'extra': Extra inputs are not permitted"),
        (request_body(version=2), "at 'version'"),
        (request_body(seed=-1), "at 'seed'"),
        (request_body(seed=1.5), "at 'seed'"),
        (request_body(seed=True), "at 'seed'"),
        (request_body(deadline_ms=0), "at 'deadline_ms'"),
        (request_body(deadline_ms=float("nan")), "at 'deadline_ms'|JSON"),
        (request_body(deadline_ms="10"), "at 'deadline_ms'"),
        (request_body(codecs=[]), "at 'codecs'"),
        (request_body(latents=[[4, 16]]), r"at 'latents\.0\.2'"),
        (request_body(latents=[[4, 16, 0]]), r"at 'latents\.0\.2'"),
        (request_body(prompt="x" * 2001), "at 'prompt'"),
    ],
)
def test_wrong_messages_say_what_is_wrong(content: bytes, hint: str) -> None:
    with pytest.raises(ProtocolError, match=hint) as caught:
        decode(sealed(content), sender="device")
    assert failure_of(caught.value) == Failure(code="bad-request", message=str(caught.value))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"\x11\x00\x00", "at least 4"),
        (b"\x11\x00\x00\x80", "carries 0 bytes"),
        (b"\x11\xff\xff\x80x", "packets to 65534"),
        (b"\x11\x00\x00\x80" + bytes(4097), "carries 4097 bytes"),
        (b"\x12\x00\x00\x02", "keep 2"),
    ],
)
def test_wrong_messages_of_a_server(content: bytes, hint: str) -> None:
    with pytest.raises(ProtocolError, match=hint):
        decode(sealed(content), sender="server")


def test_lengths_are_limited() -> None:
    for sender, longest in (("device", DEVICE_MESSAGE_BYTES), ("server", SERVER_MESSAGE_BYTES)):
        with pytest.raises(ProtocolError, match=f"{longest + 1} bytes from a {sender}") as caught:
            decode(bytes(longest + 1), sender=sender)  # type: ignore[arg-type]
        assert failure_of(caught.value).code == "too-large"
    with pytest.raises(ProtocolError, match="may have 8192"):
        encode(Request(prompt="x" * 2000, deadline_ms=1, codecs=("a",), link={"a": "y" * 7000}))


@pytest.mark.parametrize(
    "message",
    [
        Ack(70000, 0, 0, 0),
        Ping(-1),
        Held(2, 0, 0, 0),
        Refinement(0, 128, False, b"x"),
        Refinement(0, 0, False, b""),
    ],
)
def test_what_does_not_fit_is_not_written(message: Message) -> None:
    with pytest.raises(ProtocolError):
        encode(message)


@pytest.mark.parametrize("sender", ["device", "server"])
def test_a_hundred_thousand_damaged_messages(sender: Sender) -> None:
    rng = np.random.default_rng(5)
    whole = [data for data in map(encode, EXAMPLES.values()) if sender_of(data) == sender]
    said: set[str] = set()
    for _ in range(50_000):
        content = bytearray(whole[rng.integers(len(whole))][:-4])
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        try:
            decode(sealed(bytes(content[: rng.integers(len(content) + 1)])), sender=sender)
        except ProtocolError as error:
            said.add(str(error))
    assert len(said) > 10
    assert all(text.isprintable() and len(text) < 500 for text in said)


def test_a_closed_transport_is_one_of_our_errors() -> None:
    error = TransportClosed("", code=1012)
    assert isinstance(error, LatentcastError)
    assert (str(error), error.code) == ("the connection is closed", 1012)
