"""The server's session on its own: who may do what when, and that nothing shakes it."""

from __future__ import annotations

import numpy as np
import pytest

from latentcast.errors import ParameterError, ProtocolError
from latentcast.live.holders import held_crc
from latentcast.live.messages import (
    DEADLINE,
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
from latentcast.live.served_model import choose_codec
from latentcast.live.server_session import ABSENCE_SECONDS, GRACE_SECONDS, MAX_CONTROLS, ServerSession
from virtual_session import gaussian_model, gaussian_steps

SHAPE = (4, 8, 8)
STEPS = 12
NOTHING = held_crc(np.zeros(256, np.float32))


def fresh(**changes: object) -> ServerSession:
    request = Request(
        prompt="x",
        deadline_ms=2000,
        codecs=("progressive/1",),
        **changes,  # type: ignore[arg-type]
    )
    return ServerSession(
        request=request,
        session="s",
        key="k",
        model=gaussian_model(SHAPE),
        slot_seconds=0.1,
        num_steps=STEPS,
        received_at=100.0,
        seed=5,
    )


def polled(session: ServerSession, now: float) -> list[Message]:
    return [decode(data, sender="server") for data in session.poll(now)]


def under_way() -> tuple[ServerSession, Refinement, int]:
    """A session whose first packet has just gone out, that packet, and the message's length."""
    session = fresh()
    ready = polled(session, 100.0)
    assert [type(message) for message in ready] == [Ready]
    session.offer(gaussian_steps(SHAPE, STEPS)[0])
    (data,) = session.poll(100.1)
    message = decode(data, sender="server")
    assert isinstance(message, Refinement)
    return session, message, len(data)


def ack(message: Refinement, received: int, clock_us: int = 200_000) -> Ack:
    return Ack(message.packet, message.fragment | (0x80 if message.last else 0), received, clock_us)


def test_ready_says_what_was_agreed() -> None:
    (ready,) = polled(fresh(rtt_ms=100.0), 100.0)
    assert isinstance(ready, Ready)
    assert (ready.codec, ready.latent_shape, ready.num_steps) == ("progressive/1", SHAPE, STEPS)
    assert ready.slot_ms == 100.0


@pytest.mark.parametrize(("asked", "said"), [(5, None), (None, 5)])
def test_ready_says_only_what_the_device_does_not_know(asked: int | None, said: int | None) -> None:
    (ready,) = polled(fresh(seed=asked), 100.0)
    assert isinstance(ready, Ready)
    assert (ready.seed, ready.caption) == (said, None)


def test_an_acknowledgement_that_makes_room_calls_for_a_look() -> None:
    session = fresh()
    polled(session, 100.0)
    session.offer(gaussian_steps(SHAPE, STEPS)[0])
    (data,) = session.poll(100.1)
    message = decode(data, sender="server")
    assert isinstance(message, Refinement)
    assert (session.next_poll(100.11) or 0.0) > 100.11
    session.receive(ack(message, len(data)), 100.2)
    assert session.next_poll(100.2) == 100.2
    session.poll(100.2)
    assert (session.next_poll(100.2) or 0.0) > 100.2  # once


def test_nothing_is_sent_before_the_first_step_and_nothing_more_before_its_acknowledgement() -> None:
    session = fresh()
    polled(session, 100.0)
    assert session.poll(100.1) == []
    steps = gaussian_steps(SHAPE, STEPS)
    session.offer(steps[0])
    assert [type(message) for message in polled(session, 100.2)] == [Refinement]
    session.offer(steps[1])
    assert session.poll(100.3) == []


def test_a_model_that_the_device_cannot_decode_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"makes \(4, 8, 8\)") as caught:
        fresh(latents=((4, 64, 64),))
    assert caught.value.code == "unsupported"
    request = Request(prompt="", deadline_ms=1, codecs=("new/9",))
    with pytest.raises(ProtocolError, match="the device decodes new/9") as caught:
        choose_codec(request, gaussian_model(SHAPE))
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("slot_seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_slot_takes_some_time(slot_seconds: float) -> None:
    with pytest.raises(ParameterError, match="slot_seconds"):
        ServerSession(
            request=Request(prompt="", deadline_ms=1, codecs=("progressive/1",)),
            session="s",
            key="k",
            model=gaussian_model(SHAPE),
            slot_seconds=slot_seconds,
            num_steps=STEPS,
            received_at=0.0,
        )


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (Request(prompt="", deadline_ms=1, codecs=("a",)), "REQUEST must be the first message"),
        (Resume(session="s", key="k", packet=0, prefix=0, crc=0), "RESUME must be the first message"),
        (Reset(0, True), "a device may not send RESET"),
        (Failure(code="busy", message=""), "a device may not send FAILURE"),
        (Ack(1, 0x80, 1, 0), "ACK names packet 1, which was not sent"),
        (Ack(0, 0x80, 9999, 0), "more than were sent"),
    ],
)
def test_what_may_not_be_sent_changes_nothing(message: Message, hint: str) -> None:
    session, sent, length = under_way()
    with pytest.raises(ProtocolError, match=hint):
        session.receive(message, 100.2)
    session.receive(ack(sent, length), 100.2)
    assert session.rate_bits is not None
    assert not session.ended


def test_old_and_repeated_acknowledgements_are_of_no_account() -> None:
    session, sent, length = under_way()
    session.receive(ack(sent, length), 100.2)
    rate = session.rate_bits
    for again in (ack(sent, length), ack(sent, length - 1), ack(sent, 0), Ack(0, 5, length, 1)):
        session.receive(again, 100.2)
    assert session.rate_bits == rate


def test_a_ping_is_answered() -> None:
    session = fresh()
    session.receive(Ping(77), 100.1)
    assert polled(session, 100.1)[-1] == Pong(77)


@pytest.mark.parametrize("message", [Ping(1), Held(GAP, NO_PACKET, 0, NOTHING)])
def test_a_flood_of_questions_is_refused_and_forgotten(message: Message) -> None:
    session = fresh()
    # READY waits, too.
    for _ in range(MAX_CONTROLS - 1):
        session.receive(message, 100.1)
    with pytest.raises(ProtocolError, match="send fewer at once"):
        session.receive(message, 100.1)
    assert len(session.poll(100.1)) == MAX_CONTROLS
    session.receive(Ping(2), 100.1)
    assert polled(session, 100.1)[0] == Pong(2)


def test_a_device_that_cancels_is_let_go() -> None:
    session, _, _ = under_way()
    assert session.wants_steps
    session.receive(Cancel(), 100.2)
    assert session.ended
    assert not session.wants_steps
    session.offer(gaussian_steps(SHAPE, STEPS)[1])
    assert session.poll(100.3) == []
    assert session.next_poll(100.3) is None


def test_the_owner_may_end_it() -> None:
    session, _, _ = under_way()
    session.fail("shutting-down", "the server stops", retry_after_ms=500)
    assert not session.ended
    assert not session.wants_steps
    assert polled(session, 100.2) == [
        Failure(code="shutting-down", message="the server stops", retry_after_ms=500)
    ]
    assert session.ended
    session.fail("internal", "once more")
    assert session.poll(100.2) == []


def test_without_a_report_it_ends_a_while_after_the_deadline() -> None:
    session, _, _ = under_way()
    assert session.next_poll(102.5) is not None
    assert session.poll(102.0 + GRACE_SECONDS - 0.1) == []
    assert not session.wants_steps
    (summary,) = polled(session, 102.0 + GRACE_SECONDS)
    assert isinstance(summary, Summary)
    # What it holds is not known: something was under way.
    assert (summary.agrees, summary.predicted_mse, summary.deadline_met) == (None, None, False)
    assert session.ended


def test_a_report_is_compared_bit_for_bit() -> None:
    for crc, agrees in ((NOTHING, True), (NOTHING ^ 1, False)):
        session, sent, _ = under_way()
        # Nothing of the first packet has come.
        session.receive(Held(DEADLINE, NO_PACKET, 0, crc), 102.0)
        (summary,) = polled(session, 102.0)
        assert isinstance(summary, Summary)
        assert summary.agrees is agrees
        assert summary.deadline_met is False
        assert (summary.predicted_mse is None) is (not agrees)
        assert session.ended
        assert sent.packet == 0


def test_a_second_report_changes_nothing() -> None:
    session, _, _ = under_way()
    session.receive(Held(DEADLINE, NO_PACKET, 0, NOTHING), 102.0)
    session.receive(Held(DEADLINE, 9, 9, 9), 102.0)
    (summary,) = polled(session, 102.0)
    assert isinstance(summary, Summary)
    assert summary.agrees is True


def test_a_gap_goes_on_from_what_is_held_or_from_zeros() -> None:
    for crc, keep in ((NOTHING, True), (123, False)):
        session, _, _ = under_way()
        session.receive(Held(GAP, NO_PACKET, 0, crc), 100.3)
        reset, refinement = polled(session, 100.3)
        assert reset == Reset(1, keep)
        assert isinstance(refinement, Refinement)
        assert (refinement.packet, refinement.fragment) == (1, 0)


def test_a_resume_needs_the_key_and_a_session_that_lives() -> None:
    session, _, _ = under_way()
    session.detach(100.2)
    assert not session.attached
    assert session.poll(100.2) == []
    assert session.wants_steps
    stranger = Resume(session="s", key="K", packet=NO_PACKET, prefix=0, crc=NOTHING)
    with pytest.raises(ProtocolError, match="key") as caught:
        session.attach(stranger, 100.3)
    assert caught.value.code == "unauthorized"
    assert not session.attached
    owner = Resume(session="s", key="k", packet=NO_PACKET, prefix=0, crc=NOTHING)
    session.attach(owner, 100.3)
    assert polled(session, 100.3)[0] == Reset(1, True)
    session.receive(Cancel(), 100.4)
    with pytest.raises(ProtocolError, match="has ended") as caught:
        session.attach(owner, 100.5)
    assert caught.value.code == "unknown-session"


def test_after_a_resume_the_new_connections_round_trip_counts() -> None:
    # Asked at 99.9; the first connection needs 0.4 s there and back, the second one 0.02 s.
    session = fresh(rtt_ms=400.0)
    polled(session, 100.0)
    session.offer(gaussian_steps(SHAPE, STEPS)[0])
    polled(session, 100.1)
    deadline = session.deadline
    session.detach(100.2)
    session.attach(Resume(session="s", key="k", rtt_ms=20.0, packet=NO_PACKET, prefix=0, crc=NOTHING), 100.4)
    _, data = session.poll(100.4)
    message = decode(data, sender="server")
    assert isinstance(message, Refinement)
    session.receive(ack(message, len(data), clock_us=590_000), 100.5)
    # The ACK says that the request went out at 99.9, later than was believed: nothing to bring forward.
    assert session.deadline == deadline


def test_a_device_that_stays_away_is_given_up() -> None:
    request = Request(prompt="x", deadline_ms=60_000, codecs=("progressive/1",))
    session = ServerSession(
        request=request,
        session="s",
        key="k",
        model=gaussian_model(SHAPE),
        slot_seconds=0.1,
        num_steps=STEPS,
        received_at=0.0,
    )
    session.detach(5.0)
    again = session.next_poll(6.0)
    assert again == 5.0 + ABSENCE_SECONDS
    session.poll(again - 0.01)
    assert session.wants_steps
    session.poll(again)
    assert session.ended


def test_silence_is_noticed() -> None:
    request = Request(prompt="x", deadline_ms=60_000, codecs=("progressive/1",))
    session = ServerSession(
        request=request,
        session="s",
        key="k",
        model=gaussian_model(SHAPE),
        slot_seconds=0.1,
        num_steps=STEPS,
        received_at=0.0,
    )
    polled(session, 0.0)
    assert session.next_poll(0.0) == 5.0
    assert [type(message) for message in polled(session, 5.0)] == [Ping]
    assert not session.is_silent(14.9)
    assert session.is_silent(15.1)
    session.receive(Pong(1), 15.2)
    assert not session.is_silent(15.3)


def test_fifty_thousand_messages_of_any_kind() -> None:
    # Decoded or not, allowed or not: one error and no other, and the session does its work afterwards.
    rng = np.random.default_rng(11)
    session, sent, length = under_way()
    whole = [
        encode(message)
        for message in (
            ack(sent, length),
            Ack(0, 0, 2**32 - 1, 7),
            Held(GAP, 3, 5, 99),
            Ping(1),
            Pong(2),
            Resume(session="s", key="k", packet=0, prefix=0, crc=0),
            Request(prompt="x", deadline_ms=5, codecs=("final/1",)),
        )
    ]
    now, refused, taken = 100.2, 0, 0
    for _ in range(50_000):
        content = bytearray(whole[rng.integers(len(whole))][:-4])
        for _ in range(rng.integers(0, 3)):
            content[rng.integers(1, max(len(content), 2)) % len(content)] = rng.integers(256)
        data = encode_content(bytes(content[: rng.integers(1, len(content) + 1)]))
        # Too short a time for the deadline to come.
        now += 1e-6
        try:
            message = decode(data, sender="device")
            # A report or farewell would end it, as it should.
            if not isinstance(message, Cancel) and not (
                isinstance(message, Held) and message.reason == DEADLINE
            ):
                session.receive(message, now)
                taken += 1
        except ProtocolError:
            refused += 1
        session.poll(now)
    assert refused > 2_000
    assert taken > 2_000
    assert not session.ended
    assert len(session._controls) <= MAX_CONTROLS
    assert session._stream.num_kept <= 64
    session.receive(Ping(5), now)
    assert Pong(5) in polled(session, now)


def encode_content(content: bytes) -> bytes:
    import struct
    import zlib

    return content + struct.pack("<I", zlib.crc32(content))
