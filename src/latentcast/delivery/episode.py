"""One episode in virtual time: source, link, policy and codec, slot by slot, up to the deadline.

The prompt's upload fills the first T_ul slots. Denoising starts in the slot after, one step per slot: x_t is
the newest sample in slot T_ul + T - t + 1. A transfer that starts in slot n and takes N slots can be used
from the end of slot n + N - 1, and the channel is idle again in slot n + N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.delivery.progressive import ProgressiveReceiver, ProgressiveSender
from latentcast.delivery.receiver import Receiver
from latentcast.delivery.sender import Sender
from latentcast.delivery.timeline import (
    Decode,
    HeldLatent,
    SlotRecord,
    Timeline,
    Transmission,
    carried_bits,
    latent_mse,
    psnr_db,
)
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import ParameterError
from latentcast.link.latency import transfer_slots
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.base import Policy
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

__all__ = ["Episode"]


@dataclass(frozen=True)
class _Transfer:
    """A transfer on its way: the packet, and when its last bit arrives."""

    slot: int
    arrival_slot: int
    packet: bytes


class Episode:
    """Runs sender and receiver over given rates, in step with the denoising that feeds it.

    Feed it every step with `advance`, then call `finish`. A slot is simulated as soon as the sample that is
    newest in it is known; after the deadline nothing counts any more, and steps are taken only to learn x_0.

    By the paper's policies the link is charged the M b bits of a refinement, not the packet's header, as in
    the paper; the record of a transmission gives the packet's real length. The progressive codec's packets
    are charged with every byte.

    Args:
        scenario: What is fixed.
        policy: Decides when, and how finely, and by which codec.
        initial_noise: x_T, float32 (channels, height, width).
        rates_bits: Bits that the link carries in each slot up to the deadline, shape (deadline_slots,).
        path: Noise path of the samples; None for the scenario's.

    Raises:
        ParameterError: If the arguments do not fit each other.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy | ProgressivePolicy,
        initial_noise: FloatArray,
        rates_bits: npt.ArrayLike,
        *,
        path: NoisePath | None = None,
    ) -> None:
        self._scenario = scenario
        self._policy = policy
        self._path = scenario.path if path is None else path
        self._rates_bits = np.asarray(rates_bits, np.float64)
        if self._rates_bits.shape != (scenario.deadline_slots,):
            raise ParameterError(
                f"rates_bits has shape {self._rates_bits.shape}; it must hold one rate for each of the "
                f"{scenario.deadline_slots} slots"
            )
        if not (np.all(np.isfinite(self._rates_bits)) and np.all(self._rates_bits >= 0.0)):
            raise ParameterError("rates_bits must be finite and not negative")
        self._uplink_slots = int(uplink_slots(self._rates_bits, scenario.uplink_bits))
        self._sender: Sender | ProgressiveSender
        self._receiver: Receiver | ProgressiveReceiver
        if isinstance(policy, ProgressivePolicy):
            channels, height, width = initial_noise.shape
            shape = (channels, height, width)
            self._sender = ProgressiveSender(scenario, policy, shape, uplink_slots=self._uplink_slots)
            self._receiver = ProgressiveReceiver(shape)
        else:
            self._sender = Sender(
                scenario, policy, initial_noise, uplink_slots=self._uplink_slots, path=self._path
            )
            self._receiver = Receiver(self._path, initial_noise)
        self._transfer: _Transfer | None = None
        self._transmissions: list[Transmission] = []
        self._held = [(0, self._path.num_steps, self._receiver.latent)]
        self._next_index = self._path.num_steps
        self._slot = 0
        self._final_latent: FloatArray | None = None

    @property
    def receiver(self) -> Receiver | ProgressiveReceiver:
        """The device."""
        return self._receiver

    @property
    def sender(self) -> Sender | ProgressiveSender:
        """The server."""
        return self._sender

    @property
    def slot(self) -> int:
        """The last slot that has been simulated; 0 before the first."""
        return self._slot

    def advance(self, step: Step) -> None:
        """Take the next step and simulate the slots that it decides.

        Args:
            step: A batch of one; t = T, T-1, ..., 0 in turn.

        Raises:
            ParameterError: If it is not the next step, or of another shape.
        """
        if step.index != self._next_index:
            raise ParameterError(f"got step {step.index}; the next one is {max(self._next_index, 0)}")
        self._sender.offer(step)
        self._next_index -= 1
        if step.index == 0:
            self._final_latent = step.sample[0]
        # x_0 stays the newest for ever; the slots after its first are left to `finish`.
        self._run_until(self._uplink_slots + self._path.num_steps - step.index + 1)

    def finish(
        self, *, prompt: str = "", model: str | None = None, seed: int = 0, decode: Decode | None = None
    ) -> Timeline:
        """Simulate the slots that are left and return the record.

        Args:
            prompt: For the record.
            model: For the record.
            seed: For the record.
            decode: Decoder for `psnr_db`.

        Returns:
            The timeline.

        Raises:
            ParameterError: If x_0 has not come yet.
        """
        if self._final_latent is None:
            raise ParameterError(
                f"step {self._next_index} has not come yet; advance through step 0 before finish"
            )
        final = self._final_latent
        deadline = self._scenario.deadline_slots
        self._run_until(deadline)
        if self._transfer is not None:
            self._sender.lost()
            self._transfer = None
        held = tuple(
            HeldLatent(slot=slot, step=step, latent=latent, latent_mse=latent_mse(latent, final))
            for slot, step, latent in self._held
        )
        held_by_slot = [[item for item in held if item.slot <= slot][-1] for slot in range(1, deadline + 1)]
        quality = None
        if decode is not None:
            shown, wanted = decode(np.stack([held[-1].latent, final]))
            quality = psnr_db(shown, wanted)
        return Timeline(
            prompt=prompt,
            model=model,
            policy=self._policy.name,
            seed=seed,
            scenario=self._scenario,
            uplink_slots=self._uplink_slots if self._uplink_slots <= deadline else None,
            transmissions=tuple(self._transmissions),
            slots=tuple(
                SlotRecord(slot=slot, held_step=item.step, latent_mse=item.latent_mse)
                for slot, item in enumerate(held_by_slot, start=1)
            ),
            latent_mse=held[-1].latent_mse,
            psnr_db=quality,
            bits_sent=sum(
                carried_bits(self._rates_bits, sent.slot, sent.link_bits, deadline)
                for sent in self._transmissions
            ),
            held=held,
            final_latent=final,
            rates_bits=self._rates_bits,
        )

    def _run_until(self, last_slot: int) -> None:
        while self._slot < min(last_slot, self._scenario.deadline_slots):
            self._slot += 1
            self._begin_slot(self._slot)
            self._end_slot(self._slot)

    def _begin_slot(self, slot: int) -> None:
        packet = self._sender.poll(slot, float(self._rates_bits[slot - 1]))
        outgoing = self._sender.in_flight
        if packet is None or outgoing is None:
            return
        slots = transfer_slots(self._rates_bits, float(outgoing.link_bits), slot=slot)
        arrival_slot = slot + int(slots) - 1
        self._transfer = _Transfer(slot, arrival_slot, packet)
        self._transmissions.append(
            Transmission(
                slot=slot,
                step=outgoing.step,
                reference_step=outgoing.reference_step,
                bits_per_dimension=outgoing.bits_per_dimension,
                bytes=len(packet),
                link_bits=outgoing.link_bits,
                expected_mse=outgoing.expected_mse,
                arrived_slot=arrival_slot if arrival_slot <= self._scenario.deadline_slots else None,
            )
        )

    def _end_slot(self, slot: int) -> None:
        if self._transfer is None or self._transfer.arrival_slot != slot:
            return
        self._receiver.receive(self._transfer.packet)
        self._sender.delivered()
        self._transfer = None
        self._held.append((slot, self._sender.reference_step, self._receiver.latent))
