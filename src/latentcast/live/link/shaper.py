"""Send bytes no faster than a schedule: a token bucket without a clock, and a TCP proxy with two of them.

The proxy needs no rights: it is the shaper where network namespaces are not allowed, see `namespaces`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass

from latentcast.errors import LiveError, ParameterError
from latentcast.live.link.schedule import RateSchedule

__all__ = ["HEADER_BYTES", "LinkCounters", "ShapedProxy", "TokenBucket"]

# What a packet costs beside its payload: IPv4 20, TCP 20, timestamps 12.
HEADER_BYTES = 52
SEGMENT_BYTES = 1448
# Kernel buffers of the proxy's sockets. Smaller ones make loopback TCP, whose packets are 64 KB, stall.
BUFFER_BYTES = 16_384
SEGMENTS_ON_THE_WAY = 8
CONNECT_SECONDS = 10.0


class TokenBucket:
    """Says when bytes are through a link, one after the other; no clock inside, no waiting.

    With C(t) the bits carried until t and S those spoken for, sending B bits at time t sets S <- max(S, C(t)
    - burst) + B, and the last of them is through at the first time with C >= S, but not before t. Of what is
    sent from time s on, at most C(t) - C(s) + burst bits are through by t, and a link that has something to
    send is never idle. Without burst a link carries nothing in advance and saves nothing.

    Args:
        schedule: rate over time.
        start_seconds: the time, on the caller's clock, at which the schedule begins.
        burst_bytes: what an idle link may carry at once, 0 or more.

    Raises:
        ParameterError: if burst_bytes is negative or not finite.

    Example:
        >>> bucket = TokenBucket(RateSchedule.constant(8000.0), start_seconds=100.0)
        >>> bucket.send(500, now=100.0), bucket.send(500, now=100.0), bucket.send(500, now=105.0)
        (100.5, 101.0, 105.5)
        >>> bucket.backlog_bytes(now=105.25), bucket.delay_of(500, now=105.25)
        (250.0, 0.75)
    """

    def __init__(self, schedule: RateSchedule, *, start_seconds: float, burst_bytes: float = 0.0) -> None:
        if not 0.0 <= burst_bytes < float("inf"):
            raise ParameterError(f"burst_bytes is {burst_bytes!r}; it must be finite and 0 or more")
        self._schedule = schedule
        self._start_seconds = start_seconds
        self._burst_bits = 8.0 * burst_bytes
        self._spoken_for_bits = 0.0

    @property
    def schedule(self) -> RateSchedule:
        """Rate over time."""
        return self._schedule

    @property
    def start_seconds(self) -> float:
        """When the schedule began."""
        return self._start_seconds

    def send(self, num_bytes: int, now: float) -> float:
        """Send bytes behind all that was sent before.

        Args:
            num_bytes: how many, 0 or more.
            now: the time.

        Returns:
            The time at which the last of them is through, `now` or later; infinite if the link never carries
            them.
        """
        earliest = self._carried(now) - self._burst_bits
        self._spoken_for_bits = max(self._spoken_for_bits, earliest) + 8.0 * num_bytes
        return max(now, self._start_seconds + self._schedule.seconds_of(self._spoken_for_bits))

    def delay_of(self, num_bytes: int, now: float) -> float:
        """Send bytes, as `send` does; the seconds from now until they are through."""
        return self.send(num_bytes, now) - now

    def backlog_bytes(self, now: float) -> float:
        """Bytes that have been sent and are not yet through."""
        return max(self._spoken_for_bits - self._carried(now), 0.0) / 8.0

    def _carried(self, now: float) -> float:
        return self._schedule.carried_bits(0.0, max(now - self._start_seconds, 0.0))


@dataclass(kw_only=True)
class LinkCounters:
    """What went over a link in one direction.

    Attributes:
        packets: packets carried.
        bytes: their bytes, with headers as the link was charged.
        dropped: packets that found the queue full.
    """

    packets: int = 0
    bytes: int = 0
    dropped: int = 0

    def count(self, num_bytes: int) -> None:
        """Note a packet that was carried."""
        self.packets += 1
        self.bytes += num_bytes


class ShapedProxy:
    """A TCP proxy whose two directions are links of a given rate, shared by all its connections.

    Bytes are cut into segments; each is charged with the header that it would have on a network, held until
    the bucket says that it is through, and written. No more is read while eight are held, so that a sender
    that is too fast is held back by TCP itself. TCP's own acknowledgements and repetitions are not charged.

    Args:
        target: host and port of the server.
        schedule: rate of either direction over time.
        burst_bytes: of either direction, see `TokenBucket`.

    Example:
        >>> async def fetch() -> bytes:
        ...     async def answer(reader, writer):
        ...         writer.write(await reader.readexactly(4) + b"!")
        ...         await writer.drain()
        ...         writer.close()
        ...     server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ...     target = server.sockets[0].getsockname()[:2]
        ...     async with server, ShapedProxy(target, RateSchedule.constant(1e6)) as proxy:
        ...         reader, writer = await asyncio.open_connection(*proxy.address)
        ...         writer.write(b"ping")
        ...         data = await reader.read()
        ...         writer.close()
        ...     return data
        >>> asyncio.run(fetch())
        b'ping!'
    """

    def __init__(self, target: tuple[str, int], schedule: RateSchedule, *, burst_bytes: float = 0.0) -> None:
        self._target = target
        self._schedule = schedule
        self._burst_bytes = burst_bytes
        self.downlink = LinkCounters()
        self.uplink = LinkCounters()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Begin to listen; the schedule begins now.

        Raises:
            LiveError: if the address cannot be listened on.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit the buffers of the socket that they came in by.
            _shrink(listener)
            listener.bind((host, port))
            self._server = await asyncio.start_server(self._accept, sock=listener, limit=SEGMENT_BYTES)
        except OSError as error:
            listener.close()
            raise LiveError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        self.start_seconds = time.monotonic()
        self._down, self._up = (
            TokenBucket(self._schedule, start_seconds=self.start_seconds, burst_bytes=self._burst_bytes)
            for _ in range(2)
        )

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> ShapedProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to.

        Raises:
            LiveError: if the proxy is not listening.
        """
        if self._server is None:
            raise LiveError("the proxy is not listening; start it first")
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # A side that is gone or was never there, or the proxy's end: the other side sees its connection end.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                server_reader, server_writer = await self._connect()
                try:
                    async with asyncio.TaskGroup() as pumps:
                        pumps.create_task(_pump(server_reader, writer, self._down, self.downlink))
                        pumps.create_task(_pump(reader, server_writer, self._up, self.uplink))
                finally:
                    server_writer.close()
            except* (OSError, TimeoutError):
                pass
        writer.close()
        self._connections.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        upstream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            upstream.setblocking(False)
            _shrink(upstream)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(upstream, self._target)
            return await asyncio.open_connection(sock=upstream, limit=SEGMENT_BYTES)
        except BaseException:
            upstream.close()
            raise


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: TokenBucket, counters: LinkCounters
) -> None:
    """Carry one direction of a connection until its end."""
    writer.transport.set_write_buffer_limits(high=0)
    # Some segments are on their way at once, lest the link idle from the end of a wait to the next read.
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(SEGMENTS_ON_THE_WAY)

    async def deliver() -> None:
        while True:
            through, data = await on_the_way.get()
            await _sleep_until(through)
            if not data:
                break
            counters.count(len(data) + HEADER_BYTES)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async with asyncio.TaskGroup() as ends:
        ends.create_task(deliver())
        data = b"?"
        while data:
            data = await reader.read(SEGMENT_BYTES)
            now = time.monotonic()
            through = bucket.send(len(data) + HEADER_BYTES, now) if data else now
            await on_the_way.put((through, data))


async def _sleep_until(seconds: float) -> None:
    # In parts, since a time that never comes is infinite.
    while (left := seconds - time.monotonic()) > 0.0:
        await asyncio.sleep(min(left, 3600.0))


def _shrink(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
