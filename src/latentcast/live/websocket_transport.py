"""The server's end of a WebSocket as a transport."""

from __future__ import annotations

import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from latentcast.errors import ProtocolError
from latentcast.live.transport import TransportClosed

__all__ = ["WebSocketTransport"]


class WebSocketTransport:
    """Binary messages over an accepted WebSocket; see `Transport`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the socket's buffer is full."""
        try:
            await self._websocket.send_bytes(message)
        except WebSocketDisconnect as error:
            raise TransportClosed(error.reason or "the device is gone", code=error.code) from None
        except (OSError, RuntimeError) as error:  # closed from this side, or lost without a word
            raise TransportClosed(str(error)) from None

    async def receive(self) -> bytes:
        """The next message."""
        if self._websocket.client_state is WebSocketState.DISCONNECTED:
            raise TransportClosed("the connection is closed")
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise TransportClosed(
                message.get("reason") or "the device is gone", code=message.get("code", 1006)
            )
        data: bytes | None = message.get("bytes")
        if data is None:
            raise ProtocolError("a text message came; messages are binary")
        return data

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            await self._websocket.close(code, reason)
