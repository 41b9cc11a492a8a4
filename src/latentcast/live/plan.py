"""Passes over a live link: the progressive policy, asked anew as the rate and the pace of denoising change.

`ProgressivePolicy` plans for one mean rate and one T_ul. Here both move, and what counts is how many slots
are left and how far denoising is: a lag of the denoiser is a later T_ul. So the policy is taken for the
nearest of few rates and lags, from a cache that all sessions share. Where a deadline has very many slots, the
plan counts several of them as one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from latentcast.codec.calibration import Calibration
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

__all__ = ["LivePlan"]

MAX_PLANNED_SLOTS = 96
RATES_PER_OCTAVE = 4
EXACT_LAGS = 16
# Slots before the first step in the policies' own count; Scenario wants three slots at least.
_UPLINK = 2
# What a packet's header and its cut end cost, in bits; as in the policy.
_PACKET_BITS = 40.0
# By how many of the planned rates an estimate may be off before another one is taken.
_STICKY = 0.8
# Bits per number that leave less than anyone may want.
_WHOLE_BITS = 16.0
# Of what slots to come are estimated to carry, a pass counts on so much: a pass that ends a little early is
# hardly coarser, one that does not end is incomplete.
_CERTAIN_SHARE = 0.85


class LivePlan:
    """Plans the passes of one session; a `PassPlan` for `ProgressiveSender`.

    Its slots count up to `last`, the one that ends at the deadline; each is `steps_per_slot` denoising steps
    long.

    Args:
        calibration: The model's, for T steps.
        latent_size: M.
        deadline_slots: Denoising steps that fit before the deadline.

    Attributes:
        calibration: As given.
        steps_per_slot: Denoising steps that the plan counts as a slot.
        last: Number of the last slot.

    Example:
        >>> from latentcast.diffusion.path import NoisePath
        >>> plan = LivePlan(Calibration.white(NoisePath.stable_diffusion(50)), 16384, deadline_slots=60)
        >>> plan.observe(step=0, mean_bits=4000.0, packet_bits=2000.0)
        >>> plan.last_slot(slot=53, error=0.05, uplink_slots=0)  # x_0 is there: one pass until the deadline
        60
    """

    def __init__(self, calibration: Calibration, latent_size: int, *, deadline_slots: int) -> None:
        self.calibration = calibration
        self.steps_per_slot = max(1, math.ceil(deadline_slots / MAX_PLANNED_SLOTS))
        # A scenario has three slots at least; what lies before now does not matter.
        self.last = max(3, math.ceil(deadline_slots / self.steps_per_slot))
        self._latent_size = latent_size
        self._step = calibration.num_steps
        self._mean_bits: float | None = None
        self._packet_bits = 0.0
        self._index = -1

    def observe(self, *, step: int, mean_bits: float | None, packet_bits: float) -> None:
        """Note how things stand before the sender is asked.

        Args:
            step: t, the newest one.
            mean_bits: What a slot of the plan carries, None where nothing is known of the link: then every
                packet is a pass.
            packet_bits: What the next packet may be.
        """
        self._step, self._mean_bits, self._packet_bits = step, mean_bits, packet_bits

    def last_slot(self, *, slot: int, error: float, uplink_slots: int) -> int:  # noqa: ARG002
        """The slot in which a pass that begins now should end; the slot before this one to wait.

        Args:
            slot: n, up to `last`.
            error: Mean squared error of what the device holds.
            uplink_slots: Of no account: how far denoising is says it.
        """
        if self._mean_bits is None or slot >= self.last:
            return slot
        if self._mean_bits >= _WHOLE_BITS * self._latent_size:
            return slot  # a slot carries all that there is: every pass is one
        left = self.last - slot + 1
        steps_left = math.ceil(self._step / self.steps_per_slot)
        # Slots in which x_0 is there; how many more than are left does not matter once it is.
        lag = _nearest(left - steps_left) if steps_left > 0 else _above(left)
        policy = _policy(self.calibration, self.steps_per_slot, self._latent_size, lag, self._rate_index())
        num_slots = math.ceil(self.calibration.num_steps / self.steps_per_slot)
        begin = (
            num_slots - steps_left + 1 + _UPLINK if steps_left > 0 else num_slots + lag + _UPLINK - left + 1
        )
        length = policy.last_slot(slot=begin, error=error, uplink_slots=_UPLINK) - begin + 1
        return slot - 1 + min(length, left)

    def _rate_index(self) -> int:
        """Which of the planned rates is near; the last one as long as it is, so that few are planned."""
        exact = RATES_PER_OCTAVE * math.log2(max(self._mean_bits or 0.0, 1.0))
        if abs(exact - self._index) > _STICKY:
            self._index = round(exact)
        return self._index

    def horizon_bits(self, *, slot: int, last_slot: int, rate_bits: float) -> float:
        """Net bits from now to the end of a pass, at least those of the packet to be made.

        Args:
            slot: n.
            last_slot: In which the pass ends.
            rate_bits: What is left of this slot.
        """
        to_come = (last_slot - slot) * max(_CERTAIN_SHARE * (self._mean_bits or 0.0) - _PACKET_BITS, 0.0)
        return max(rate_bits + to_come, self._packet_bits)


def _nearest(lag: int) -> int:
    """One of few whole numbers near another: exact where it is small, then four to an octave."""
    if abs(lag) <= EXACT_LAGS:
        return lag
    return int(math.copysign(round(2.0 ** (round(4.0 * math.log2(abs(lag))) / 4.0)), lag))


def _above(lag: int) -> int:
    """One of few whole numbers that is no less."""
    return lag if lag <= EXACT_LAGS else math.ceil(2.0 ** (math.ceil(4.0 * math.log2(lag)) / 4.0))


@lru_cache(maxsize=64)
def _coarse(calibration: Calibration, steps_per_slot: int) -> Calibration:
    """The calibration of every so many steps."""
    steps = np.append(np.arange(0, calibration.num_steps, steps_per_slot), calibration.num_steps)
    return Calibration(
        weights=calibration.weights[steps],
        mmse=calibration.mmse[steps],
        alpha_bar=calibration.alpha_bar[steps],
        latent_shape=calibration.latent_shape,
    )


@lru_cache(maxsize=1024)
def _scenario(latent_size: int, num_steps: int, lag: int) -> Scenario:
    """A request whose x_0 is there in the last `lag` slots."""
    slots = max(num_steps + lag + _UPLINK, 3)
    return Scenario.for_latent(latent_size, snr_db=0.0, num_steps=num_steps, deadline_slots=slots)


# A table of 60 slots takes 50 KB and a millisecond; a busy server asks for some hundred different ones.
@lru_cache(maxsize=1024)
def _policy(
    calibration: Calibration, steps_per_slot: int, latent_size: int, lag: int, rate_index: int
) -> ProgressivePolicy:
    """The policy for slots of so many steps, the last `lag` of which have x_0."""
    coarse = _coarse(calibration, steps_per_slot)
    scenario = _scenario(latent_size, coarse.num_steps, lag)
    return ProgressivePolicy(scenario, coarse, mean_rate_bits=2.0 ** (rate_index / RATES_PER_OCTAVE))
