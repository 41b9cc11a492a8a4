"""The record of one episode: what was sent, what arrived, and what the device held in each slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.source import FloatArray
from latentcast.scenario import Scenario

__all__ = ["Decode", "HeldLatent", "SlotRecord", "Timeline", "Transmission", "latent_mse", "psnr_db"]

Decode = Callable[[FloatArray], npt.NDArray[np.uint8]]
"""Latents (batch, channels, height, width) to pictures (batch, height, width, 3)."""


@dataclass(frozen=True, kw_only=True)
class Transmission:
    """One transfer.

    Attributes:
        slot: The slot in which it started.
        step: The step that it carries, t.
        reference_step: The step that it refines, t_p.
        bits_per_dimension: The paper's b, or the packet's bits over M.
        bytes: Length of the packet, with its header.
        link_bits: What the link was charged for it: in the paper's model without the header.
        expected_mse: Error to x_0 that the sender expected after it.
        arrived_slot: The slot at whose end the device could use it, None if the deadline came first.
    """

    slot: int
    step: int
    reference_step: int
    bits_per_dimension: float
    bytes: int
    link_bits: int
    expected_mse: float
    arrived_slot: int | None


@dataclass(frozen=True, kw_only=True)
class SlotRecord:
    """What the device held at the end of a slot.

    Attributes:
        slot: n, 1-based.
        held_step: Step of the held latent; T while it is the initial noise.
        latent_mse: (1/M) ||held - x_0||^2.
    """

    slot: int
    held_step: int
    latent_mse: float


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldLatent:
    """A latent that the device held, from the end of a slot on.

    Attributes:
        slot: The slot at whose end the device got it; 0 for the initial noise.
        step: Its step.
        latent: float32 (channels, height, width).
        latent_mse: (1/M) ||latent - x_0||^2.
    """

    slot: int
    step: int
    latent: FloatArray
    latent_mse: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """One episode, slot by slot. Made by `deliver` and `Episode.finish`.

    Attributes:
        prompt: What was asked for.
        model: Name of the model, None if the trajectory came from elsewhere.
        policy: Name of the policy.
        seed: The root seed: noise, sampler and fading follow from it.
        scenario: What was fixed.
        uplink_slots: T_ul, None if the prompt did not get through before the deadline.
        transmissions: In order of their start.
        slots: One record per slot, 1 to the deadline.
        latent_mse: Error of what the device held at the deadline.
        psnr_db: Of the picture shown at the deadline against that of x_0, None without a decoder; see
            `psnr_db`.
        bits_sent: Bits of refinements that the link carried by the deadline; of a transfer that the deadline
            cut off, what had been carried of it.
        held: Every latent that the device held, the initial noise first; not part of `to_dict`.
        final_latent: x_0, float32 (channels, height, width); not part of `to_dict`.
        rates_bits: Bits that the link offered in each slot; not part of `to_dict`.
    """

    prompt: str
    model: str | None
    policy: str
    seed: int
    scenario: Scenario
    uplink_slots: int | None
    transmissions: tuple[Transmission, ...]
    slots: tuple[SlotRecord, ...]
    latent_mse: float
    psnr_db: float | None
    bits_sent: int
    held: tuple[HeldLatent, ...] = field(repr=False)
    final_latent: FloatArray = field(repr=False)
    rates_bits: npt.NDArray[np.float64] = field(repr=False)

    def held_after(self, slot: int) -> HeldLatent:
        """What the device held at the end of a slot; slot 0 is the beginning."""
        return [held for held in self.held if held.slot <= slot][-1]

    def bits_sent_by(self, slot: int) -> int:
        """Bits of refinements that the link carried by the end of a slot."""
        return sum(
            carried_bits(self.rates_bits, transmission.slot, transmission.link_bits, slot)
            for transmission in self.transmissions
        )

    def to_dict(self) -> dict[str, Any]:
        """The record in plain values that serialise to JSON, without the arrays."""
        return {
            "prompt": self.prompt,
            "model": self.model,
            "policy": self.policy,
            "seed": self.seed,
            "scenario": self.scenario.to_dict(),
            "uplink_slots": self.uplink_slots,
            "transmissions": [asdict(transmission) for transmission in self.transmissions],
            "slots": [asdict(record) for record in self.slots],
            "latent_mse": self.latent_mse,
            "psnr_db": self.psnr_db,
            "bits_sent": self.bits_sent,
        }


def carried_bits(rates_bits: npt.NDArray[np.float64], first_slot: int, bits: int, last_slot: int) -> int:
    """Bits carried of a transfer of `bits` from the start of `first_slot` to the end of `last_slot`."""
    return min(bits, int(rates_bits[first_slot - 1 : last_slot].sum())) if last_slot >= first_slot else 0


def latent_mse(latent: npt.ArrayLike, final_latent: npt.ArrayLike) -> float:
    """(1/M) ||latent - x_0||^2, the paper's objective (eq. 1), summed in float64."""
    difference = np.asarray(latent, np.float64) - np.asarray(final_latent, np.float64)
    return float(np.mean(difference**2))


def psnr_db(picture: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB, peak 255.

    The error counts as at least that of rounding to 8 bits, 1/12, so equal pictures have 58.9 dB and not
    infinity.

    Example:
        >>> black = np.zeros((2, 2, 3), np.uint8)
        >>> round(psnr_db(black, black), 2), round(psnr_db(black, black + 255), 2)
        (58.92, 0.0)
    """
    difference = picture.astype(np.float64) - reference.astype(np.float64)
    return float(10.0 * np.log10(255.0**2 / max(float(np.mean(difference**2)), 1.0 / 12.0)))
