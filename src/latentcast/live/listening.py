"""Running the server: uvicorn, made to finish what is under way before it stops.

uvicorn closes all WebSockets as soon as it is told to end. Here the first signal makes the server refuse what
is new while sessions under way go on, for at most `DRAIN_SECONDS`; a second signal ends them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from latentcast.errors import LiveError, ParameterError
from latentcast.live.event_log import log_event
from latentcast.live.protocol import DEVICE_MESSAGE_BYTES
from latentcast.live.service import LiveService

__all__ = ["DRAIN_SECONDS", "Address", "LiveServer"]

DRAIN_SECONDS = 30.0
"""How long sessions under way may go on after the server has been told to end."""

_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens.

    Attributes:
        host: Name or address of an interface.
        port: 0 for any that is free.
        tls_cert: File with the certificate chain, None for no TLS.
        tls_key: File with its private key.

    Raises:
        ParameterError: If the port is out of range, or only one of the two files is given or is there.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ParameterError(f"port is {self.port}; it must be 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ParameterError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
        for file in (self.tls_cert, self.tls_key):
            if file is not None and not file.is_file():
                raise ParameterError(f"there is no file {file} for TLS")
        if self.tls_cert is not None:
            try:
                # An empty password where the key needs one, so that nobody is asked for it.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.tls_cert, self.tls_key, password="")
            except OSError as error:  # ssl.SSLError is one
                raise ParameterError(f"the TLS certificate or key cannot be used: {error}") from error


class LiveServer(uvicorn.Server):
    """A server for the application of `make_app`.

    Args:
        app: The application.
        address: Where to listen.
        on_ready: Called with the server's URL when it takes requests.
        drain_seconds: How long sessions may go on after the first signal.

    Example:
        ::

            LiveServer(make_app(ServeConfig(), model), Address()).run()
    """

    def __init__(
        self,
        app: Starlette,
        address: Address,
        *,
        on_ready: Callable[[str], None] | None = None,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        config = uvicorn.Config(
            app,
            host=address.host,
            port=address.port,
            ws="websockets-sansio",
            # A little more than a message may have, so that the protocol can say what was wrong.
            ws_max_size=2 * DEVICE_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            ssl_certfile=address.tls_cert,
            ssl_keyfile=None if address.tls_key is None else str(address.tls_key),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
        config.load()
        super().__init__(config)
        self._service: LiveService = app.state.service
        self._on_ready = on_ready
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens; the port is the true one."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.config.is_ssl else 'http'}://{shown}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets=sockets)
        except SystemExit:  # what uvicorn makes of an address that cannot be listened on
            raise LiveError(
                f"cannot listen on {self.config.host}:{self.config.port}; is another server there? "
                "Choose another --port"
            ) from None
        if not self.started:
            raise LiveError("the model cannot be run; the log says why")
        if self._on_ready is not None:
            self._on_ready(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is left, with a word to its devices, and stop listening."""
        await self._service.end_sessions()
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse what is new and let the rest finish; at the second signal end at once."""
        if self._loop is None or self._draining is not None or self._service.draining:
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Begin to finish; in the event loop's thread."""
        if self._draining is None:
            self._service.draining = True
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        log_event("draining", sessions=self._service.num_sessions)
        while self._service.num_sessions and loop.time() < end and not self.should_exit:
            await asyncio.sleep(_LOOK_SECONDS)
        self.should_exit = True
