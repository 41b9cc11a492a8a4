"""The device's side of one request, as a state machine without I/O or clock."""

from __future__ import annotations

from latentcast.codec.packet import reconstruction_checksum, unpack
from latentcast.codec.refinement import decode_refinement
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray
from latentcast.errors import PacketError, ParameterError

__all__ = ["Receiver"]


class Receiver:
    """Holds a latent that can be decoded at any time, and refines it with packets.

    It knows the noise path and the seed's noise beforehand; everything else it learns from packets. A packet
    that is corrupt, or that refines a latent which the device does not hold, changes nothing.

    Args:
        path: Noise path of the samples.
        initial_noise: x_T, float32 (channels, height, width), derived from the request's seed.

    Example:
        >>> from latentcast.diffusion.source import shared_noise
        >>> receiver = Receiver(NoisePath.stable_diffusion(50), shared_noise(0, (4, 8, 8)))
        >>> receiver.held_step
        50
        >>> receiver.receive(b"not a packet")
        Traceback (most recent call last):
        ...
        latentcast.errors.PacketError: ...
    """

    def __init__(self, path: NoisePath, initial_noise: FloatArray) -> None:
        self._path = path
        self._latent = _kept(initial_noise.copy())
        self._held_step = path.num_steps

    @property
    def held_step(self) -> int:
        """Step of the latent that the device holds; T while it is noise."""
        return self._held_step

    @property
    def latent(self) -> FloatArray:
        """The latent that the device holds, float32 (channels, height, width), read-only."""
        return self._latent

    def receive(self, data: bytes) -> None:
        """Refine the held latent with a packet.

        Args:
            data: One packet, any bytes.

        Raises:
            PacketError: If the bytes are no valid packet, or do not refine the held latent; it stays as it
                was.
        """
        packet = unpack(data, latent_size=self._latent.size)
        if packet.reference_step != self._held_step:
            raise PacketError(
                f"the packet refines the latent of step {packet.reference_step}, the device holds that of "
                f"step {self._held_step}; the sender must encode against what was delivered"
            )
        if packet.step >= packet.reference_step:
            raise PacketError(
                f"the packet leads from step {packet.reference_step} to step {packet.step}; "
                "it must lead to a lower one"
            )
        try:
            latent = decode_refinement(
                packet.symbols.reshape(self._latent.shape),
                self._latent,
                path=self._path,
                step=packet.step,
                reference_step=packet.reference_step,
                bits=packet.bits,
            )
        except ParameterError as error:
            raise PacketError(f"the packet's content cannot be decoded: {error}") from error
        if reconstruction_checksum(latent) != packet.checksum:
            raise PacketError(
                f"the latent of step {packet.step} has another checksum here than at the sender; both must "
                f"hold the same latent of step {packet.reference_step}, from the same seed and noise path"
            )
        self._latent, self._held_step = _kept(latent), packet.step


def _kept(latent: FloatArray) -> FloatArray:
    """The next packet builds on these very bits: nobody may change them."""
    latent.flags.writeable = False
    return latent
