"""What carries the messages: reliable, ordered, whole messages. WebSocket is the first; others fit here.

A transport's `send` returns when the message is handed over, which says nothing about its arrival: the
protocol has acknowledgements of its own. So a transport needs no flow control beyond not buffering without
bound, which the protocol's window sees to.
"""

from __future__ import annotations

from typing import Protocol

from latentcast.errors import LiveError

__all__ = ["Transport", "TransportClosed"]


class TransportClosed(LiveError):  # noqa: N818 -- an end, and often no error
    """The other side, or the way there, is gone.

    Args:
        reason: What is known about why.
        code: A WebSocket close code: 1000 after a normal end, 1006 when the connection broke.

    Example:
        >>> raise TransportClosed("the server restarts", code=1012)
        Traceback (most recent call last):
        ...
        latentcast.live.transport.TransportClosed: the server restarts
    """

    def __init__(self, reason: str, *, code: int = 1006) -> None:
        super().__init__(reason or "the connection is closed")
        self.code = code


class Transport(Protocol):
    """One connection between a device and a server.

    Message boundaries and order are kept, nothing is lost while the connection lives. One task may send while
    another receives.
    """

    async def send(self, message: bytes) -> None:
        """Hand a message over.

        Raises:
            TransportClosed: If the connection is closed.
        """

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            TransportClosed: If the connection is closed and every message that came before has been taken.
            ProtocolError: If what came is no binary message, or longer than any message may be.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; a closed one stays closed without complaint.

        Args:
            code: WebSocket close code.
            reason: At most 120 bytes of UTF-8.
        """
