"""The paper's look-ahead policy (Section IV-C), compiled into tables.

With T_q(b) the predicted slots of a transfer of b bits per dimension and r = T_d - n the slots left, both
strategies depend on (r, t, t_p) alone, because every slot of waiting brings one more step until t = 0. Let
D1(r, t, t_p) be the best distortion of one transfer at any time from now on:

    D1(r, t, t_p) = min(D_total(t, t_p, b_max(r)), D1(r - 1, max(t - 1, 0), t_p)),

where b_max(r) is the largest b with T_q(b) <= r, and an infeasible term counts as infinite. Strategy 1 is D1
itself; its wait is 0 exactly when the first term is not the larger one. Strategy 2 sends x_t now with b bits
and then makes the best single transfer with x_t as its reference, D1(r - T_q(b), max(t - T_q(b), 0), t):
fewer bits leave every later start open that more bits do, so b* is always the lowest level.

With T + T_q(max B) slots left, every step down to t = 0 can still be sent at the highest level, and more
slots change nothing; for strategy 2 this holds once the first transfer is through. The tables end there.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError
from latentcast.link.latency import latency_quantile
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.policy.distortion import DistortionBase, base_distortion, total_distortion
from latentcast.scenario import Scenario

__all__ = ["LookaheadPolicy"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

WAIT_INDEX = 0


@dataclass(frozen=True)
class LookaheadPolicy:
    """Compares one transfer at the best time with one now and a refinement later (Section IV-C of the paper).

    Strategy 1 searches all waits tau for the least D_total(t(n + tau), t_p, b_max), strategy 2 all b and tau'
    for the least D_total(t(n + T_q(b) + tau'), t(n), b_max) of a later sample; b_max is the largest level
    whose predicted transfer satisfies n + T_q <= T_d, one slot stricter than the deadline needs. D2 <= D1
    transmits b*; else the policy transmits b_max if strategy 1 does not wait, and waits if it does or if
    nothing is feasible. Ties inside a search go to the earlier slot and to fewer bits.

    The first decision compiles the tables (milliseconds for the paper's scenario); any other is a look-up.

    Attributes:
        scenario: the setting, known to the policy with the link's ergodic statistics.
        base: D_base of the distortion model; see `base_distortion`.

    Raises:
        ParameterError: if base is unknown.

    Example:
        >>> policy = LookaheadPolicy(Scenario.paper(snr_db=0.0))
        >>> policy.decide(Observation(slot=32, step=20, reference_step=50, uplink_slots=1))
        Wait()
        >>> policy.decide(Observation(slot=33, step=19, reference_step=50, uplink_slots=1))
        Transmit(bits=3)
    """

    scenario: Scenario
    base: DistortionBase = "panter-dite"

    def __post_init__(self) -> None:
        base_distortion(1, self.base)

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return "lookahead"

    def decide(self, observation: Observation) -> Action:
        """The action in a slot in which the channel is idle; t(n) is taken from observation.step.

        Raises:
            ParameterError: if the slot is below 1 or a step is outside 0..T.
        """
        table = self._tables.get(observation.reference_step)
        if table is None:
            table = self._compile(observation.reference_step)
        step, remaining = observation.step, self.scenario.deadline_slots - observation.slot
        if not 0 <= step <= self.scenario.num_steps:
            raise ParameterError(f"step is {step}; it must be 0..{self.scenario.num_steps}")
        if remaining < 0:
            return self._actions[WAIT_INDEX]
        if observation.slot < 1:
            raise ParameterError(f"slot is {observation.slot}; slots count from 1")
        return self._actions[table[remaining if remaining < len(table) else -1][step]]

    @cached_property
    def _actions(self) -> tuple[Action, ...]:
        return (Wait(), *(Transmit(bits) for bits in self.scenario.bit_levels))

    @cached_property
    def _tables(self) -> dict[int, list[bytes]]:
        """For every reference step asked for: indices of actions, by slots left and step."""
        return {}

    @cached_property
    def transfer_slots(self) -> list[int]:
        """T_q(M b), the predicted slots of a transfer, of every bit level."""
        link, scenario = self.scenario.link, self.scenario
        return [
            latency_quantile(
                scenario.latent_size * bits, link.mean_rate_bits, link.std_rate_bits, scenario.quantile
            )
            for bits in scenario.bit_levels
        ]

    @cached_property
    def _rows(self) -> int:
        """Rows of a table: slots left from 0 to where more of them change no decision, T_d at most."""
        slots = self.transfer_slots
        return min(self.scenario.deadline_slots, slots[0] + self.scenario.num_steps + slots[-1] + 1)

    @cached_property
    def _best_levels(self) -> IntArray:
        """Index of b_max(r) by slots left r; -1 where no level is feasible."""
        slots = np.array(self.transfer_slots)
        return np.searchsorted(slots, np.arange(self._rows), side="right") - 1

    def _distortions(self, references: IntArray) -> FloatArray:
        """D_total by level, step and reference, infinite where the step is not below the reference.

        Shape (levels + 1, T + 1, references); index -1, where no level is feasible, is infinite throughout.
        """
        path, levels = self.scenario.path, self.scenario.bit_levels
        steps = np.arange(path.num_steps + 1)
        below = steps[:, None] < references
        step, reference = np.nonzero(below)
        table = np.full((len(levels) + 1, *below.shape), np.inf)
        for index, bits in enumerate(levels):
            table[index, step, reference] = total_distortion(
                path, step, references[reference], bits, base=self.base
            )
        return table

    @cached_property
    def _second_transfer(self) -> FloatArray:
        """D2 by slots left and step, shape (rows, T + 1); infinite where two transfers are infeasible."""
        num_steps = self.scenario.num_steps
        first = self.transfer_slots[0]
        steps = np.arange(num_steps + 1)
        later = np.maximum(steps - first, 0)
        distortions = self._distortions(steps)
        second = np.full((self._rows, num_steps + 1), np.inf)
        single = distortions[-1]
        for remaining, level in enumerate(self._best_levels[: max(second.shape[0] - first, 0)]):
            single = np.minimum(distortions[level], _one_slot_later(single))
            second[remaining + first] = single[later, steps]
        return second

    def _compile(self, reference_step: int) -> list[bytes]:
        """The table of one reference step."""
        num_steps = self.scenario.num_steps
        if isinstance(reference_step, bool) or not isinstance(reference_step, (int, np.integer)):
            raise ParameterError(
                f"reference_step is {reference_step!r}; it must be a whole number, 0..{num_steps}"
            )
        if not 0 <= reference_step <= num_steps:
            raise ParameterError(f"reference_step is {reference_step}; it must be 0..{num_steps}")
        distortions = self._distortions(np.array([reference_step]))[:, :, 0]
        # x_T is noise that the device has, and x_t >= t_p is no news: both wait.
        sendable = np.arange(num_steps + 1) < reference_step
        table = []
        later = distortions[-1]
        for second, level in zip(self._second_transfer, self._best_levels, strict=True):
            now, later = distortions[level], _one_slot_later(later)
            single = np.minimum(now, later)
            best = np.where(now <= later, level + 1, WAIT_INDEX)
            action = np.where(second <= single, 1, best)
            action[~sendable | np.isinf(single)] = WAIT_INDEX
            table.append(action.astype(np.uint8).tobytes())
            later = single
        self._tables[reference_step] = table
        return table


def _one_slot_later(single: FloatArray) -> FloatArray:
    """D1 one slot later, where step t has become max(t - 1, 0); the first axis is t."""
    return np.concatenate((single[:1], single[:-1]))
