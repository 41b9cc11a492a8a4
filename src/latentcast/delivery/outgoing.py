"""What a sender has on its way, whichever codec made it."""

from dataclasses import dataclass

__all__ = ["Outgoing"]


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A packet under way.

    Attributes:
        data: The packet.
        link_bits: What the link is charged for it.
        step: The step t that it describes.
        reference_step: The step of what the device held before.
        bits_per_dimension: Bits for each number of the latent: the paper's b, or the packet's bits over M.
        expected_mse: Mean squared error to x_0 that the sender expects the device to be left with.
    """

    data: bytes
    link_bits: int
    step: int
    reference_step: int
    bits_per_dimension: float
    expected_mse: float
