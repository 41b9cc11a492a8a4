"""A device as a library: ask a server for a picture, and have what the device held at the deadline.

`request_picture` is asynchronous, `request_picture_sync` waits; both run the same `DeviceSession` over a
WebSocket, connect again when the connection breaks, and go on from what is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from latentcast.diffusion.source import FloatArray
from latentcast.errors import LiveError, ParameterError, ProtocolError
from latentcast.live.decoder import DeviceDecoder, ServerDecoder
from latentcast.live.device_session import Arrival, DeviceSession
from latentcast.live.messages import PROGRESSIVE, Ready, Summary
from latentcast.live.transport import TransportClosed
from latentcast.live.websocket_device import WebSocketDevice

__all__ = [
    "Delivery",
    "Moment",
    "base_url",
    "request_picture",
    "request_picture_sync",
    "run_device",
]

MAX_MOMENTS = 256
"""Moments of a delivery that are kept; beyond, every other one is dropped."""

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_GOODBYE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """What the device held from some time on.

    Attributes:
        seconds: Since the request.
        bytes: Of all refinements until then.
        latent: float32 (channels, height, width).
    """

    seconds: float
    bytes: int
    latent: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Delivery:
    """What a device got.

    Attributes:
        deadline_ms: As requested.
        ready: What the server answered to the request.
        latent: Held at the deadline, float32 (channels, height, width).
        picture: Of it, uint8 (height, width, 3).
        moments: How it came about; the last one is what was held at the deadline, and there is none where
            nothing came.
        arrivals: Packets, as they were applied.
        packets: Packets that were applied whole.
        bytes: Length of all refinements that came.
        rtt_seconds: Shortest round trip, None if it was not measured.
        reconnections: How often the connection was made again.
        summary: The server's, None if the connection was lost before it came.
    """

    deadline_ms: float
    ready: Ready
    latent: FloatArray = field(repr=False)
    picture: npt.NDArray[np.uint8] = field(repr=False)
    moments: tuple[Moment, ...] = field(repr=False)
    arrivals: tuple[Arrival, ...] = field(repr=False)
    packets: int
    bytes: int
    rtt_seconds: float | None
    reconnections: int
    summary: Summary | None

    @property
    def agrees(self) -> bool | None:
        """Whether the server believes that the device holds the very bits it does; None without a word."""
        return None if self.summary is None else self.summary.agrees

    def to_dict(self) -> dict[str, Any]:
        """The delivery in plain values that serialise to JSON, without arrays and the session's key."""
        request = self.ready.model_dump(mode="json", exclude={"key"})
        return {
            "request": request | {"deadline_ms": self.deadline_ms},
            "packets": self.packets,
            "bytes": self.bytes,
            "rtt_ms": None if self.rtt_seconds is None else 1e3 * self.rtt_seconds,
            "reconnections": self.reconnections,
            "arrivals": [
                {
                    "ms": 1e3 * arrival.seconds,
                    "packet": arrival.packet,
                    "bytes": arrival.bytes,
                    "total_bytes": arrival.total_bytes,
                    "whole": arrival.whole,
                }
                for arrival in self.arrivals
            ],
            "summary": None if self.summary is None else self.summary.model_dump(mode="json"),
        }


async def run_device(
    device: DeviceSession,
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    on_change: Callable[[DeviceSession, float], None] | None = None,
) -> int:
    """Run a device's session until it ends, over as many connections as it takes.

    Args:
        device: A session that has not begun.
        url: Of the protocol, ws:// or wss://.
        tls: For wss; None for the system's certificates.
        on_change: Called with the session and the time after everything that happens.

    Returns:
        How often the connection was made again.

    Raises:
        LiveError: If the server cannot be reached at first, refuses, or fails.
    """
    connections, pause = 0, _FIRST_PAUSE_SECONDS
    try:
        while device.wants_connection:
            try:
                # A server that does not answer must not hold the device beyond its deadline.
                left = None if device.deadline is None else max(device.deadline - time.monotonic(), 0.0)
                async with asyncio.timeout(left):
                    transport = await WebSocketDevice.open(url, tls=tls)
            except (TransportClosed, TimeoutError) as error:
                if connections == 0:
                    raise LiveError(f"cannot reach {url}: {_reason(error)}") from error
                device.poll(time.monotonic())
                if device.wants_connection:
                    await asyncio.sleep(pause)
                    pause = min(2.0 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            connections, pause = connections + 1, _FIRST_PAUSE_SECONDS
            device.connected(time.monotonic())
            try:
                await _converse(device, transport, on_change)
            except TransportClosed:
                device.lost(time.monotonic())
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE_SECONDS):
                        await transport.close()
    finally:
        if on_change is not None:
            on_change(device, time.monotonic())
    if device.error is not None:
        raise device.error
    return connections - 1


async def request_picture(
    url: str,
    prompt: str,
    *,
    deadline_ms: float,
    seed: int | None = None,
    token: str | None = None,
    codec: str = PROGRESSIVE,
    link: dict[str, JsonValue] | None = None,
    decoder: DeviceDecoder | ServerDecoder | None = None,
    tls: ssl.SSLContext | None = None,
    on_change: Callable[[DeviceSession, float], None] | None = None,
) -> Delivery:
    """Ask a server for a picture; return what the device held at the deadline.

    Args:
        url: The server, such as "http://127.0.0.1:8700"; ws and wss are taken for http and https.
        prompt: What is asked for.
        deadline_ms: When the picture will be shown, after the request has gone out, in milliseconds.
        seed: Root seed, None for one of the server's choice.
        token: What the server's operator gave.
        codec: "progressive/1", or "final/1": the complete picture only, to compare with.
        link: A link for the server to emulate, such as {"snr_db": 3.0, "seed": 0}.
        decoder: The model's, None to ask the server for it after the deadline, unless it is installed or
            cached.
        tls: For https; None for the system's certificates.
        on_change: Called with the session and the time after everything that happens.

    Raises:
        ParameterError: If an argument is out of range.
        LiveError: If the server cannot be reached, refuses (`RefusalError`), or fails.
        ModelError: If the decoder cannot be used.

    Example:
        ::

            delivery = await request_picture("http://127.0.0.1:8700", "a red sphere", deadline_ms=2000)
            Image.fromarray(delivery.picture).save("picture.png")
    """
    base = base_url(url)
    device = DeviceSession(
        prompt=prompt,
        deadline_seconds=deadline_ms / 1e3,
        seed=seed,
        codecs=(codec,),
        token=token,
        link=link,
    )
    if decoder is None:
        decoder = ServerDecoder(base, tls=tls)
    moments: list[Moment] = []
    seen = 0

    def watch(session: DeviceSession, now: float) -> None:
        nonlocal seen
        # What came after the deadline was not shown.
        if len(session.arrivals) > seen and session.latent is not None:
            seen, last = len(session.arrivals), session.arrivals[-1]
            moments.append(Moment(seconds=last.seconds, bytes=last.total_bytes, latent=session.latent))
            if len(moments) > MAX_MOMENTS:
                del moments[:-1:2]
        if on_change is not None:
            on_change(session, now)

    reconnections = await run_device(device, f"ws{base[4:]}/v1/live", tls=tls, on_change=watch)
    latent = device.latent
    if device.ready is None or latent is None:
        raise LiveError("the session ended without an answer")
    pictures = await asyncio.to_thread(decoder.decode, latent[None])
    return Delivery(
        deadline_ms=deadline_ms,
        ready=device.ready,
        latent=latent,
        picture=pictures[0],
        moments=tuple(moments),
        arrivals=tuple(device.arrivals),
        packets=device.packets,
        bytes=device.total_bytes,
        rtt_seconds=device.rtt_seconds,
        reconnections=reconnections,
        summary=device.summary,
    )


def request_picture_sync(url: str, prompt: str, *, deadline_ms: float, **options: Any) -> Delivery:
    """`request_picture`, and wait for it; the arguments are the same.

    Example:
        ::

            delivery = request_picture_sync("http://127.0.0.1:8700", "a red sphere", deadline_ms=2000)
    """
    return asyncio.run(request_picture(url, prompt, deadline_ms=deadline_ms, **options))


def base_url(url: str) -> str:
    """A server's address as http or https, without a path.

    Raises:
        ParameterError: If it is none.

    Example:
        >>> base_url("ws://10.0.0.2:8700/"), base_url("localhost:8700"), base_url("https://a.example")
        ('http://10.0.0.2:8700', 'http://localhost:8700', 'https://a.example')
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        _ = parts.port  # raises where it is no number
        if scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(url)
    except ValueError as error:
        raise ParameterError(f"the server is {url!r}; it must be like http://127.0.0.1:8700") from error
    return f"{scheme}://{parts.netloc}"


async def _converse(
    device: DeviceSession,
    transport: WebSocketDevice,
    on_change: Callable[[DeviceSession, float], None] | None,
) -> None:
    """One connection, until the session or the connection ends."""
    receiving: asyncio.Task[bytes] | None = None
    hears_us = True
    try:
        while True:
            for message in device.poll(time.monotonic()):
                # A server that has closed may have said why before: that is still to be read.
                if hears_us:
                    try:
                        await transport.send(message)
                    except TransportClosed:
                        hears_us = False
            if on_change is not None:
                on_change(device, time.monotonic())
            if device.ended:
                return
            if device.is_silent(time.monotonic()):
                raise TransportClosed("the server has gone silent")
            if receiving is None:
                receiving = asyncio.create_task(transport.receive())
            again = device.next_poll(time.monotonic())
            wait = None if again is None else max(again - time.monotonic(), 0.0)
            await asyncio.wait([receiving], timeout=wait)
            if receiving.done():
                done, receiving = receiving, None
                try:
                    data = done.result()
                except ProtocolError:
                    data = b""  # which is no message either: the session asks for what it misses
                device.receive(data, time.monotonic())
    except asyncio.CancelledError:
        # The user has had enough; the server should know, if it still listens.
        device.cancel()
        with contextlib.suppress(TransportClosed, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                for message in device.poll(time.monotonic()):
                    await transport.send(message)
        raise
    finally:
        if receiving is not None:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransportClosed, ProtocolError):
                await receiving


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({cause.verify_message}); if you trust it, "
            "name a file with it in SSL_CERT_FILE"
        )
    return f"{error}; is the server running there?"
