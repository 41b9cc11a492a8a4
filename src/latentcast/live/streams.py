"""What a session sends, by codec: packets, and what of them the device holds, without time or link.

A stream makes packets against what the device will hold once everything before has arrived. Of each packet
that is not acknowledged it keeps what was held before, so that it can go on from any report of the device,
which a CRC confirms.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentcast.codec.bands import Bands
from latentcast.codec.calibration import Calibration
from latentcast.codec.packet import pack
from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.codec.refinement import encode_refinement
from latentcast.delivery.progressive import HeldState, ProgressiveSender
from latentcast.delivery.timeline import latent_mse
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, LatentShape, Step
from latentcast.errors import PacketError
from latentcast.live.holders import held_crc
from latentcast.live.messages import FINAL, MAX_PACKETS, NO_PACKET, PROGRESSIVE
from latentcast.live.plan import LivePlan
from latentcast.scenario import Scenario

__all__ = ["MAX_KEPT", "Chance", "FinalStream", "ProgressiveStream", "Stream"]

MAX_KEPT = 64
"""Most packets whose beginnings are kept; no new one is made while so many are not acknowledged."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What may be sent now.

    Attributes:
        slots_left: Slots until the deadline from when the packet's first byte goes out.
        slot_bits: What a slot carries on average, net of the protocol's own; None if that is not known.
        max_bytes: Length of the packet.
        is_last: No other packet will follow.
    """

    slots_left: float
    slot_bits: float | None
    max_bytes: int
    is_last: bool


class Stream(Protocol):
    """The packets of one session, by one codec."""

    @property
    def step(self) -> int:
        """The newest step; T before the first."""

    @property
    def num_steps(self) -> int:
        """T."""

    @property
    def next_packet(self) -> int:
        """Number of the next packet."""

    @property
    def num_kept(self) -> int:
        """Packets that are not acknowledged."""

    @property
    def wants_whole_packets(self) -> bool:
        """Whether a packet is as long as it is, however little may be sent now."""

    def offer(self, step: Step) -> None:
        """Take the newest step."""

    def make(self, chance: Chance) -> bytes | None:
        """A packet, if there is one worth sending now."""

    def acknowledged(self, packet: int) -> None:
        """Note that a packet and all before it have arrived."""

    def go_on(self, packet: int, prefix: int, crc: int) -> bool:
        """Go on from what the device reports, else from zeros; say which."""

    def report(self, packet: int, prefix: int, crc: int) -> bool:
        """Take note of what the device held in the end; say whether that is what it must hold."""

    @property
    def has_picture(self) -> bool:
        """Whether the device holds anything of the picture."""

    @property
    def predicted_mse(self) -> float:
        """Error to x_0 that is expected of what the device holds."""

    @property
    def reached_mse(self) -> float | None:
        """The error itself, None while x_0 is not known."""


@dataclass(frozen=True, eq=False, slots=True)
class _Kept:
    packet: int
    before: HeldState
    data: bytes
    step: int


class ProgressiveStream:
    """Refinements of the newest estimate of x_0, any first part of which the device can use.

    Args:
        calibration: The model's, for T steps.
        latent_shape: (channels, height, width).
        deadline_slots: Denoising steps that fit before the deadline.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> from latentcast.diffusion.path import NoisePath
        >>> path = NoisePath.stable_diffusion(10)
        >>> stream = ProgressiveStream(Calibration.white(path), (4, 8, 8), deadline_slots=12)
        >>> for step in GaussianSource((4, 8, 8), path).steps([""], [0]):
        ...     stream.offer(step)
        >>> chance = Chance(slots_left=1.0, slot_bits=1600.0, max_bytes=200, is_last=True)
        >>> len(stream.make(chance)) <= 200
        True
    """

    codec = PROGRESSIVE
    wants_whole_packets = False

    def __init__(self, calibration: Calibration, latent_shape: LatentShape, *, deadline_slots: int) -> None:
        self.num_steps = calibration.num_steps
        self._bands = Bands(latent_shape)
        self._plan = LivePlan(calibration, self._bands.size, deadline_slots=deadline_slots)
        scenario = Scenario.for_latent(
            self._bands.size,
            snr_db=0.0,
            num_steps=calibration.num_steps,
            deadline_slots=self._plan.last,
        )
        self._sender = ProgressiveSender(scenario, self._plan, latent_shape, uplink_slots=0)
        self._kept: deque[_Kept] = deque()
        self._next = 0
        # From where the sender went on last: a report may still name it.
        self._base: tuple[int, int, HeldState] = (NO_PACKET, 0, self._sender.state)
        self._final: FloatArray | None = None

    @property
    def step(self) -> int:
        """The newest step; T before the first."""
        return self._sender.step

    @property
    def next_packet(self) -> int:
        """Number of the next packet."""
        return self._next

    @property
    def num_kept(self) -> int:
        """Packets that are not acknowledged."""
        return len(self._kept)

    def offer(self, step: Step) -> None:
        """Take the newest step.

        Raises:
            ParameterError: If it is no batch of one of the right shape, or older than the last.
        """
        self._sender.offer(step)
        if step.index == 0:
            self._final = step.sample[0]

    def make(self, chance: Chance) -> bytes | None:
        """A packet, if one is worth it; from then on the device counts as holding it."""
        if len(self._kept) >= MAX_KEPT or self._next >= MAX_PACKETS or chance.slots_left <= 0.0:
            return None
        per_slot = self._plan.steps_per_slot
        left = chance.slots_left / per_slot
        mean = None if chance.slot_bits is None else chance.slot_bits * per_slot
        whole = min(max(1, int(np.ceil(left))), self._plan.last)
        packet_bits = 8.0 * chance.max_bytes
        rate = packet_bits if mean is None else max((left - whole + 1.0) * mean, packet_bits)
        slot = self._plan.last - whole + 1
        if chance.is_last:
            slot, rate = self._plan.last, packet_bits
        self._plan.observe(step=self.step, mean_bits=mean, packet_bits=packet_bits)
        before, step = self._sender.state, self._sender.step
        data = self._sender.poll(slot, rate, max_bytes=chance.max_bytes)
        if data is None:
            return None
        self._sender.delivered()
        self._kept.append(_Kept(self._next, before, data, step))
        self._next += 1
        return data

    def acknowledged(self, packet: int) -> None:
        """Note that a packet and all before it have arrived."""
        while self._kept and self._kept[0].packet <= packet:
            self._kept.popleft()

    def go_on(self, packet: int, prefix: int, crc: int) -> bool:
        """Go on from what the device reports, if the CRC confirms that it can be, else from zeros.

        Args:
            packet: The last packet that was applied whole.
            prefix: Bytes of the one after it that were applied.
            crc: `held_crc` of the device.

        Returns:
            Whether the device may keep what it holds.
        """
        state = self._reported(packet, prefix, crc)
        self._sender.go_on_from(state)
        self._kept.clear()
        self._base = (packet, prefix, self._sender.state)
        return state is not None

    def report(self, packet: int, prefix: int, crc: int) -> bool:
        """Take note of what the device held in the end.

        Returns:
            Whether that is, bit for bit, what it must hold.
        """
        state = self._reported(packet, prefix, crc)
        if state is not None:
            self._sender.go_on_from(state)
        return state is not None

    @property
    def has_picture(self) -> bool:
        """Whether the device holds anything of the picture."""
        return self._sender.reference_step < self.num_steps

    @property
    def predicted_mse(self) -> float:
        """Error to x_0 that is expected of what the device holds."""
        return self._sender.expected_mse

    @property
    def reached_mse(self) -> float | None:
        """The error itself, None while x_0 is not known."""
        return None if self._final is None else latent_mse(self._sender.reference, self._final)

    def _reported(self, packet: int, prefix: int, crc: int) -> HeldState | None:
        for state in self._candidates(packet, prefix):
            if held_crc(state.coefficients) == crc:
                return state
        return None

    def _candidates(self, packet: int, prefix: int) -> list[HeldState]:
        following = (packet + 1) % (NO_PACKET + 1)
        candidates = [self._base[2]] if self._base[:2] == (packet, prefix) else []
        if following == self._next and prefix == 0:
            candidates.append(self._sender.state)
        for kept in self._kept:
            if kept.packet == following and prefix <= len(kept.data):
                try:
                    refined = kept.before.refined(kept.data[:prefix], kept.step) if prefix else kept.before
                except PacketError:
                    continue
                candidates.append(refined)
        return candidates


class FinalStream:
    """Compute, then send: x_0 as float16, in the paper's packet, once it is there.

    Args:
        path: The noise path, of T steps.
        latent_shape: (channels, height, width).
    """

    codec = FINAL
    wants_whole_packets = True

    def __init__(self, path: NoisePath, latent_shape: LatentShape) -> None:
        self.num_steps = path.num_steps
        self._path = path
        self._step = path.num_steps
        self._zeros = np.zeros(latent_shape, np.float32)
        self._final: FloatArray | None = None
        self._sent: FloatArray | None = None
        self._held = self._zeros
        self._next = 0
        self._arrived = True

    @property
    def step(self) -> int:
        """The newest step; T before the first."""
        return self._step

    @property
    def next_packet(self) -> int:
        """Number of the next packet."""
        return self._next

    @property
    def num_kept(self) -> int:
        """Packets that are not acknowledged."""
        return int(not self._arrived)

    def offer(self, step: Step) -> None:
        """Take the newest step."""
        self._step = step.index
        if step.index == 0:
            self._final = step.sample[0]

    def make(self, chance: Chance) -> bytes | None:  # noqa: ARG002
        """The packet with x_0, once."""
        if self._final is None or self._sent is not None:
            return None
        refinement = encode_refinement(
            self._final,
            self._zeros,
            path=self._path,
            step=0,
            reference_step=self._path.num_steps,
            bits=LOSSLESS_BITS,
        )
        self._sent = np.asarray(refinement.reconstruction)
        self._next += 1
        self._arrived = False
        return pack(refinement)

    def acknowledged(self, packet: int) -> None:
        """Note that a packet has arrived."""
        self._arrived = self._arrived or packet == self._next - 1

    def go_on(self, packet: int, prefix: int, crc: int) -> bool:
        """Go on from the picture if the device has it, else send it again."""
        has_it = self._has_it(packet, prefix, crc)
        self._arrived = True
        if not has_it:
            self._sent = None
        return has_it or crc == held_crc(self._zeros)

    def report(self, packet: int, prefix: int, crc: int) -> bool:
        """Take note of what the device held in the end: the picture or nothing."""
        if self._has_it(packet, prefix, crc) and self._sent is not None:
            self._held = self._sent
            return True
        return crc == held_crc(self._zeros)

    @property
    def has_picture(self) -> bool:
        """Whether the device holds the picture."""
        return self._held is not self._zeros

    @property
    def predicted_mse(self) -> float:
        """Error of float16 if the device has the picture, else that of zeros, 1."""
        return self.reached_mse if self.reached_mse is not None else 1.0

    @property
    def reached_mse(self) -> float | None:
        """The error itself, None while x_0 is not known."""
        return None if self._final is None else latent_mse(self._held, self._final)

    def _has_it(self, packet: int, prefix: int, crc: int) -> bool:
        sent = self._sent
        return sent is not None and (packet, prefix) == (self._next - 1, 0) and crc == held_crc(sent)
