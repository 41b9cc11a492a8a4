"""A live request as two state machines over a virtual link: agreement bit for bit, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from latentcast.live.assembly import Applied, Assembly
from latentcast.live.device_session import DeviceSession
from latentcast.live.messages import FINAL, PROGRESSIVE, Ack, Ping, Refinement, Reset
from latentcast.live.protocol import OVERHEAD_BYTES, decode, encode
from latentcast.live.server_session import ServerSession
from latentcast.live.streams import MAX_KEPT
from virtual_link import VirtualLink
from virtual_session import World, gaussian_steps, held_by

SHAPE = (4, 8, 8)
STEPS = 12
SLOT = 0.05
DEADLINE = 20 * SLOT


def world(
    bytes_per_slot: Any = 200.0,
    *,
    codec: str = PROGRESSIVE,
    deadline: float = DEADLINE,
    delay: float = 0.01,
    **options: Any,
) -> World:
    device = DeviceSession(prompt="x", deadline_seconds=deadline, codecs=(codec,))
    link = VirtualLink(np.atleast_1d(bytes_per_slot), slot_seconds=SLOT, delay_seconds=delay)
    return World(
        device=device,
        steps=gaussian_steps(SHAPE, STEPS, seed=1),
        shape=SHAPE,
        link=link,
        slot=SLOT,
        uplink=delay,
        **options,
    )


def finished(run: World) -> World:
    """Run it to the end; both sides must be through, and agree."""
    run.run(until=300.0)
    device, server = run.device, run.server
    assert server is not None
    assert server.ended
    assert device.ended
    assert device.error is None
    assert device.summary is not None
    assert device.summary.agrees is True
    assert run.errors == []
    return run


@pytest.mark.parametrize("bytes_per_slot", [30.0, 100.0, 1000.0, 1e6])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.15])
def test_the_server_knows_what_the_device_holds(bytes_per_slot: float, delay: float) -> None:
    run = finished(world(bytes_per_slot, delay=delay))
    device, server = run.device, run.server
    assert server is not None
    assert device.summary is not None
    assert device.latent is not None
    assert np.array_equal(device.latent, held_by(server))
    assert device.summary.deadline_met == bool(device.arrivals)
    assert device.arrivals or (bytes_per_slot, delay) == (30.0, 0.15)
    final = run.steps[-1].sample[0]
    error = float(np.mean((device.latent - final) ** 2, dtype=np.float64))
    assert device.summary.reached_mse == pytest.approx(error, rel=1e-6)
    assert device.summary.predicted_mse == pytest.approx(error, rel=1e-3)
    # What it shows is no worse than nothing, and what comes is used to the last byte that arrived in time.
    assert error < 1.001 * float(np.mean(final**2))
    assert device.total_bytes <= device.summary.bytes
    assert device.summary.bytes == server.summary()["bytes"]


def test_every_arrival_is_what_the_server_counts_on() -> None:
    # After every whole packet the device's CRC is one that the server has written down.
    seen: list[bytes] = []

    def watch(server: ServerSession, now: float) -> None:
        seen.append(server._stream._sender.state.coefficients.tobytes())  # type: ignore[attr-defined]

    run = world(60.0, on_server=watch)
    crcs: list[bytes] = []
    take = Assembly.take

    def spy(self: Assembly, fragment: Refinement) -> Applied | None:
        applied = take(self, fragment)
        if applied is not None:
            crcs.append(self._holder.held.tobytes())
        return applied

    Assembly.take = spy  # type: ignore[method-assign]
    try:
        finished(run)
    finally:
        Assembly.take = take  # type: ignore[method-assign]
    assert len(crcs) > 3
    assert set(crcs) <= set(seen)


def test_errors_fall_as_the_link_gets_better() -> None:
    errors = []
    for bytes_per_slot in (20.0, 60.0, 200.0, 600.0):
        summary = finished(world(bytes_per_slot)).device.summary
        assert summary is not None
        assert summary.reached_mse is not None
        errors.append(summary.reached_mse)
    assert all(worse > better for worse, better in pairwise(errors))


def test_compute_then_send_brings_all_or_nothing() -> None:
    # 528 bytes, from the twelfth slot on.
    run = finished(world(600.0, codec=FINAL))
    assert run.device.latent is not None
    assert np.array_equal(run.device.latent, run.steps[-1].sample[0].astype(np.float16).astype(np.float32))
    late = finished(world(40.0, codec=FINAL)).device
    assert late.summary is not None
    assert late.latent is not None
    assert not late.latent.any()
    assert (late.summary.deadline_met, late.arrivals) == (False, [])
    ours = finished(world(40.0)).device.summary
    assert ours is not None
    assert ours.reached_mse is not None
    assert late.summary.reached_mse is not None
    assert ours.reached_mse < 0.5 * late.summary.reached_mse


def test_nothing_is_acknowledged_twice_and_ready_comes_first() -> None:
    order: list[int] = []

    def note(data: bytes, now: float) -> list[bytes]:
        order.append(data[0])
        return [data]

    finished(world(tamper=note))
    assert order[:4] == [5, 5, 5, 16]
    assert order[-1] == 19
    assert set(order[4:-1]) == {17}


# What happens on the way


@pytest.mark.parametrize("codec", [PROGRESSIVE, FINAL])
@pytest.mark.parametrize("breaks_at", [(0.3,), (0.31, 0.52, 0.75), (0.62, 0.63, 0.70)])
def test_a_device_that_vanishes_goes_on_where_it_was(breaks_at: tuple[float, ...], codec: str) -> None:
    resets: list[Reset] = []

    def note(data: bytes, now: float) -> list[bytes]:
        message = decode(data, sender="server")
        if isinstance(message, Reset):
            resets.append(message)
        return [data]

    run = finished(
        world(150.0 if codec == PROGRESSIVE else 3000.0, codec=codec, tamper=note, breaks_at=breaks_at)
    )
    # Nothing was generated anew, and nothing that the device held was given up.
    assert run.steps_offered == STEPS
    assert len(resets) >= 1
    assert all(reset.keep for reset in resets)
    assert run.device.summary is not None
    assert run.device.summary.deadline_met


def test_a_break_in_the_middle_of_a_packet_keeps_its_first_part() -> None:
    # Packets of several fragments, and a break between two of them.
    run = world(60_000.0, delay=0.001)
    run.steps = gaussian_steps((4, 64, 64), STEPS, seed=1)
    run.shape = (4, 64, 64)
    cut: list[float] = []

    def cut_behind_the_first(data: bytes, now: float) -> list[bytes]:
        message = decode(data, sender="server")
        if isinstance(message, Refinement) and message.fragment == 1 and not cut:
            cut.append(now + 0.03)
            run._at(cut[0], "break", None)
        return [] if cut and now < cut[0] else [data]

    run.tamper = cut_behind_the_first
    finished(run)
    assert cut
    parts = [arrival for arrival in run.device.arrivals if not arrival.whole]
    assert parts
    assert parts[0].bytes >= 1024
    assert run.steps_offered == STEPS


def test_a_break_that_outlasts_the_deadline_leaves_what_was_held() -> None:
    run = world(150.0, breaks_at=(0.6,))
    run.back_after = 5.0
    run.run(until=60.0)
    assert run.device.ended
    assert run.device.error is None
    assert run.device.summary is None
    assert run.device.arrivals
    assert run.device.latent is not None
    assert run.device.latent.any()
    assert run.server is not None
    assert run.server.ended
    summary = run.server.summary()
    assert (summary["agrees"], summary["deadline_met"]) == (None, True)


def tampering(kind: str, every: int = 5) -> Callable[[bytes, float], list[bytes]]:
    """Something wrong with every fifth refinement."""
    count = 0
    kept: list[bytes] = []

    def tamper(data: bytes, now: float) -> list[bytes]:
        nonlocal count
        if data[0] != 17:
            return [data]
        count += 1
        if kept:
            return [data, kept.pop()]
        if count % every:
            return [data]
        if kind == "corrupted":
            return [data[:-6] + bytes([data[-6] ^ 16]) + data[-5:]]
        if kind == "duplicated":
            return [data, data, data]
        if kind == "swallowed":
            return []
        if kind == "reordered":
            kept.append(data)
            return []
        if kind == "oversized":
            return [bytes(70_000), data]
        if kind == "nonsense":
            return [b"", b"\xff" * 40, encode(Reset(7, True)), encode(Ping(3)), data]
        # A valid message around bytes that are no packet: all ones is a damaged group.
        return [encode(Refinement(*decoded(data), True, b"\xff" * 64))]

    def decoded(data: bytes) -> tuple[int, int]:
        message = decode(data, sender="server")
        assert isinstance(message, Refinement)
        return message.packet, message.fragment

    return tamper


@pytest.mark.parametrize(
    "kind",
    ["corrupted", "duplicated", "swallowed", "reordered", "oversized", "nonsense", "undecodable"],
)
def test_whatever_comes_the_device_goes_on(kind: str) -> None:
    run = finished(world(400.0, tamper=tampering(kind)))
    summary, clean = run.device.summary, finished(world(400.0)).device.summary
    assert summary is not None
    assert clean is not None
    assert summary.deadline_met
    assert summary.reached_mse is not None
    assert clean.reached_mse is not None
    # Some time is lost each time; the picture is not.
    assert summary.reached_mse < 0.1
    if kind == "duplicated":
        assert summary.packets <= clean.packets


def test_too_much_damage_ends_with_a_clear_error() -> None:
    run = world(2000.0, tamper=tampering("corrupted", every=1))
    run.run(until=60.0)
    assert run.device.ended
    assert "too much came damaged" in str(run.device.error)
    assert run.server is not None
    assert run.server.ended


# Bounds


def test_a_slow_reader_is_not_buried() -> None:
    # A second of link, then none at all for fifteen.
    rates = np.concatenate([np.full(20, 500.0), np.full(300, 0.0), [500.0]])
    most = {"kept": 0, "flight": 0, "controls": 0}

    def watch(server: ServerSession, now: float) -> None:
        most["kept"] = max(most["kept"], server._stream.num_kept)
        most["flight"] = max(most["flight"], server._downlink._estimator.in_flight)
        most["controls"] = max(most["controls"], len(server._controls))

    run = world(rates, deadline=10.0, on_server=watch)
    run.run(until=30.0)
    assert run.device.ended
    assert run.server is not None
    assert run.server.ended
    # A round trip and some packets of a slot each, far from what ten seconds would hold.
    assert most["flight"] < 8 * 500
    assert most["kept"] <= MAX_KEPT
    assert most["controls"] <= 4
    assert run.device.latent is not None
    assert run.device.latent.any()


def test_a_device_that_never_acknowledges_gets_one_packet() -> None:
    run = world(1000.0)
    poll = run.device.poll

    def mute(now: float) -> list[bytes]:
        return [data for data in poll(now) if not isinstance(decode(data, sender="device"), Ack)]

    run.device.poll = mute  # type: ignore[method-assign]
    run.run(until=60.0)
    assert run.device.summary is not None
    assert run.device.summary.agrees
    assert run.device.summary.packets == 1
    assert run.sent_down < 2000


def test_a_long_request_does_not_grow() -> None:
    # Two minutes at a trickle: what is kept stays small, and the device's counters wrap where they must.
    most = 0

    def watch(server: ServerSession, now: float) -> None:
        nonlocal most
        most = max(most, server._stream.num_kept + len(server._downlink._packets))

    run = finished(world(20.0, deadline=120.0, on_server=watch, clock=lambda now: now + 4294.0))
    assert most <= 2 * MAX_KEPT
    assert run.device._assembly is not None
    assert len(run.device._assembly._unfinished) == 0


@pytest.mark.parametrize("jump", [3600.0, 3.0, 0.3, -0.04])
def test_a_jump_of_the_devices_clock_does_no_harm(jump: float) -> None:
    # The acknowledgements' clock jumps; the device's own timers run on a clock that does not.
    run = world(200.0)
    take = ServerSession.receive

    def shifted(self: ServerSession, message: Any, now: float) -> None:
        if isinstance(message, Ack) and now > 0.5:
            clock = (message.clock_us + int(jump * 1e6)) % 2**32
            message = Ack(message.packet, message.fragment, message.received_bytes, clock)
        take(self, message, now)

    ServerSession.receive = shifted  # type: ignore[method-assign]
    try:
        finished(run)
    finally:
        ServerSession.receive = take  # type: ignore[method-assign]
    summary, clean = run.device.summary, finished(world(200.0)).device.summary
    assert summary is not None
    assert clean is not None
    assert summary.reached_mse is not None
    assert clean.reached_mse is not None
    assert summary.reached_mse < 10 * clean.reached_mse


def test_a_clock_that_jumps_back_stands_still_for_the_server() -> None:
    run = world(200.0)
    poll = ServerSession.poll

    def jumping(self: ServerSession, now: float) -> list[bytes]:
        return poll(self, now - 100.0 if 0.5 < now < 0.6 else now)

    ServerSession.poll = jumping  # type: ignore[method-assign]
    try:
        finished(run)
    finally:
        ServerSession.poll = poll  # type: ignore[method-assign]


def test_steps_may_lag_or_come_at_once() -> None:
    for times in (
        [SLOT * (n + 1) * 1.5 for n in range(STEPS)],
        [SLOT * 2] * STEPS,
        [SLOT * (n + 1) if n < 5 else 5.0 for n in range(STEPS)],
    ):
        run = finished(world(200.0, step_times=times))
        assert run.device.summary is not None
        assert run.device.summary.deadline_met
    # In the last the picture never came to its end: nothing is said about what was not generated.
    assert run.device.summary is not None
    assert run.device.summary.steps == 5
    assert run.device.summary.reached_mse is None
    assert run.device.summary.predicted_mse is not None


@pytest.mark.parametrize("bytes_per_slot", [120.0, 132.0, 144.0])
def test_a_packet_ends_when_x0_comes(bytes_per_slot: float) -> None:
    busy: list[float] = []

    def watch(data: bytes, now: float) -> list[bytes]:
        if run.server is not None and run.server.step == 0 and not busy:
            busy.append(run.link.free_at - now)
        return [data]

    run = world(bytes_per_slot, delay=0.002, tamper=watch)
    run.link = VirtualLink([bytes_per_slot], slot_seconds=SLOT, delay_seconds=0.002, overhead_bytes=54)
    finished(run)
    # Packets have 160 bytes; without looking ahead the link would be busy for anything up to that.
    assert busy[0] < 0.05 * 160.0 / bytes_per_slot * SLOT


@pytest.mark.parametrize("bytes_per_slot", [100.0, 120.0, 140.0])
def test_no_short_packet_is_left_for_the_end(bytes_per_slot: float) -> None:
    lengths: dict[int, int] = {}

    def note(data: bytes, now: float) -> list[bytes]:
        message = decode(data, sender="server")
        if isinstance(message, Refinement) and run.server is not None and run.server.step == 0:
            lengths[message.packet] = lengths.get(message.packet, 0) + len(message.data)
        return [data]

    run = world(bytes_per_slot, tamper=note)
    run.link = VirtualLink([bytes_per_slot], slot_seconds=SLOT, delay_seconds=0.002, overhead_bytes=54)
    finished(run)
    # Packets of the usual length would leave one of a third of it.
    assert len(lengths) > 1
    assert min(lengths.values()) > 0.7 * max(lengths.values())


def test_refinements_are_small_enough_for_their_acknowledgements_to_tell_something() -> None:
    lengths: list[int] = []

    def note(data: bytes, now: float) -> list[bytes]:
        if data[0] == 17:
            lengths.append(len(data) - OVERHEAD_BYTES)
        return [data]

    run = world(20_000.0, tamper=note)
    run.steps, run.shape = gaussian_steps((4, 64, 64), STEPS, seed=1), (4, 64, 64)
    finished(run)
    assert max(lengths) <= 4096
    assert run.server is not None
    assert run.server.latency.packets > 5
    assert 0 < run.server.latency.within <= run.server.latency.packets


def test_while_a_plan_waits_for_the_end_the_server_looks_seldom() -> None:
    """With much time to go the last pass is sent late; until then a few looks do, not two in every slot."""
    seconds = 40 * DEADLINE
    looks: list[float] = []

    def note(server: ServerSession, now: float) -> None:
        if server.step == 0:
            looks.append(now)

    run = finished(world(30.0, deadline=seconds, on_server=note))
    summary = run.device.summary
    assert summary is not None
    assert summary.deadline_met
    assert summary.reached_mse is not None
    assert summary.reached_mse < 1e-8
    # What arrives, the device's own reminders and keep-alives count as well.
    assert len(looks) < 0.4 * seconds / SLOT
