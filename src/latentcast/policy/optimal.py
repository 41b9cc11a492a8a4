"""The exact optimum of the paper's codec under its own model, compiled into tables.

A transfer that starts in slot n brings the device to t = t(n) with D_total(t, t_p, b), whatever it held
before; only if the deadline cuts it off, the held distortion D stays. With F_b(k) the probability that a
transfer of b bits per dimension takes more than k slots, an idle channel in slot n is worth

    V(n, t_p, D) = min(D, min over n' >= n and b of W(n', t_p, b) + F_b(T_d - n' + 1) D),
    W(n, t_p, b) = sum over N of P(N slots) V(n + N, t(n), D_total(t(n), t_p, b)),

because waiting changes nothing but the slot and the newest step. D itself is one of finitely many numbers,
D_total(t_p, t_pp, b) of the refinement that the device holds, so a table over (slot, t_p, t_pp, b) is exact.
References are solved from t = 0 upwards: a transfer leads to a lower one only. `docs/limits.md` has the
derivation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.policy.distortion import (
    DistortionBase,
    base_distortion,
    diffusion_distortion,
    total_distortion,
)
from latentcast.scenario import Scenario

__all__ = ["OptimalPolicy", "OptimalTable", "solve"]

FloatArray: TypeAlias = NDArray[np.float64]

WAIT_INDEX = 0

# Beyond this a table is no longer quick; the paper's scenario needs 6 MB.
MAX_TABLE_BYTES = 1 << 30

# Uploads rarer than this change no digit of an expectation.
RARE = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimalTable:
    """Solution of the decision problem from the end of the upload on.

    Attributes:
        actions: 0 for waiting, i + 1 for level i; uint8, shape (slots, T + 1, T + 1, levels), by slot after
            the upload, t_p, and the reference and level of the refinement that brought the device to t_p.
        start: expected distortion at the deadline, of a device that holds noise when the upload ends.
    """

    actions: NDArray[np.uint8]
    start: float


def solve(distortions: FloatArray, within: FloatArray) -> OptimalTable:
    """Solve the finite-horizon decision problem by backward induction.

    Args:
        distortions: distortion at t after a refinement from t_p with a level, shape (T + 1, T + 1, levels)
            by t, t_p and level; where t_p <= t, that of holding x_t in another way (at T: of noise).
        within: probability that a transfer takes at most 1..S slots, S the slots between upload and deadline;
            shape (levels, S), not falling along S.

    Returns:
        The table; S rows of actions.

    Example:
        >>> D = np.array([[[0.0], [0.0]], [[1.0], [1.0]]])
        >>> table = solve(D, np.array([[0.25, 0.5, 1.0]]))  # x_0 is there in the second slot
        >>> table.start, table.actions[:, 1, 1, 0].tolist()
        (0.5, [0, 1, 1])
    """
    num_steps, num_slots = len(distortions) - 1, within.shape[1]
    padded = np.pad(within, ((0, 0), (1, 0)))
    taken = np.diff(padded, axis=1).T
    rows = np.arange(num_slots)
    steps = np.maximum(num_steps - rows, 0)
    unfinished = 1.0 - padded[:, num_slots - rows].T

    values = np.empty((num_steps + 1, num_slots + 1, *distortions.shape[1:]))
    actions = np.zeros((num_slots, *distortions.shape), dtype=np.uint8)
    # P(N slots) by first row, first idle row afterwards, and level.
    wait = np.arange(num_slots + 1) - rows[:, None]
    arrival = np.where((wait > 0)[..., None], taken[np.maximum(wait, 1) - 1], 0.0)
    for reference in range(num_steps + 1):
        held, value = distortions[reference], values[reference]
        value[:] = held
        (asked,) = np.nonzero(steps < reference)
        if asked.size == 0:
            continue
        after = values[steps[asked], :, reference]
        completed = np.einsum("nmb,nmb->nb", arrival[asked], after)
        # By slot, what is held (two axes), and level; the fewest bits come first among equals.
        now = completed[:, None, None] + unfinished[asked, None, None] * held[..., None]
        level = now.argmin(axis=-1)
        best = np.take_along_axis(now, level[..., None], axis=-1)[..., 0]
        value[asked] = best
        value[:] = np.minimum.accumulate(value[::-1])[::-1]
        useful = (best <= value[asked + 1]) & (best < held)
        actions[asked, reference] = np.where(useful, level + 1, WAIT_INDEX)
    return OptimalTable(actions=actions, start=float(values[num_steps, 0, num_steps, 0]))


@dataclass(frozen=True)
class OptimalPolicy:
    """Least expected D_total at the deadline over all policies that know the law of the rates but no rate.

    The law of a transfer's slots is that of true per-slot waterfilling (`RateLaw`). Where transmitting is as
    good as a later start it transmits now, with the fewest bits; what gains nothing is not sent. The best
    decision depends on what the device keeps if the deadline cuts a transfer off: an observation without
    `held_reference_step` and `held_bits` is decided as if it held x_tp without quantisation error, which
    costs nothing at the paper's levels of 3 bits and more, but much at 1 or 2 bits.

    The first decision after an upload of new length compiles its table (tens of milliseconds in the paper's
    scenario, once the link's law is prepared); any other is a look-up.

    Attributes:
        scenario: the setting.
        base: D_base of the distortion model; see `base_distortion`.

    Raises:
        ParameterError: if base is unknown.

    Example:
        >>> policy = OptimalPolicy(Scenario.paper(snr_db=0.0))
        >>> policy.decide(Observation(slot=30, step=22, reference_step=50, uplink_slots=2))
        Wait()
    """

    scenario: Scenario
    base: DistortionBase = "panter-dite"

    def __post_init__(self) -> None:
        base_distortion(1, self.base)

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return "optimal"

    def decide(self, observation: Observation) -> Action:
        """The action in a slot in which the channel is idle; t(n) is taken from observation.step.

        Raises:
            ParameterError: if the slot is below 1, a step is outside 0..T, held_bits is not one of the
                scenario's levels, or the table would be too large.
        """
        num_steps = self.scenario.num_steps
        step, reference = observation.step, observation.reference_step
        for name, value in (("step", step), ("reference_step", reference)):
            if not 0 <= value <= num_steps:
                raise ParameterError(f"{name} is {value}; it must be 0..{num_steps}")
        if observation.slot < 1:
            raise ParameterError(f"slot is {observation.slot}; slots count from 1")
        left = self.scenario.deadline_slots - observation.slot + 1
        if left < 1 or step >= reference:
            return self._actions[WAIT_INDEX]
        # Slots before x_0 follow from the step, so that a server that lags is decided for as it stands; how
        # long x_0 has been there changes nothing, and the upload's own table has those slots.
        row = num_steps - step
        if step == 0:
            row = max(row, self.scenario.deadline_slots - observation.uplink_slots - left)
        held, level = reference, 0
        if observation.held_reference_step is not None and observation.held_bits is not None:
            held = observation.held_reference_step
            level = self._level(observation.held_bits) if held > reference else 0
            if not 0 <= held <= num_steps:
                raise ParameterError(f"held_reference_step is {held}; it must be 0..{num_steps}")
        return self._actions[int(self._table(row + left).actions[row, reference, held, level])]

    def expected_distortion(self) -> float:
        """Mean D_total at the deadline, over the upload and all transfers; no policy has less."""
        deadline = self.scenario.deadline_slots
        uploaded = self._law.transfer_slots_cdf(self.scenario.uplink_bits, deadline)
        chances = np.diff(uploaded, prepend=0.0)
        nothing = float(diffusion_distortion(self.scenario.path, self.scenario.num_steps))
        expected = nothing * float(1.0 - uploaded[-1])
        for slots, chance in enumerate(chances.tolist(), start=1):
            if chance > RARE:
                value = self._table(deadline - slots).start if slots < deadline else nothing
                expected += chance * value
        return expected

    def _level(self, bits: int) -> int:
        if bits not in self.scenario.bit_levels:
            raise ParameterError(f"held_bits is {bits!r}; it must be one of {self.scenario.bit_levels}")
        return self.scenario.bit_levels.index(bits)

    def _table(self, num_slots: int) -> OptimalTable:
        """The table for a number of slots between upload and deadline."""
        table = self._tables.get(num_slots)
        if table is None:
            table = self._tables[num_slots] = solve(self._distortions, self._within(num_slots))
        return table

    def _within(self, num_slots: int) -> FloatArray:
        size = self._distortions.nbytes * (num_slots + 1)
        if size > MAX_TABLE_BYTES:
            raise ParameterError(
                f"{self.scenario.num_steps} steps and {num_slots} slots need a table of "
                f"{size / 2**30:.1f} GiB; the optimal policy takes at most {MAX_TABLE_BYTES / 2**30:g}"
            )
        sizes = [float(self.scenario.latent_size) * bits for bits in self.scenario.bit_levels]
        return np.stack([self._law.transfer_slots_cdf(bits, num_slots) for bits in sizes])

    @cached_property
    def _actions(self) -> tuple[Action, ...]:
        return (Wait(), *(Transmit(bits) for bits in self.scenario.bit_levels))

    @cached_property
    def _tables(self) -> dict[int, OptimalTable]:
        return {}

    @cached_property
    def _law(self) -> RateLaw:
        return RateLaw.prepare(self.scenario.link)

    @cached_property
    def _distortions(self) -> FloatArray:
        """D_total by t, t_p and level; D_diff(t), of holding x_t itself, where t_p is not above t."""
        path, levels = self.scenario.path, self.scenario.bit_levels
        steps = np.arange(path.num_steps + 1)
        table = np.empty((steps.size, steps.size, len(levels)))
        table[:] = diffusion_distortion(path, steps)[:, None, None]
        step, reference = np.nonzero(steps[:, None] < steps)
        for index, bits in enumerate(levels):
            table[step, reference, index] = total_distortion(path, step, reference, bits, base=self.base)
        return table
