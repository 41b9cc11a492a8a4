"""The token bucket by theory, in virtual time; the proxy over real sockets, by its own records."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.errors import LiveError, ParameterError
from latentcast.live.link import shaper
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import HEADER_BYTES, SEGMENT_BYTES, ShapedProxy, TokenBucket

schedules = st.builds(
    lambda slot, rates: RateSchedule(slot_seconds=slot, rates_bits_per_second=np.array(rates)),
    st.sampled_from([0.001, 0.03, 0.5]),
    st.lists(st.one_of(st.just(0.0), st.floats(1e3, 1e6)), min_size=1, max_size=10).filter(any),
)
# Seconds since the packet before, and bytes.
traffic = st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(1, 1500)), min_size=1, max_size=40)


@given(schedules, traffic, st.floats(0.0, 3000.0))
def test_never_more_than_the_schedule_and_the_burst(
    schedule: RateSchedule, packets: list[tuple[float, int]], burst_bytes: float
) -> None:
    bucket = TokenBucket(schedule, start_seconds=7.0, burst_bytes=burst_bytes)
    now, sent = 7.0, []
    for pause, num_bytes in packets:
        now += pause
        sent.append((now, bucket.send(num_bytes, now), 8 * num_bytes))
    throughs = [through for _, through, _ in sent]
    assert throughs == sorted(throughs)
    assert all(through >= at for at, through, _ in sent)
    for first, (start, _, _) in enumerate(sent):
        bits = 0
        for _, through, size in sent[first:]:
            bits += size
            carried = schedule.carried_bits(start - 7.0, through - 7.0)
            assert bits <= carried + 8 * burst_bytes + 1e-3


@given(schedules, traffic)
def test_a_link_with_something_to_send_is_never_idle(
    schedule: RateSchedule, packets: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(schedule, start_seconds=0.0)
    now, busy_from, bits, through = 0.0, 0.0, 0.0, 0.0
    for pause, num_bytes in packets:
        now += pause
        if now > through:  # all was through: a new busy period begins
            busy_from, bits = now, 0.0
        bits += 8 * num_bytes
        through = bucket.send(num_bytes, now)
        # Exactly the bits of the busy period have been carried when its last packet is through.
        assert schedule.carried_bits(busy_from, through) == pytest.approx(bits, rel=1e-6, abs=1e-3)
        left = 8 * bucket.backlog_bytes(now)
        assert left == pytest.approx(bits - schedule.carried_bits(busy_from, now), rel=1e-6, abs=1e-3)


def test_an_idle_link_saves_its_burst_and_no_more() -> None:
    bucket = TokenBucket(RateSchedule.constant(8000.0), start_seconds=0.0, burst_bytes=300)
    assert bucket.send(300, now=50.0) == 50.0
    assert bucket.send(300, now=50.0) == pytest.approx(50.3)


def test_a_dead_link_never_delivers() -> None:
    bucket = TokenBucket(RateSchedule.constant(0.0), start_seconds=0.0)
    assert bucket.delay_of(1, now=5.0) == math.inf
    with pytest.raises(ParameterError, match="burst_bytes is -1"):
        TokenBucket(RateSchedule.constant(0.0), start_seconds=0.0, burst_bytes=-1)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def served(handler: Handler) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


def target_of(server: asyncio.Server) -> tuple[str, int]:
    host, port = server.sockets[0].getsockname()[:2]
    return host, port


def test_the_proxy_carries_all_bytes_in_order_and_no_earlier_than_the_schedule() -> None:
    data = bytes(range(256)) * 300
    schedule = RateSchedule.steps([(0.05, 4e6), (0.03, 0.0), (0.07, 1e6)])

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(3) == b"go!"
        writer.write(data)
        await writer.drain()

    async def run() -> None:
        async with await served(send) as server, ShapedProxy(target_of(server), schedule) as proxy:
            reader, writer = await asyncio.open_connection(*proxy.address)
            writer.write(b"go!")
            received, arrivals = 0, []
            got = b""
            while part := await reader.read(65536):
                got += part
                received += len(part)
                arrivals.append((time.monotonic() - proxy.start_seconds, received))
            writer.close()
            assert got == data
            # A busy machine may deliver late, never early: by each time at most what was carried by then.
            for seconds, num_bytes in arrivals:
                assert 8 * num_bytes <= schedule.carried_bits(0.0, seconds)
            segments = proxy.downlink.packets
            assert segments >= len(data) / SEGMENT_BYTES
            assert proxy.downlink.bytes == len(data) + segments * HEADER_BYTES
            assert proxy.uplink.bytes == 3 + HEADER_BYTES

    asyncio.run(run())


def test_the_proxy_is_as_fast_as_its_schedule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # In virtual time: what the proxy waits for is recorded instead of waited for.
    waited: list[float] = []

    async def skip(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(shaper, "_sleep_until", skip)
    data = bytes(200_000)
    rate = 1e4  # far below what the machine does, so that the bucket is busy throughout

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    async def run() -> float:
        async with (
            await served(send) as server,
            ShapedProxy(target_of(server), RateSchedule.constant(rate)) as proxy,
        ):
            reader, writer = await asyncio.open_connection(*proxy.address)
            begun = time.monotonic()
            assert await reader.read(-1) == data
            writer.close()
            assert proxy.downlink.bytes * 8 / rate == pytest.approx(max(waited) - begun, rel=0.02)
            # With full segments, headers cost 52 of 1500 bytes.
            return proxy.downlink.bytes / len(data)

    assert asyncio.run(run()) < 1.2


def test_a_fast_sender_is_held_back() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(100_000):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async def run() -> None:
        async with (
            await served(flood) as server,
            ShapedProxy(target_of(server), RateSchedule.constant(8000.0)) as proxy,
        ):
            _, writer = await asyncio.open_connection(*proxy.address)
            # The sender stops as soon as all buffers on the way are full.
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.2)
            writer.close()
            assert proxy.downlink.bytes <= 1000.0 * (time.monotonic() - proxy.start_seconds)

    asyncio.run(run())
    # The server's own send buffer grows to a few MB; the proxy holds no more than its kernel buffers.
    assert sent < 16e6


def test_the_proxy_ends_with_either_side() -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def run() -> None:
        async with await served(end) as server:
            proxy = ShapedProxy(target_of(server), RateSchedule.constant(1e6))
            with pytest.raises(LiveError, match="not listening"):
                _ = proxy.address
            await proxy.start()
            with pytest.raises(LiveError, match=r"cannot listen on 127\.0\.0\.1"):
                await ShapedProxy(target_of(server), RateSchedule.constant(1e6)).start(*proxy.address)
            reader, writer = await asyncio.open_connection(*proxy.address)
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()
            dead = target_of(server)
        # Nobody listens at the target any more: the device's connection ends at once.
        reader, writer = await asyncio.open_connection(*proxy.address)
        assert await reader.read() == b""
        writer.close()
        assert dead
        # One that is still open ends with the proxy.
        await proxy.close()
        await proxy.close()

    asyncio.run(run())
