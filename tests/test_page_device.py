"""The browser's side of the protocol: its messages, and what a device does with those of a server."""

import base64
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page

from chromium import run, text_of
from latentcast.codec.progressive import apply_packet, make_packet
from latentcast.live.messages import (
    DEADLINE,
    GAP,
    NO_PACKET,
    Ack,
    Failure,
    Held,
    Message,
    Ping,
    Pong,
    Refinement,
    Request,
    Reset,
    Resume,
)
from latentcast.live.protocol import decode, encode
from test_protocol import EXAMPLES

pytestmark = pytest.mark.browser

FloatArray = NDArray[np.float32]
Events = list[tuple[str, Any]]

# Hands a device messages and calls one after the other; returns its answers to each, and what it holds.
DRIVE = """
  const { DeviceSession } = await import("/device.js");
  const { Tables } = await import("/tables.js");
  const device = new DeviceSession(new Tables(await (await fetch("/tables.npy")).arrayBuffer()));
  const answers = input.map(([kind, value]) => {
    if (kind === "message") return device.receive(bytesOf(value), 1).answers.map(textOf);
    if (kind === "deadline") return device.deadline().map(textOf);
    return device.resume(null, value).map(textOf);
  });
  return { answers, held: textOf(device.coefficients), over: device.over };
"""


def drive(page: Page, events: Events) -> tuple[list[list[Message]], bytes]:
    """Answers of a device to every event, and what it holds at the end."""
    plain = [
        (kind, text_of(value if isinstance(value, bytes) else encode(value)) if kind == "message" else value)
        for kind, value in events
    ]
    result = run(page, DRIVE, [list(event) for event in plain])
    answers = [
        [decode(base64.b64decode(answer), sender="device") for answer in each] for each in result["answers"]
    ]
    return answers, base64.b64decode(result["held"])


SHAPE = (4, 8, 8)


def ready() -> Message:
    example = EXAMPLES["READY"]
    return example.model_copy(update={"latent_shape": SHAPE})  # type: ignore[union-attr]


def packets() -> tuple[list[bytes], list[FloatArray]]:
    """Four packets on the way to one target, and what is held before the first and after each."""
    target = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    held = [np.zeros(256, np.float32)]
    made = []
    start = 0
    for _ in range(4):
        refined = make_packet(target, held[-1], max_bytes=60, horizon_bits=1200, start=start)
        assert refined is not None
        made.append(refined.data)
        held.append(refined.held)
        start = refined.next_start
    return made, held


PACKETS, HELD = packets()


def whole(number: int, packet: int | None = None) -> Refinement:
    return Refinement(number if packet is None else packet, 0, True, PACKETS[number])


def crc(held: FloatArray) -> int:
    return zlib.crc32(held.astype("<f4").tobytes())


def size(*messages: Message) -> int:
    return sum(len(encode(message)) for message in messages)


def test_its_messages_are_the_examples(page: Page) -> None:
    program = """
      const protocol = await import("/protocol.js");
      const made = {
        REQUEST: protocol.request(input.request),
        ACK: protocol.ack(3, 0x81, 2 ** 32 + 1500, 2 ** 33 + 4e9 + 0.7),
        CANCEL: protocol.cancel(),
        PING: protocol.ping(7),
        PONG: protocol.pong(7),
        RESUME: protocol.resume(input.resume),
        HELD: protocol.held(0, 3, 120, 0x1234abcd),
      };
      return Object.entries(made).map(([name, message]) => [name, textOf(message)]);
    """
    fields = {name: EXAMPLES[name].model_dump(mode="json") for name in ("REQUEST", "RESUME")}  # type: ignore[union-attr]
    made = dict(run(page, program, {"request": fields["REQUEST"], "resume": fields["RESUME"]}))
    assert set(made) == {"REQUEST", "ACK", "CANCEL", "PING", "PONG", "RESUME", "HELD"}
    for name, content in made.items():
        assert decode(base64.b64decode(content), sender="device") == EXAMPLES[name], name


def test_it_reads_the_examples(page: Page) -> None:
    program = """
      const { parse } = await import("/protocol.js");
      return input.map((text) => {
        const message = parse(bytesOf(text));
        return message.data ? { ...message, data: textOf(message.data) } : message;
      });
    """
    names = ["READY", "REFINEMENT", "RESET", "SUMMARY", "ERROR", "PING", "PONG"]
    read = dict(zip(names, run(page, program, [text_of(encode(EXAMPLES[n])) for n in names]), strict=True))
    for name in ("READY", "SUMMARY", "ERROR"):
        expected = EXAMPLES[name].model_dump(mode="json", exclude_defaults=True)  # type: ignore[union-attr]
        assert {key: read[name][key] for key in expected} == expected
    assert read["REFINEMENT"] == {
        "type": 17,
        "packet": 3,
        "flags": 129,
        "fragment": 1,
        "last": True,
        "data": text_of(bytes.fromhex("346a00ea2fb628cb")),
    }
    assert read["RESET"] == {"type": 18, "packet": 5, "keep": True}
    assert (read["PING"]["nonce"], read["PONG"]["nonce"]) == (7, 7)


def test_anything_else_is_refused(page: Page) -> None:
    program = """
      const { parse, ProtocolError } = await import("/protocol.js");
      return input.map((text) => {
        try { return parse(bytesOf(text)).type; }
        catch (error) { if (error instanceof ProtocolError) return "refused"; throw error; }
      });
    """
    rng = np.random.default_rng(0)
    good = [encode(EXAMPLES[name]) for name in ("READY", "REFINEMENT", "RESET", "SUMMARY", "ERROR", "PONG")]
    bad = [rng.bytes(int(rng.integers(0, 50))) for _ in range(500)]
    for data in good:
        place = int(rng.integers(len(data)))
        bad += [data[:-1], data + b"?", data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]]
    bad += [
        content + zlib.crc32(content).to_bytes(4, "little")
        for content in (b"\x12\1\0\2", b"\x10[]", b"\x14\xff", b"\x01{}", b"\x11\0\0\0")
    ]
    assert run(page, program, [text_of(data) for data in bad]) == ["refused"] * len(bad)
    assert "refused" not in run(page, program, [text_of(data) for data in good])


def test_refinements_are_applied_and_acknowledged(page: Page) -> None:
    messages = [whole(0), whole(1)]
    answers, held = drive(page, [("message", m) for m in (ready(), *messages, Ping(9))])
    assert answers == [
        [],
        [Ack(0, 0x80, size(messages[0]), 1000)],
        [Ack(1, 0x80, size(*messages), 1000)],
        [Pong(9)],
    ]
    assert held == HELD[2].tobytes()


def test_fragments_show_at_once_and_count_at_the_deadline(page: Page) -> None:
    parts = [Refinement(0, 0, False, PACKETS[0][:20]), Refinement(0, 1, False, PACKETS[0][20:40])]
    answers, held = drive(page, [*(("message", m) for m in (ready(), *parts)), ("deadline", None)])
    expected = apply_packet(PACKETS[0][:40], HELD[0]).held
    assert held == expected.tobytes() != HELD[0].tobytes()
    assert answers[-1] == [Held(DEADLINE, NO_PACKET, 40, crc(expected))]


def test_too_few_bytes_for_a_header_hold_nothing(page: Page) -> None:
    part = Refinement(1, 0, False, PACKETS[1][:1])
    answers, held = drive(page, [*(("message", m) for m in (ready(), whole(0), part)), ("deadline", None)])
    assert answers[-1] == [Held(DEADLINE, 0, 0, crc(HELD[1]))]
    assert held == HELD[1].tobytes()


def test_what_comes_after_the_deadline_changes_nothing(page: Page) -> None:
    events: Events = [("message", ready()), ("message", whole(0)), ("deadline", None), ("message", whole(1))]
    answers, held = drive(page, events)
    assert answers[2] == [Held(DEADLINE, 0, 0, crc(HELD[1]))]
    assert answers[3] == [Ack(1, 0x80, size(whole(0), whole(1)), 1000)]
    assert held == HELD[1].tobytes()


def test_duplicates_are_acknowledged_and_ignored(page: Page) -> None:
    parts = [Refinement(1, 0, False, PACKETS[1][:20]), Refinement(1, 1, True, PACKETS[1][20:])]
    order = (ready(), whole(0), whole(0), parts[0], parts[0], parts[1], whole(0))
    answers, held = drive(page, [("message", m) for m in order])
    assert all(len(answer) == 1 for answer in answers[1:])
    assert held == HELD[2].tobytes()


@pytest.mark.parametrize("keep", [True, False])
def test_a_gap_waits_for_reset(page: Page, keep: bool) -> None:
    part = Refinement(1, 0, False, PACKETS[1][:30])
    between = apply_packet(PACKETS[1][:30], HELD[1]).held
    # Going on from what was reported, or from zeros.
    base = between if keep else HELD[0]
    after = apply_packet(PACKETS[3], base).held
    order = (ready(), whole(0), part, whole(3), whole(2), Reset(7, keep), whole(2, 6), whole(3, 7))
    answers, held = drive(page, [("message", m) for m in order])
    assert answers[3] == [Held(GAP, 0, 30, crc(between)), Ack(3, 0x80, size(whole(0), part, whole(3)), 1000)]
    assert all(len(answer) == 1 for answer in answers[4:5])
    assert held == after.tobytes()


def test_damaged_messages_and_packets_are_gaps(page: Page) -> None:
    damaged = bytearray(encode(whole(1)))
    damaged[9] ^= 1
    nonsense = Refinement(1, 0, True, b"\xff" * 30)
    for message in (bytes(damaged), nonsense):
        events: Events = [("message", ready()), ("message", whole(0)), ("message", message)]
        answers, held = drive(page, events)
        assert answers[2][0] == Held(GAP, 0, 0, crc(HELD[1]))
        assert held == HELD[1].tobytes()


def test_a_new_connection_resumes_with_what_is_held(page: Page) -> None:
    part = Refinement(1, 0, False, PACKETS[1][:30])
    between = apply_packet(PACKETS[1][:30], HELD[1]).held
    after = apply_packet(PACKETS[2], between).held
    events: Events = [
        *(("message", m) for m in (ready(), whole(0), part)),
        ("resume", 25.0),
        *(("message", m) for m in (Reset(2, True), whole(2))),
        ("deadline", None),
    ]
    answers, held = drive(page, events)
    (resume,) = answers[3]
    assert resume == Resume(session="s1", key="k1", rtt_ms=25.0, packet=0, prefix=30, crc=crc(between))
    # Bytes are counted anew on the new connection.
    assert answers[5] == [Ack(2, 0x80, size(whole(2)), 1000)]
    assert answers[6] == [Held(DEADLINE, 2, 0, crc(after))]
    assert held == after.tobytes()


def test_it_gives_up_after_many_gaps(page: Page) -> None:
    events: Events = [("message", ready())]
    for number in range(17):
        events += [("message", whole(0, 1000 + number)), ("message", Reset(0, False))]
    with pytest.raises(Exception, match="17 messages were damaged"):
        drive(page, events)
    answers, _ = drive(page, events[:-2])
    assert sum(isinstance(each, Held) for answer in answers for each in answer) == 16


def test_errors_and_summaries_end_it(page: Page) -> None:
    for last in (EXAMPLES["SUMMARY"], Failure(code="busy", message="later", retry_after_ms=5.0)):
        result = run(page, DRIVE, [["message", text_of(encode(last))]])
        assert result["over"] is True


def test_requests_are_valid_ones(page: Page) -> None:
    program = """
      const { request } = await import("/protocol.js");
      return textOf(request({ codecs: ["progressive/1"], latents: null, rtt_ms: 3.5, prompt: "zwölf Würfel",
        seed: null, deadline_ms: 1500, token: null, link: { kind: "rayleigh", snr_db: -3 } }));
    """
    request = decode(base64.b64decode(run(page, program)), sender="device")
    assert isinstance(request, Request)
    assert (request.prompt, request.deadline_ms, request.link) == (
        "zwölf Würfel",
        1500,
        {"kind": "rayleigh", "snr_db": -3},
    )
