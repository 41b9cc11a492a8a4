"""Packets put together from their fragments on the device, and applied to what it holds."""

from __future__ import annotations

from typing import NamedTuple

from latentcast.diffusion.source import FloatArray, LatentShape
from latentcast.errors import PacketError
from latentcast.live.holders import empty_holder, held_crc
from latentcast.live.messages import FRAGMENT_BYTES, MAX_FRAGMENTS, NO_PACKET, Refinement

__all__ = ["Applied", "Assembly", "Holding"]

_MOST_BYTES = MAX_FRAGMENTS * FRAGMENT_BYTES


class Applied(NamedTuple):
    """What was applied.

    Attributes:
        packet: Its number.
        bytes: Its length, or that of the part that had come.
        whole: Whether it was all of the packet.
    """

    packet: int
    bytes: int
    whole: bool


class Holding(NamedTuple):
    """What is held, as HELD and RESUME report it.

    Attributes:
        packet: The last one that was applied whole, `NO_PACKET` for none.
        prefix: Bytes of the one after it that were applied.
        crc: `held_crc` of what is held.
    """

    packet: int
    prefix: int
    crc: int


class Assembly:
    """What the device holds, and the packet that is coming in; fragments are taken in order or not at all.

    Args:
        codec: Of the packets.
        latent_shape: (channels, height, width).

    Attributes:
        packets: Those that were applied whole.

    Example:
        >>> assembly = Assembly("progressive/1", (4, 8, 8))
        >>> assembly.take(Refinement(0, 0, False, b"first part"))
        >>> assembly.take(Refinement(0, 2, True, b"third part"))
        Traceback (most recent call last):
        ...
        latentcast.errors.PacketError: fragment (0, 2) came in place of (0, 1)
        >>> assembly.apply_prefix()
        Applied(packet=0, bytes=10, whole=False)
    """

    def __init__(self, codec: str, latent_shape: LatentShape) -> None:
        self._codec, self._latent_shape = codec, latent_shape
        self._holder = empty_holder(codec, latent_shape)
        self.packets = 0
        self._expected = (0, 0)
        self._unfinished = bytearray()
        self._prefix = 0

    @property
    def latent(self) -> FloatArray:
        """What would be shown, float32 (channels, height, width)."""
        return self._holder.latent

    @property
    def holding(self) -> Holding:
        """What is held, for a report to the server."""
        last = (self._expected[0] - 1) % (NO_PACKET + 1)
        return Holding(packet=last, prefix=self._prefix, crc=held_crc(self._holder.held))

    def take(self, fragment: Refinement) -> Applied | None:
        """Take a fragment; the last one of a packet has it applied. What came before is left out.

        Raises:
            PacketError: If fragments are missing before it, or it ends a packet that cannot be applied. What
                is held stays.
        """
        place = (fragment.packet, fragment.fragment)
        if place < self._expected:
            return None
        if place > self._expected:
            raise PacketError(f"fragment {place} came in place of {self._expected}")
        self._unfinished += fragment.data
        if not fragment.last:
            self._expected = (fragment.packet, fragment.fragment + 1)
            if fragment.fragment + 1 >= MAX_FRAGMENTS or len(self._unfinished) > _MOST_BYTES:
                self._unfinished.clear()
                raise PacketError(f"packet {fragment.packet} has no end")
            return None
        data = bytes(self._unfinished)
        self._unfinished.clear()
        self._holder.receive(data)
        self._expected = (fragment.packet + 1, 0)
        self._prefix = 0
        self.packets += 1
        return Applied(packet=fragment.packet, bytes=len(data), whole=True)

    def apply_prefix(self) -> Applied | None:
        """Use what came of the unfinished packet, if it can be used; nothing more of it will come."""
        data = bytes(self._unfinished)
        self._unfinished.clear()
        if not data or not self._holder.takes_prefixes:
            return None
        try:
            self._holder.receive(data)
        except PacketError:
            return None
        self._prefix = len(data)
        return Applied(packet=self._expected[0], bytes=len(data), whole=False)

    def go_on(self, packet: int, *, keep: bool) -> None:
        """Expect a packet next, to be applied to what is held, or to what a device holds at first."""
        self._expected = (packet, 0)
        self._prefix = 0
        if not keep:
            self._holder = empty_holder(self._codec, self._latent_shape)
