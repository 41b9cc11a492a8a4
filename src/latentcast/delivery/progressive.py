"""Both ends of a request by the progressive codec, as state machines without I/O or clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentcast.codec.bands import Bands
from latentcast.codec.calibration import Calibration
from latentcast.codec.progressive import FINAL_MIN_CLASS, MIN_CLASS, Refined, apply_packet, make_packet
from latentcast.delivery.outgoing import Outgoing
from latentcast.diffusion.source import FloatArray, LatentShape, Step
from latentcast.errors import ParameterError
from latentcast.scenario import Scenario

__all__ = ["HeldState", "PassPlan", "ProgressiveReceiver", "ProgressiveSender"]

# What an estimate's own error hides of the device's, as a share of it: 0.004 dB.
_HIDDEN_SHARE = 0.001


class PassPlan(Protocol):
    """What the sender asks: `ProgressivePolicy`, or a plan that follows a live link."""

    @property
    def calibration(self) -> Calibration:
        """How the target is estimated at every step, and how well."""

    def last_slot(self, *, slot: int, error: float, uplink_slots: int) -> int:
        """As `ProgressivePolicy.last_slot`."""

    def horizon_bits(self, *, slot: int, last_slot: int, rate_bits: float) -> float:
        """As `ProgressivePolicy.horizon_bits`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldState:
    """What the device holds, or will once everything sent has arrived; enough to go on from.

    Attributes:
        coefficients: float32 (M,), in scan order.
        next_start: Where the next packet goes on.
        step: The newest step that the device has anything of.
    """

    coefficients: FloatArray
    next_start: int
    step: int

    def refined(self, data: bytes, step: int) -> HeldState:
        """The state after a packet, or after a first part of it.

        Args:
            data: What arrived of it.
            step: The step that it carries.

        Raises:
            PacketError: If the part is too short to apply.
        """
        refined = apply_packet(data, self.coefficients)
        return HeldState(coefficients=refined.held, next_start=refined.next_start, step=step)


class ProgressiveSender:
    """Refines what the device holds towards the newest estimate of x_0, with a packet in every slot.

    The target is the policy's calibrated estimate; the policy says in which slot a pass over the latent
    should end, and the codec makes the packet that fills the present slot. The loop is closed: the sender
    applies what arrived, and what of it arrived, just as the device does.

    Args:
        scenario: What is fixed for the request.
        policy: Plans the passes, and brings the calibration of the estimates.
        latent_shape: (channels, height, width).
        uplink_slots: T_ul, slots that the prompt's upload took.

    Raises:
        ParameterError: If latent and scenario do not fit.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> from latentcast.policy.progressive import ProgressivePolicy
        >>> scenario = Scenario.for_latent(256, snr_db=10.0)
        >>> sender = ProgressiveSender(scenario, ProgressivePolicy(scenario), (4, 8, 8), uplink_slots=1)
        >>> receiver = ProgressiveReceiver((4, 8, 8))
        >>> for slot, step in enumerate(GaussianSource((4, 8, 8), scenario.path).steps([""], [0]), start=2):
        ...     sender.offer(step)
        ...     packet = sender.poll(slot, rate_bits=400.0)
        ...     if packet is not None:
        ...         receiver.receive(packet)
        ...         sender.delivered()
        >>> bool(np.mean((receiver.latent - step.sample[0]) ** 2) < 0.2)
        True
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: PassPlan,
        latent_shape: LatentShape,
        *,
        uplink_slots: int,
    ) -> None:
        self._bands = Bands(latent_shape)
        scenario.check_latent(self._bands.size)
        self._scenario = scenario
        self._policy = policy
        self._latent_shape = latent_shape
        self._uplink_slots = uplink_slots
        self._step = self._held_step = scenario.num_steps
        self._target = self._held = np.zeros(scenario.latent_size, np.float32)
        self._next_start = 0
        self._last_slot = 0
        self._refined: Refined | None = None
        self._in_flight: Outgoing | None = None
        self._known_lack: float | None = 0.0

    @property
    def step(self) -> int:
        """t(n), the step of the newest estimate."""
        return self._step

    @property
    def reference_step(self) -> int:
        """The newest step that the device has anything of."""
        return self._held_step

    @property
    def reference(self) -> FloatArray:
        """The latent that the device holds, float32 (channels, height, width)."""
        return self._bands.inverse(self._held)

    @property
    def in_flight(self) -> Outgoing | None:
        """What is being transferred, None when the channel is idle."""
        return self._in_flight

    @property
    def state(self) -> HeldState:
        """What the device holds, to go on from some day."""
        return HeldState(coefficients=self._held, next_start=self._next_start, step=self._held_step)

    @property
    def expected_mse(self) -> float:
        """Error to x_0 that is expected of what the device holds."""
        mmse = float(self._policy.calibration.mmse[self._step])
        return mmse + self._lack()

    def go_on_from(self, state: HeldState | None) -> None:
        """Take it that the device holds this and nothing is under way; the next packet begins a new pass.

        Args:
            state: An earlier `state`, or one refined from it; None for zeros.
        """
        if state is None:
            zeros = np.zeros_like(self._held)
            state = HeldState(coefficients=zeros, next_start=0, step=self._scenario.num_steps)
        self._held, self._next_start = state.coefficients, state.next_start
        self._held_step, self._known_lack = state.step, None
        self._refined = self._in_flight = None
        self._last_slot = 0

    def offer(self, step: Step) -> None:
        """Take the newest step; its estimate becomes the target.

        Args:
            step: A batch of one.

        Raises:
            ParameterError: If it is not a batch of one latent of the right shape, or not newer than the last.
        """
        if step.sample.shape != (1, *self._latent_shape):
            raise ParameterError(
                f"the step's sample has shape {step.sample.shape}; it must be {(1, *self._latent_shape)}"
            )
        if step.index > self._step:
            raise ParameterError(f"step {step.index} came after step {self._step}; steps must fall towards 0")
        self._target = self._policy.calibration.target(step)[0]
        self._step, self._known_lack = step.index, None

    def poll(
        self, slot: int, rate_bits: float | None = None, *, max_bytes: int | None = None
    ) -> bytes | None:
        """Ask, at the beginning of a slot, for a packet that fills it.

        Args:
            slot: n, 1-based.
            rate_bits: What this slot carries, or what is left of that; None for the link's mean.
            max_bytes: Length of the packet where it shall not fill the slot; others follow in it.

        Returns:
            The packet, or None: a transfer is under way, nothing is worth refining, the policy waits, or the
            slot carries too little for a packet.
        """
        if self._in_flight is not None or self._step >= self._scenario.num_steps:
            return None
        rate = self._scenario.link.mean_rate_bits if rate_bits is None else rate_bits
        mmse = float(self._policy.calibration.mmse[self._step])
        error = self._lack()
        hidden = _HIDDEN_SHARE * mmse if self._step > 0 else 0.0
        if error <= hidden:
            return None
        if self._last_slot < slot:
            self._last_slot = self._policy.last_slot(
                slot=slot, error=mmse + error, uplink_slots=self._uplink_slots
            )
            if self._last_slot < slot:
                return None
        fills = rate // 8
        horizon_bits = self._policy.horizon_bits(slot=slot, last_slot=self._last_slot, rate_bits=rate)
        if hidden > 0.0:
            # White numbers take the most bits of all with their energy.
            horizon_bits = min(horizon_bits, self._held.size * (1.0 + 0.5 * math.log2(error / hidden)))
        refined = make_packet(
            self._target,
            self._held,
            max_bytes=int(min(fills if max_bytes is None else max_bytes, self._scenario.latent_size * 4)),
            horizon_bits=horizon_bits,
            start=self._next_start,
            final=slot >= self._scenario.deadline_slots and (max_bytes is None or max_bytes >= fills),
            min_class=FINAL_MIN_CLASS if self._step == 0 else MIN_CLASS,
        )
        if refined is None or (left := _mean_square(self._target - refined.held)) >= error:
            return None
        self._refined = refined
        self._in_flight = Outgoing(
            data=refined.data,
            link_bits=8 * len(refined.data),
            step=self._step,
            reference_step=self._held_step,
            bits_per_dimension=8 * len(refined.data) / self._scenario.latent_size,
            expected_mse=mmse + left,
        )
        return refined.data

    def delivered(self, num_bytes: int | None = None) -> None:
        """Note that the packet under way has arrived, or its first bytes.

        Args:
            num_bytes: How many bytes arrived; None for all.

        Raises:
            ParameterError: If no transfer is under way.
        """
        refined, outgoing = self._finish()
        if num_bytes is not None and num_bytes < len(refined.data):
            refined = apply_packet(refined.data[:num_bytes], self._held)
        self._held, self._next_start = refined.held, refined.next_start
        self._held_step, self._known_lack = outgoing.step, None

    def lost(self) -> None:
        """Note that nothing of the packet under way will arrive: the device holds what it held.

        Raises:
            ParameterError: If no transfer is under way.
        """
        self._finish()

    def _lack(self) -> float:
        """Mean square of what the device lacks of the target; asked for more often than it changes."""
        if self._known_lack is None:
            self._known_lack = _mean_square(self._target - self._held)
        return self._known_lack

    def _finish(self) -> tuple[Refined, Outgoing]:
        if self._refined is None or self._in_flight is None:
            raise ParameterError("no transfer is under way; poll must have returned a packet")
        refined, outgoing = self._refined, self._in_flight
        self._refined = self._in_flight = None
        return refined, outgoing


class ProgressiveReceiver:
    """Holds coefficients, refines them with packets, and turns them into a latent when one is to be shown.

    It knows nothing of the generator: only the latent's shape. Before the first packet it holds zeros.

    Args:
        latent_shape: (channels, height, width).

    Example:
        >>> receiver = ProgressiveReceiver((4, 8, 8))
        >>> receiver.latent.shape, float(abs(receiver.latent).max())
        ((4, 8, 8), 0.0)
        >>> receiver.receive(b"?")
        Traceback (most recent call last):
        ...
        latentcast.errors.PacketError: a packet of 1 bytes is shorter than its header
    """

    def __init__(self, latent_shape: LatentShape) -> None:
        self._bands = Bands(latent_shape)
        self._held = np.zeros(self._bands.size, np.float32)

    @property
    def coefficients(self) -> FloatArray:
        """What is held, float32 (M,), in scan order."""
        return self._held

    @property
    def latent(self) -> FloatArray:
        """The latent that the device holds, float32 (channels, height, width)."""
        return self._bands.inverse(self._held)

    def receive(self, data: bytes) -> None:
        """Refine what is held with a packet, or with the part of one that arrived.

        Args:
            data: Any bytes.

        Raises:
            PacketError: If the bytes are no valid packet; what is held stays as it was.
        """
        self._held = apply_packet(data, self._held).held


def _mean_square(values: FloatArray) -> float:
    exact = values.astype(np.float64)
    return float(exact @ exact) / exact.size
