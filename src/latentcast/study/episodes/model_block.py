"""One block of episodes at model level: the paper's distortion formulas in place of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.errors import ParameterError
from latentcast.link.latency import latency_quantile
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.base import Policy
from latentcast.policy.distortion import DistortionBase, diffusion_distortion, total_distortion
from latentcast.scenario import Scenario
from latentcast.study.episodes.columns import EpisodeColumns
from latentcast.study.episodes.tables import PolicyTable, newest_step

__all__ = ["model_block", "predicted_slots"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

# Slots beyond which a prediction is as good as never; keeps hopeless links within what the formula can count.
NEVER_SLOTS = 2.0**50


def model_block(
    scenario: Scenario,
    policies: Sequence[Policy],
    rates: FloatArray,
    *,
    first_episode: int = 0,
    base: DistortionBase = "panter-dite",
) -> list[EpisodeColumns]:
    """Run episodes side by side under every policy, on the same rates.

    The upload occupies the first T_ul slots; a transfer occupies the channel until M b bits are through,
    headers neglected, and counts if it completes by the end of slot T_d. A policy is asked in idle slots with
    a sample to send, t(n) < T and t(n) < t_p. What a device holds has the distortion of eqs. 8-10, and
    D_diff(T) (eq. 9) if it got nothing.

    Args:
        scenario: the setting.
        policies: any policies; a `PolicyTable` keeps its answers from block to block.
        rates: R_n in bits per slot, shape (episodes, T_d).
        first_episode: number of the first row's episode.
        base: D_base in the reported distortion; see `base_distortion`. A policy has its own.

    Returns:
        The columns of each policy, in order.

    Raises:
        ParameterError: if the rates have another shape, base is unknown or a policy's answer is no action.

    Example:
        >>> from latentcast.policy.baselines import FinalOnlyPolicy
        >>> scenario = Scenario(latent_size=10, num_steps=3, deadline_slots=6, uplink_bits=5, snr_db=0.0)
        >>> (block,) = model_block(scenario, [FinalOnlyPolicy(scenario)], np.array([[5.0, 0, 0, 0, 80, 80]]))
        >>> {name: block.values[name].item() for name in ("latent_mse", "first_slot", "bits_sent")}
        {'latent_mse': 0.0, 'first_slot': 6, 'bits_sent': 160.0}
    """
    if rates.ndim != 2 or rates.shape[1] != scenario.deadline_slots:
        raise ParameterError(
            f"rates has shape {rates.shape}; it must be (episodes, {scenario.deadline_slots}), one per slot"
        )
    uplink = uplink_slots(rates, scenario.uplink_bits)
    by_slot = np.ascontiguousarray(rates.T)
    predicted = predicted_slots(scenario)
    return [
        EpisodeColumns(
            snr_db=scenario.snr_db,
            policy=policy.name,
            values={
                "episode": first_episode + np.arange(uplink.size),
                "uplink_slots": uplink,
                **_run(scenario, PolicyTable.of(scenario, policy), by_slot, uplink, predicted, base),
            },
        )
        for policy in policies
    ]


def predicted_slots(scenario: Scenario) -> IntArray:
    """The paper's latency quantile T_q(M b) (eq. 11) by bits per dimension b = 0..16, int64, shape (17,).

    Any policy's transfers are judged by it: it is the link's ergodic normal law at the scenario's quantile.
    """
    link = scenario.link
    bits = np.minimum(
        float(scenario.latent_size) * np.arange(LOSSLESS_BITS + 1), link.mean_rate_bits * NEVER_SLOTS
    )
    slots = latency_quantile(bits, link.mean_rate_bits, link.std_rate_bits, scenario.quantile)
    return np.asarray(slots, dtype=np.int64)


def _run(
    scenario: Scenario,
    table: PolicyTable,
    by_slot: FloatArray,
    uplink: IntArray,
    predicted: IntArray,
    base: DistortionBase,
) -> dict[str, NDArray[np.generic]]:
    """All columns that depend on the policy; by_slot has shape (T_d, episodes)."""
    deadline, size = scenario.deadline_slots, float(scenario.latent_size)
    # What the device holds: its step, and the reference and bits of the refinement that brought it there.
    held = np.full(uplink.size, scenario.num_steps)
    held_reference = held.copy()
    held_bits = np.zeros_like(held)
    # Of the transfer under way: its first slot, step, bits per dimension (0 for none) and what is through.
    start, step, level = np.zeros_like(held), held.copy(), np.zeros_like(held)
    carried = np.zeros(uplink.size)
    first_slot, transmissions = np.zeros_like(held), np.zeros_like(held)
    judged, quantile_slots, actual_slots, late = (np.zeros_like(held) for _ in range(4))
    bits_sent = np.zeros(uplink.size)

    def judge(ended: IntArray, last_slot: int) -> None:
        expected, taken = predicted[level[ended]], last_slot - start[ended] + 1
        fair = start[ended] + expected - 1 <= deadline
        judged[ended] += fair
        quantile_slots[ended] += np.where(fair, expected, 0)
        actual_slots[ended] += np.where(fair, taken, 0)
        late[ended] += fair & (taken > expected)

    for slot, rates in enumerate(by_slot, start=1):
        newest = newest_step(scenario, slot, uplink)
        (asked,) = np.nonzero((level == 0) & (newest < held))
        if asked.size:
            answers = table.bits(slot, uplink[asked], held[asked], held_reference[asked], held_bits[asked])
            sent = asked[answers > 0]
            start[sent], step[sent], level[sent] = slot, newest[sent], answers[answers > 0]
            carried[sent] = 0.0
            transmissions[sent] += 1
        carried += rates
        (arrived,) = np.nonzero((level > 0) & (carried >= size * level))
        if arrived.size:
            judge(arrived, slot)
            first_slot[arrived] = np.where(held[arrived] == scenario.num_steps, slot, first_slot[arrived])
            bits_sent[arrived] += size * level[arrived]
            held_reference[arrived], held_bits[arrived] = held[arrived], level[arrived]
            held[arrived], level[arrived] = step[arrived], 0
    # A transfer that the deadline cut off takes one slot more at least.
    (open_transfers,) = np.nonzero(level > 0)
    judge(open_transfers, deadline + 1)

    distortion = _distortions(scenario, held, held_reference, held_bits, base)
    return {
        "latent_mse": distortion,
        "held_step": held,
        "first_slot": first_slot,
        "transmissions": transmissions,
        "bits_sent": bits_sent,
        "predicted_mse": distortion,
        "judged_transfers": judged,
        "quantile_slots": quantile_slots,
        "actual_slots": actual_slots,
        "late_transfers": late,
    }


def _distortions(
    scenario: Scenario, held: IntArray, reference: IntArray, bits: IntArray, base: DistortionBase
) -> FloatArray:
    """D_total (eq. 8) of what is held; bits is 0 where nothing arrived."""
    distortions = np.full(held.size, diffusion_distortion(scenario.path, scenario.num_steps))
    for level in np.unique(bits[bits > 0]).tolist():
        chosen = bits == level
        distortions[chosen] = total_distortion(
            scenario.path, held[chosen], reference[chosen], level, base=base
        )
    return distortions
