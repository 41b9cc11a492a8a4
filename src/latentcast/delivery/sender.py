"""The server's side of one request, as a state machine without I/O or clock."""

from __future__ import annotations

import numpy as np

from latentcast.codec.packet import pack
from latentcast.codec.refinement import Refinement, encode_refinement
from latentcast.delivery.outgoing import Outgoing
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import ParameterError
from latentcast.policy.base import Observation, Policy, Transmit
from latentcast.policy.distortion import total_distortion
from latentcast.scenario import Scenario

__all__ = ["Sender"]


class Sender:
    """Keeps the newest sample, asks the policy in idle slots, and encodes against what the device holds.

    The loop is closed: the reference is the device's reconstruction, bit for bit, and not the sample itself.
    One transfer is under way at a time; the caller reports how it ended with `delivered` or `lost`.

    Args:
        scenario: What is fixed for the request.
        policy: Decides when, and how finely.
        initial_noise: x_T, float32 (channels, height, width), which the device derives from the same seed.
        uplink_slots: T_ul, slots that the prompt's upload took.
        path: Noise path of the samples; None for the scenario's.

    Raises:
        ParameterError: If noise and path do not fit the scenario.

    Example:
        >>> from latentcast.diffusion.source import shared_noise
        >>> from latentcast.policy.baselines import PersistentPolicy
        >>> scenario = Scenario.for_latent(256, snr_db=10.0)
        >>> noise = shared_noise(0, (4, 8, 8))
        >>> sender = Sender(scenario, PersistentPolicy(scenario, bits=3), noise, uplink_slots=1)
        >>> sender.poll(1) is None  # nothing has been generated yet
        True
        >>> sender.offer(Step(49, noise[None], noise[None]))
        >>> len(sender.poll(3)) >= 256 * 3 // 8
        True
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy,
        initial_noise: FloatArray,
        *,
        uplink_slots: int,
        path: NoisePath | None = None,
    ) -> None:
        path = scenario.path if path is None else path
        scenario.check_latent(initial_noise.size)
        if path.num_steps != scenario.num_steps:
            raise ParameterError(
                f"the scenario has {scenario.num_steps} steps, the source {path.num_steps}; "
                "give both the same number"
            )
        self._policy = policy
        self._path = path
        self._uplink_slots = uplink_slots
        self._sample = initial_noise
        self._step = path.num_steps
        self._reference = initial_noise
        self._reference_step = path.num_steps
        self._held: Refinement | None = None
        self._refinement: Refinement | None = None
        self._in_flight: Outgoing | None = None

    @property
    def step(self) -> int:
        """t(n), the step of the newest sample."""
        return self._step

    @property
    def reference_step(self) -> int:
        """t_p, the step of the latent that the device holds."""
        return self._reference_step

    @property
    def reference(self) -> FloatArray:
        """The latent that the device holds, float32 (channels, height, width)."""
        return self._reference

    @property
    def in_flight(self) -> Outgoing | None:
        """What is being transferred, None when the channel is idle."""
        return self._in_flight

    def offer(self, step: Step) -> None:
        """Take the newest sample; it replaces the one before.

        Args:
            step: A batch of one.

        Raises:
            ParameterError: If it is not a batch of one latent of the right shape, or not newer than the last.
        """
        if step.sample.shape != (1, *self._reference.shape):
            raise ParameterError(
                f"the step's sample has shape {step.sample.shape}; it must be {(1, *self._reference.shape)}"
            )
        # x_T is known already; a scheduler that redoes a step offers it twice.
        if step.index > self._step:
            raise ParameterError(f"step {step.index} came after step {self._step}; steps must fall towards 0")
        self._sample, self._step = step.sample[0], step.index

    def poll(self, slot: int, rate_bits: float | None = None) -> bytes | None:  # noqa: ARG002
        """Ask, at the beginning of a slot, for a packet to start sending.

        Args:
            slot: n, 1-based.
            rate_bits: What this slot carries; the paper's policies do not use it.

        Returns:
            The packet, or None: a transfer is under way, there is nothing newer than what the device holds,
            or the policy waits.

        Raises:
            ParameterError: If the policy asks for something that the codec does not offer.
        """
        if self._in_flight is not None or self._step >= self._reference_step:
            return None
        action = self._policy.decide(
            Observation(
                slot=slot,
                step=self._step,
                reference_step=self._reference_step,
                uplink_slots=self._uplink_slots,
                held_reference_step=None if self._held is None else self._held.reference_step,
                held_bits=None if self._held is None else self._held.bits,
            )
        )
        if not isinstance(action, Transmit):
            return None
        self._refinement = encode_refinement(
            self._sample,
            self._reference,
            path=self._path,
            step=self._step,
            reference_step=self._reference_step,
            bits=action.bits,
        )
        self._in_flight = Outgoing(
            data=pack(self._refinement),
            # Headers are free in the paper's model.
            link_bits=self._sample.size * action.bits,
            step=self._step,
            reference_step=self._reference_step,
            bits_per_dimension=action.bits,
            expected_mse=float(total_distortion(self._path, self._step, self._reference_step, action.bits)),
        )
        return self._in_flight.data

    def delivered(self) -> None:
        """Note that the packet under way has arrived: the device now holds its reconstruction.

        Raises:
            ParameterError: If no transfer is under way.
        """
        refinement = self._finish()
        self._reference = np.asarray(refinement.reconstruction)
        self._reference_step = refinement.step
        self._held = refinement

    def lost(self) -> None:
        """Note that the packet under way will not arrive: the device holds what it held.

        Raises:
            ParameterError: If no transfer is under way.
        """
        self._finish()

    def _finish(self) -> Refinement:
        if self._refinement is None:
            raise ParameterError("no transfer is under way; poll must have returned a packet")
        refinement, self._refinement, self._in_flight = self._refinement, None, None
        return refinement
