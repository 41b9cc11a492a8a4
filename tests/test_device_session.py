"""The device's session on its own: whatever a server sends, it holds what it held and says what is wrong."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from latentcast.errors import ParameterError
from latentcast.live.device_session import MAX_GAPS, SUMMARY_SECONDS, DeviceSession
from latentcast.live.holders import held_crc
from latentcast.live.messages import (
    DEADLINE,
    FINAL,
    GAP,
    NO_PACKET,
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
from latentcast.live.streams import Chance, ProgressiveStream
from virtual_session import gaussian_model, gaussian_steps

SHAPE = (4, 8, 8)
NOTHING = held_crc(np.zeros(256, np.float32))


def polled(device: DeviceSession, now: float) -> list[Message]:
    return [decode(data, sender="device") for data in device.poll(now)]


def tell(device: DeviceSession, message: Message, now: float) -> list[Message]:
    device.receive(encode(message), now)
    return polled(device, now)


def ready(**changes: object) -> Ready:
    values: dict[str, object] = {
        "session": "s",
        "key": "k",
        "codec": "progressive/1",
        "latent_shape": SHAPE,
        "num_steps": 12,
        "slot_ms": 100.0,
        "model": "m",
    }
    return Ready(**{**values, **changes})  # type: ignore[arg-type]


def asked(**options: object) -> DeviceSession:
    """A device whose request goes out at 0."""
    now = -0.03
    device = DeviceSession(prompt="x", deadline_seconds=2.0, **options)  # type: ignore[arg-type]
    device.connected(now)
    for nonce in range(3):
        assert polled(device, now) == [Ping(nonce)]
        now += 0.01
        device.receive(encode(Pong(nonce)), now)
    (request,) = polled(device, now)
    assert isinstance(request, Request)
    assert request.rtt_ms == pytest.approx(10.0)
    return device


def running() -> DeviceSession:
    device = asked()
    assert tell(device, ready(), 0.1) == []
    return device


@pytest.mark.parametrize(
    ("said", "known"),
    [({}, (5, "x")), ({"seed": 9, "caption": "an x"}, (9, "an x"))],
)
def test_what_ready_leaves_out_is_as_it_was_asked(said: dict[str, object], known: tuple[int, str]) -> None:
    device = asked(seed=5)
    tell(device, ready(**said), 0.1)
    assert device.ready is not None
    assert (device.ready.seed, device.ready.caption) == known


def packets(count: int) -> list[bytes]:
    """Real packets of a stream, one after the other."""
    stream = ProgressiveStream(gaussian_model(SHAPE).calibration(12), SHAPE, deadline_slots=20)
    made = []
    for step in gaussian_steps(SHAPE, 12)[-count:]:
        stream.offer(step)
        data = stream.make(Chance(slots_left=5.0, slot_bits=None, max_bytes=60, is_last=False))
        assert data is not None
        made.append(data)
    return made


def test_it_measures_asks_applies_and_reports() -> None:
    device = running()
    first, second = packets(2)
    (ack,) = tell(device, Refinement(0, 0, True, first), 0.5)
    assert isinstance(ack, Ack)
    assert (ack.packet, ack.fragment, ack.received_bytes) == (0, 0x80, len(first) + 8)
    assert device.latent is not None
    assert device.latent.any()
    tell(device, Refinement(1, 0, False, second[:30]), 0.6)
    before = device.crc
    assert device.next_poll(0.6) == device.deadline
    assert device.deadline is not None
    # The part that came of the second is used.
    (held,) = polled(device, device.deadline)
    assert held == Held(DEADLINE, 0, 30, device.crc or 0)
    assert device.crc != before
    assert device.is_over
    assert not device.ended
    # What comes late is of no account.
    assert tell(device, Refinement(1, 1, True, second[30:]), 2.05) == []
    assert device.crc == held.crc
    summary = Summary(
        session="s",
        deadline_met=True,
        packets=2,
        bytes=1,
        predicted_mse=None,
        reached_mse=None,
        agrees=True,
        mean_rate_bits_per_second=None,
        steps=1,
        num_steps=12,
    )
    assert tell(device, summary, 2.1) == []
    assert device.ended
    assert device.summary == summary
    assert [(arrival.packet, arrival.bytes, arrival.whole) for arrival in device.arrivals] == [
        (0, len(first), True),
        (1, 30, False),
    ]


def test_without_a_summary_it_ends_all_the_same() -> None:
    device = running()
    assert device.deadline is not None
    polled(device, device.deadline)
    polled(device, device.deadline + SUMMARY_SECONDS - 0.01)
    assert not device.ended
    polled(device, device.deadline + SUMMARY_SECONDS)
    assert device.ended
    assert device.error is None


@pytest.mark.parametrize("kind", ["later", "earlier", "damaged", "no packet", "too long"])
def test_what_cannot_be_used(kind: str) -> None:
    device = running()
    first, second, third = packets(3)
    tell(device, Refinement(0, 0, True, first), 0.5)
    before = device.crc
    if kind == "earlier":
        assert [type(message) for message in tell(device, Refinement(0, 0, True, first), 0.6)] == [Ack]
        assert device.crc == before
        return
    if kind == "later":
        answers = tell(device, Refinement(2, 0, True, third), 0.6)
    elif kind == "damaged":
        device.receive(encode(Refinement(1, 0, True, second))[:-1] + b"?", 0.6)
        answers = polled(device, 0.6)
    elif kind == "no packet":
        answers = tell(device, Refinement(1, 0, True, b"\xff" * 60), 0.6)
    else:
        device.receive(bytes(70_000), 0.6)
        answers = polled(device, 0.6)
    # The report comes before the acknowledgement: what is acknowledged is kept no longer.
    assert answers[0] == Held(GAP, 0, 0, before or 0)
    assert all(isinstance(message, Ack) for message in answers[1:])
    # Until RESET nothing is used.
    tell(device, Refinement(1, 0, True, second), 0.7)
    assert device.crc == before
    tell(device, Reset(7, True), 0.8)
    tell(device, Refinement(7, 0, True, second), 0.9)
    assert device.crc != before
    assert device.packets == 2


def test_a_reset_to_zeros() -> None:
    device = running()
    first, _ = packets(2)
    tell(device, Refinement(0, 0, True, first), 0.5)
    tell(device, Refinement(5, 0, True, first), 0.6)
    tell(device, Reset(9, False), 0.7)
    assert device.crc == NOTHING
    tell(device, Refinement(9, 0, True, first), 0.8)
    assert device.crc != NOTHING


def test_a_reset_that_nobody_asked_for_is_of_no_account() -> None:
    device = running()
    (first,) = packets(1)
    tell(device, Refinement(0, 0, True, first), 0.5)
    before = device.crc
    tell(device, Reset(0, False), 0.6)
    assert device.crc == before


def test_it_comes_back_and_says_what_it_holds() -> None:
    device = running()
    first, second = packets(2)
    tell(device, Refinement(0, 0, True, first), 0.5)
    tell(device, Refinement(1, 0, False, second[:30]), 0.6)
    device.lost(0.7)
    assert device.wants_connection
    device.connected(0.8)
    assert polled(device, 0.8) == [Ping(0)]
    (resume,) = tell(device, Pong(0), 0.85)
    assert isinstance(resume, Resume)
    assert (resume.session, resume.key, resume.packet, resume.prefix) == ("s", "k", 0, 30)
    assert resume.crc == device.crc
    assert resume.rtt_ms == pytest.approx(50.0)
    # The count begins anew.
    tell(device, Reset(2, True), 0.9)
    (third,) = tell(device, Refinement(2, 0, True, second), 1.0)
    assert isinstance(third, Ack)
    assert third.received_bytes == len(second) + 8


def test_a_resume_at_the_deadline_still_goes_first() -> None:
    device = running()
    device.lost(0.7)
    device.connected(1.9)
    polled(device, 1.9)
    device.receive(encode(Pong(0)), 1.99)
    assert device.deadline is not None
    assert [type(message) for message in polled(device, device.deadline)] == [Resume, Held]


def test_a_connection_that_stays_away_costs_only_what_did_not_come() -> None:
    device = running()
    (first,) = packets(1)
    tell(device, Refinement(0, 0, True, first), 0.5)
    device.lost(0.6)
    assert device.deadline is not None
    assert polled(device, device.deadline) == []
    assert device.ended
    assert device.error is None
    assert device.latent is not None
    assert device.latent.any()


def test_no_pong_does_not_hold_it_up() -> None:
    device = DeviceSession(prompt="x", deadline_seconds=2.0)
    device.connected(0.0)
    polled(device, 0.0)
    assert device.next_poll(0.0) == 1.0
    (request,) = polled(device, 1.0)
    assert isinstance(request, Request)
    assert request.rtt_ms == 1000.0


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (Failure(code="busy", message="full", retry_after_ms=700.0), r"refuses \(busy\): full"),
        (ready(codec=FINAL), "by final/1; this device takes"),
        (ready(latent_shape=(4, 1024, 1024)), "this device takes 1048576 numbers"),
        (Reset(0, True), "^$"),
        (Refinement(0, 0, True, b"x"), "^$"),
    ],
)
def test_other_answers_than_ready(message: Message, hint: str) -> None:
    device = asked()
    answers = tell(device, message, 0.1)
    if hint == "^$":
        # Of no use before READY, and no harm.
        assert device.error is None
        assert answers == []
        return
    assert device.ended
    assert device.error is not None
    with pytest.raises(type(device.error), match=hint):
        raise device.error
    if isinstance(message, Failure):
        assert getattr(device.error, "retry_after_ms", None) == 700.0
        assert getattr(device.error, "code", None) == "busy"
    else:
        assert answers == [Cancel()]


def test_a_failure_on_the_way_leaves_what_is_held() -> None:
    device = running()
    first, second = packets(2)
    tell(device, Refinement(0, 0, True, first), 0.5)
    tell(device, Refinement(1, 0, False, second[:30]), 0.6)
    tell(device, Failure(code="internal", message="the model failed"), 0.7)
    assert device.ended
    assert "the model failed" in str(device.error)
    assert device.arrivals[-1].bytes == 30


def test_no_answer_by_the_deadline() -> None:
    device = asked()
    assert device.deadline is not None
    assert polled(device, device.deadline) == [Cancel()]
    assert device.ended
    assert "had not answered by the deadline" in str(device.error)


def test_a_server_that_closes_without_an_answer() -> None:
    device = asked()
    device.lost(0.2)
    assert device.ended
    assert "without an answer" in str(device.error)


def test_cancel() -> None:
    device = running()
    device.cancel()
    assert not device.ended
    assert polled(device, 0.2) == [Cancel()]
    assert device.ended


def test_it_gives_up_in_the_end() -> None:
    device = running()
    for number in range(MAX_GAPS):
        device.receive(b"?", 0.5)
        assert isinstance(polled(device, 0.5)[0], Held)
        tell(device, Reset(number, True), 0.5)
    device.receive(b"?", 0.5)
    assert polled(device, 0.5) == [Cancel()]
    assert "too much came damaged" in str(device.error)


def unfinished(device: DeviceSession) -> int:
    return 0 if device._assembly is None else len(device._assembly._unfinished)


def test_a_packet_without_an_end_is_not_kept_for_ever() -> None:
    device = running()
    for fragment in range(128):
        tell(device, Refinement(0, fragment, False, bytes(4096)), 0.5)
    assert unfinished(device) == 0
    assert device.crc == NOTHING


def test_silence_is_noticed() -> None:
    device = DeviceSession(prompt="x", deadline_seconds=60.0)
    device.connected(0.0)
    polled(device, 0.0)
    assert not device.is_silent(14.0)
    assert device.is_silent(16.0)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"deadline_seconds": 0.0}, "above 0, at most 600"),
        ({"deadline_seconds": float("nan")}, "above 0, at most 600"),
        ({"codecs": ("jpeg",)}, "codec is 'jpeg'"),
        ({"codecs": ()}, "codecs"),
        ({"seed": -1}, "seed"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "\ud800"}, "cannot be asked for"),
        ({"link": {"a": "x" * 9000}}, "may have 8192"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], hint: str) -> None:
    arguments: dict[str, object] = {"prompt": "x", "deadline_seconds": 2.0, **changes}
    with pytest.raises(ParameterError, match=hint):
        DeviceSession(**arguments)  # type: ignore[arg-type]


def test_fifty_thousand_messages_of_any_kind() -> None:
    rng = np.random.default_rng(12)
    made = packets(6)
    messages: list[Message] = [Refinement(number, 0, True, data) for number, data in enumerate(made)]
    messages += [Refinement(3, 1, False, made[0]), Reset(2, True), Reset(65535, False)]
    messages += [ready(), Ping(1), Pong(2)]
    whole = [encode(message) for message in messages]
    gave_up = 0
    device = running()
    for _ in range(50_000):
        content = bytearray(whole[rng.integers(len(whole))][:-4])
        for _ in range(rng.integers(0, 3)):
            content[rng.integers(1, len(content))] = rng.integers(256)
        kept = bytes(content[: rng.integers(1, len(content) + 1)] if rng.random() < 0.3 else content)
        device.receive(kept + struct.pack("<I", zlib.crc32(kept)), 0.5)
        device.poll(0.5)
        assert unfinished(device) <= 128 * 4096
        if device.ended:
            # After so much nonsense, with a clear word, and holding something finite.
            assert str(device.error)
            assert device.latent is not None
            assert np.isfinite(device.latent).all()
            gave_up += 1
            device = running()
    assert gave_up > 10
    assert device.crc is not None


def test_packet_numbers_of_reports() -> None:
    device = running()
    device.receive(b"?", 0.5)
    assert polled(device, 0.5) == [Held(GAP, NO_PACKET, 0, NOTHING)]
    tell(device, Reset(40, True), 0.6)
    device.receive(b"?", 0.7)
    assert polled(device, 0.7) == [Held(GAP, 39, 0, NOTHING)]
