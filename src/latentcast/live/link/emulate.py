"""One way to put a device behind a link, whichever shaper there is: a namespace, or a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from latentcast.errors import LiveError
from latentcast.live.link.namespaces import NamespaceLink
from latentcast.live.link.schedule import MAX_RATE_BITS_PER_SECOND, RateSchedule
from latentcast.live.link.shaper import LinkCounters, ShapedProxy

__all__ = ["EmulatedLink", "NamespacedServer", "ProxiedServer", "emulate", "may_use_namespaces"]

Address = tuple[str, int]
T = TypeVar("T")


class EmulatedLink(Protocol):
    """A link between devices that are started behind it and a server on this machine.

    Attributes:
        kind: "namespace" or "proxy".
        schedule: rate of either direction over time.
        start_seconds: when the schedule began, by `time.monotonic`.
        server: host and port by which a device behind the link reaches the server.
        downlink: what was carried to devices.
        uplink: what was carried from them.
    """

    kind: str
    schedule: RateSchedule
    start_seconds: float
    server: Address
    downlink: LinkCounters
    uplink: LinkCounters

    def behind(self, function: Callable[[], T]) -> T:
        """Call a function behind the link; sockets that it makes stay there, wherever they are used."""

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a device's process, as `subprocess.Popen` does."""

    def close(self) -> None:
        """Remove the link."""

    def __enter__(self) -> EmulatedLink: ...

    def __exit__(self, *_: object) -> None: ...


class ProxiedServer:
    """A server reached through a `ShapedProxy` that runs in a thread; for every user, on every system.

    Args:
        schedule: rate of either direction over time; it begins now.
        server: host and port of the server.
        listen: host and port to listen on; any free port of this machine alone by default.

    Raises:
        LiveError: if the address cannot be listened on.

    Example:
        >>> import socket
        >>> with socket.create_server(("127.0.0.1", 0)) as server:
        ...     link = ProxiedServer(RateSchedule.constant(1e6), server.getsockname())
        ...     with link, socket.create_connection(link.server) as device:
        ...         connection, _ = server.accept()
        ...         device.sendall(b"hello")
        ...         connection.recv(5)
        ...         connection.close()
        b'hello'
    """

    kind = "proxy"

    def __init__(
        self, schedule: RateSchedule, server: Address, *, listen: Address = ("127.0.0.1", 0)
    ) -> None:
        self.schedule = schedule
        self._proxy = ShapedProxy(server, schedule)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="latentcast-proxy", daemon=True)
        self._thread.start()
        try:
            self._call(self._proxy.start(*listen))
        except LiveError:
            self._stop()
            raise
        self.start_seconds = self._proxy.start_seconds
        self.server = self._proxy.address
        self.downlink, self.uplink = self._proxy.downlink, self._proxy.uplink

    def __enter__(self) -> ProxiedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def behind(self, function: Callable[[], T]) -> T:
        """Call a function; `server` is what it may connect to."""
        return function()

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a device's process."""
        return subprocess.Popen(command, **options)

    def close(self) -> None:
        """Drop all connections and stop listening."""
        if not self._loop.is_closed():
            self._call(self._proxy.close())
            self._stop()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class NamespacedServer:
    """A server reached from a network namespace through a `NamespaceLink`.

    A server that listens on all addresses is reached at this machine's end of the link. For one that does
    not, such as on 127.0.0.1 alone, a relay without a rate of its own listens there.

    Args:
        schedule: rate of either direction over time; it begins now.
        server: host and port of the server.

    Raises:
        LiveError: as `NamespaceLink`.
    """

    kind = "namespace"

    def __init__(self, schedule: RateSchedule, server: Address) -> None:
        self._link = NamespaceLink(schedule)
        self.schedule, self.start_seconds = schedule, self._link.start_seconds
        self.downlink, self.uplink = self._link.downlink, self._link.uplink
        self.server = (self._link.host, server[1])
        self._relay: ProxiedServer | None = None
        # In use means that the server is there already.
        with contextlib.suppress(LiveError):
            self._relay = ProxiedServer(
                RateSchedule.constant(MAX_RATE_BITS_PER_SECOND), server, listen=self.server
            )

    def __enter__(self) -> NamespacedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def behind(self, function: Callable[[], T]) -> T:
        """Call a function in the namespace, in a thread of its own."""
        return self._link.inside(function)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a device's process in the namespace."""
        return self._link.popen(command, **options)

    def close(self) -> None:
        """Remove the link."""
        if self._relay is not None:
            self._relay.close()
        self._link.close()


def may_use_namespaces() -> str | None:
    """Whether this process can make a `NamespaceLink`: None if it can, else why not."""
    try:
        NamespaceLink(RateSchedule.constant(1e6)).close()
    except LiveError as error:
        return str(error)
    return None


def emulate(schedule: RateSchedule, server: Address, *, rootless: bool = False) -> EmulatedLink:
    """Put a link before a server.

    Args:
        schedule: rate of either direction over time; it begins now.
        server: host and port of the server.
        rootless: use the proxy, not a namespace.

    Returns:
        The link; close it, or use it in a `with` statement.

    Raises:
        LiveError: if it cannot be made.
    """
    return ProxiedServer(schedule, server) if rootless else NamespacedServer(schedule, server)
