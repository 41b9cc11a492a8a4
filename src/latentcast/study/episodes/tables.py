"""Policies as integer tables: what a policy answers is asked once per state, whatever the episodes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.errors import ParameterError
from latentcast.policy.base import Action, Observation, Policy, Transmit, Wait
from latentcast.scenario import Scenario

__all__ = ["PolicyTable", "newest_step"]

IntArray: TypeAlias = NDArray[np.int64]


def newest_step(scenario: Scenario, slot: int, uplink_slots: IntArray) -> IntArray:
    """t(n), the step of the newest sample at the beginning of slot n; T while there is none.

    Denoising starts in the slot after the upload, one step per slot. int64, shape of uplink_slots.
    """
    return scenario.num_steps - np.clip(slot - uplink_slots - 1, 0, scenario.num_steps)


class PolicyTable:
    """A policy that remembers its answers; itself a policy, to be used again from block to block.

    A policy is a pure function of (n, t, t_p, T_ul) and of the refinement that the device holds, and t
    follows from n and T_ul. The table of a slot holds the states that episodes have reached so far, in order,
    and grows by those that are new.

    Args:
        scenario: the setting.
        policy: any policy; a table is taken over as it is.

    Example:
        >>> from latentcast.policy.baselines import PersistentPolicy
        >>> scenario = Scenario.paper(snr_db=0.0)
        >>> table = PolicyTable(scenario, PersistentPolicy(scenario, bits=4))
        >>> nothing = np.zeros(2, dtype=np.int64)
        >>> table.bits(4, np.array([2, 2]), np.array([50, 49]), nothing, nothing).tolist()
        [4, 0]
    """

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self._scenario = scenario
        self._policy = policy
        # Per slot: the states asked so far as mixed-radix numbers, rising, and the bits of the answers.
        self._slots: dict[int, tuple[IntArray, IntArray]] = {}

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        """Numbers of upload lengths, steps held, their references, and bits."""
        steps = self._scenario.num_steps + 1
        return self._scenario.deadline_slots + 2, steps, steps, LOSSLESS_BITS + 1

    @classmethod
    def of(cls, scenario: Scenario, policy: Policy) -> PolicyTable:
        """The table of a policy; of a table for the same scenario the table itself."""
        if isinstance(policy, PolicyTable) and policy._scenario == scenario:
            return policy
        return cls(scenario, policy)

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return self._policy.name

    def decide(self, observation: Observation) -> Action:
        """The policy's own action."""
        return self._policy.decide(observation)

    def bits(
        self,
        slot: int,
        uplink_slots: IntArray,
        held: IntArray,
        held_reference: IntArray,
        held_bits: IntArray,
    ) -> IntArray:
        """Bits per dimension to transmit in a slot, 0 for waiting.

        Args:
            slot: n.
            uplink_slots: T_ul of the episodes, int64, shape (episodes,).
            held: t_p of the episodes, int64, shape (episodes,); the newest sample must be below.
            held_reference: t_p of the refinement that the device holds, int64, shape (episodes,).
            held_bits: b of that refinement, 0..16; 0 for none yet, where its reference does not matter.

        Returns:
            int64, shape (episodes,).

        Raises:
            ParameterError: if the policy answers with anything but Wait or Transmit.
        """
        empty = np.empty(0, dtype=np.int64)
        states, answers = self._slots.get(slot, (empty, empty))
        wanted = np.ravel_multi_index(
            (uplink_slots, held, np.where(held_bits > 0, held_reference, 0), held_bits), self._shape
        )
        place = np.searchsorted(states, wanted)
        found = place < states.size
        found[found] = states[place[found]] == wanted[found]
        if not found.all():
            new = np.unique(wanted[~found])
            states = np.concatenate((states, new))
            answers = np.concatenate((answers, self._ask(slot, new)))
            order = np.argsort(states)
            states, answers = self._slots[slot] = states[order], answers[order]
            place = np.searchsorted(states, wanted)
        return answers[place]

    def _ask(self, slot: int, states: IntArray) -> IntArray:
        uplink, held, came_from, came_bits = np.unravel_index(states, self._shape)
        steps = newest_step(self._scenario, slot, uplink)
        answers = np.zeros(states.size, dtype=np.int64)
        for index, (step, reference, upload, before, bits) in enumerate(
            zip(*(part.tolist() for part in (steps, held, uplink, came_from, came_bits)), strict=True)
        ):
            action = self._policy.decide(
                Observation(
                    slot=slot,
                    step=step,
                    reference_step=reference,
                    uplink_slots=upload,
                    held_reference_step=before if bits else None,
                    held_bits=bits or None,
                )
            )
            if isinstance(action, Transmit):
                answers[index] = action.bits
            elif not isinstance(action, Wait):
                raise ParameterError(
                    f"policy {self.name} answered {action!r}; it must answer Wait or Transmit"
                )
        return answers
