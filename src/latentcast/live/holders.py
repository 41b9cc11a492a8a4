"""What a device holds, by codec, and how packets change it."""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np

from latentcast.codec.packet import reconstruction_checksum, unpack
from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.delivery.progressive import ProgressiveReceiver
from latentcast.diffusion.source import FloatArray, LatentShape
from latentcast.errors import PacketError, ParameterError
from latentcast.live.messages import CODECS, FINAL, PROGRESSIVE

__all__ = ["FinalHolder", "Holder", "ProgressiveHolder", "empty_holder", "held_crc"]


def held_crc(values: FloatArray) -> int:
    """CRC-32 of what a device holds, as HELD reports it: of little-endian float32.

    Example:
        >>> hex(held_crc(np.zeros(4, np.float32)))
        '0xecbb4b55'
    """
    return zlib.crc32(np.ascontiguousarray(values, "<f4").data.cast("B"))


class Holder(Protocol):
    """What a device holds."""

    @property
    def held(self) -> FloatArray:
        """The numbers that `held_crc` is of."""

    @property
    def latent(self) -> FloatArray:
        """What would be shown, float32 (channels, height, width)."""

    @property
    def takes_prefixes(self) -> bool:
        """Whether the first part of a packet can be applied."""

    def receive(self, data: bytes) -> None:
        """Apply a packet.

        Raises:
            PacketError: If it cannot be applied; what is held stays.
        """


class ProgressiveHolder(ProgressiveReceiver):
    """Holds coefficients, zeros at first."""

    takes_prefixes = True

    @property
    def held(self) -> FloatArray:
        """The coefficients in scan order, float32 (M,)."""
        return self.coefficients


class FinalHolder:
    """Holds a latent, zeros until the picture comes.

    Args:
        latent_shape: (channels, height, width).

    Attributes:
        latent: What would be shown, float32 (channels, height, width).
        held: The same.
    """

    takes_prefixes = False

    def __init__(self, latent_shape: LatentShape) -> None:
        self.latent = self.held = np.zeros(latent_shape, np.float32)

    def receive(self, data: bytes) -> None:
        """Take the picture.

        Raises:
            PacketError: If it is none; what is held stays.
        """
        packet = unpack(data, latent_size=self.latent.size)
        if packet.bits != LOSSLESS_BITS or packet.step != 0:
            raise PacketError(
                f"a packet brings step {packet.step} at {packet.bits} bits; {FINAL} sends step 0 at 16"
            )
        latent = packet.symbols.view(np.float16).astype(np.float32).reshape(self.latent.shape)
        if reconstruction_checksum(latent) != packet.checksum:
            raise PacketError("the picture has another checksum here than at the sender")
        self.latent = self.held = latent


def empty_holder(codec: str, latent_shape: LatentShape) -> Holder:
    """What a device holds before anything came.

    Raises:
        ParameterError: If there is no such codec.

    Example:
        >>> float(abs(empty_holder("progressive/1", (4, 8, 8)).latent).max())
        0.0
    """
    if codec not in CODECS:
        raise ParameterError(f"codec is {codec!r}; there are {', '.join(CODECS)}")
    return ProgressiveHolder(latent_shape) if codec == PROGRESSIVE else FinalHolder(latent_shape)
