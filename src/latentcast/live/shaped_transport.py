"""A transport behind an emulated link: a message goes out when its last byte would have arrived.

For the page's demonstration, where the browser's own link is far too good. What the device sends is not
delayed. Nor are the server's few control messages, but by the refinements before them: the link is scaled to
the size of the model's latent, and on a small model's READY alone would take a good part of the deadline.
"""

from __future__ import annotations

import asyncio
import time

from latentcast.live.link.shaper import TokenBucket
from latentcast.live.protocol import REFINEMENT_TYPE
from latentcast.live.transport import Transport, TransportClosed

__all__ = ["ShapedTransport"]

# Messages on the virtual link; a sender that does not look at acknowledgements waits from here on.
_UNDER_WAY = 256
_LONGEST_WAIT_SECONDS = 600.0


class ShapedTransport:
    """Delays what is sent by a link's rate.

    Args:
        transport: The device's own.
        bucket: The link, on the monotonic clock.
    """

    def __init__(self, transport: Transport, bucket: TokenBucket) -> None:
        self._transport = transport
        self._bucket = bucket
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        self._closed: TransportClosed | None = None
        self._carrier = asyncio.get_running_loop().create_task(self._carry())

    async def send(self, message: bytes) -> None:
        """Put a message on the link; see `Transport.send`."""
        if self._closed is not None:
            raise self._closed
        num_bytes = len(message) if message[0] == REFINEMENT_TYPE else 0
        await self._under_way.put((self._bucket.send(num_bytes, time.monotonic()), message))

    async def receive(self) -> bytes:
        """See `Transport.receive`."""
        return await self._transport.receive()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Let what is under way arrive, within reason, and close; see `Transport.close`."""
        if self._closed is None:
            self._closed = TransportClosed("the connection is closed", code=code)
            await asyncio.wait(
                [asyncio.create_task(self._under_way.join()), self._carrier],
                timeout=5.0,
                return_when=asyncio.FIRST_COMPLETED,
            )
        self._carrier.cancel()
        await self._transport.close(code, reason)

    async def _carry(self) -> None:
        try:
            while True:
                through, message = await self._under_way.get()
                # In outages of hours a part of the wait, since what never comes is infinite.
                await asyncio.sleep(min(max(through - time.monotonic(), 0.0), _LONGEST_WAIT_SECONDS))
                await self._transport.send(message)
                self._under_way.task_done()
        except TransportClosed as error:
            self._closed = error
