"""A WebSocket to a server, as the device's `Transport`."""

from __future__ import annotations

import ssl
from typing import Any

from latentcast.errors import ProtocolError
from latentcast.live.protocol import SERVER_MESSAGE_BYTES
from latentcast.live.transport import TransportClosed

__all__ = ["WebSocketDevice"]

_CONNECT_SECONDS = 10.0


class WebSocketDevice:
    """The device's end of a WebSocket.

    Args:
        connection: An open connection of the websockets package.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str, *, tls: ssl.SSLContext | None = None) -> WebSocketDevice:
        """Connect.

        Args:
            url: ws:// or wss://.
            tls: For wss; None for the system's certificates.

        Raises:
            TransportClosed: If there is no connection to be had.
        """
        import websockets

        secure: dict[str, Any] = {"ssl": tls} if tls is not None and url.startswith("wss") else {}
        try:
            connection = await websockets.connect(
                url,
                max_size=SERVER_MESSAGE_BYTES,
                # Packets are as dense as they can be; keep-alive is the protocol's own.
                compression=None,
                ping_interval=None,
                open_timeout=_CONNECT_SECONDS,
                **secure,
            )
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise TransportClosed(str(error) or type(error).__name__) from error
        return cls(connection)

    async def send(self, message: bytes) -> None:
        """Send one message."""
        import websockets

        try:
            await self._connection.send(message)
        except websockets.ConnectionClosed as error:
            raise _closed(error) from error

    async def receive(self) -> bytes:
        """The next message."""
        import websockets

        try:
            data = await self._connection.recv()
        except websockets.ConnectionClosed as error:
            raise _closed(error) from error
        if not isinstance(data, bytes):
            raise ProtocolError("a text message came; messages are binary")
        return data

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        await self._connection.close(code, reason)


def _closed(error: Any) -> TransportClosed:
    received = getattr(error, "rcvd", None)
    return TransportClosed(
        getattr(received, "reason", "") or "the connection broke", code=getattr(received, "code", 1006)
    )
