"""The paper's system at model level: channel draws and its distortion formulas, without any latent.

This is the simulation behind the paper's Fig. 3a with its own model in place of the diffusion process: in
every episode the policy acts on drawn rates, and the device's latent at the deadline has the distortion of
eqs. 8-10.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError
from latentcast.link.latency import transfer_slots
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.base import Observation, Policy, Transmit, Wait
from latentcast.policy.distortion import DistortionBase, diffusion_distortion, total_distortion
from latentcast.scenario import Scenario

__all__ = ["ModelLevelResult", "model_level"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ModelLevelResult:
    """Analytic distortion at the deadline over many episodes.

    Attributes:
        mean: mean of D_total of what the device holds at the end of slot T_d.
        standard_error: standard error of the mean; 0 for a single episode.
        num_episodes: number of channel draws.
        seed: root seed of the draws.
        policy: the policy's name.
        distortions: one value per episode, float64, shape (num_episodes,), read-only.
    """

    mean: float
    standard_error: float
    num_episodes: int
    seed: int
    policy: str
    distortions: FloatArray = field(repr=False, compare=False)


def model_level(
    scenario: Scenario,
    policy: Policy,
    num_episodes: int = 1500,
    seed: int = 0,
    *,
    base: DistortionBase = "panter-dite",
) -> ModelLevelResult:
    """Mean distortion at the deadline, by the paper's own formulas (eqs. 8-10) on drawn channels.

    The channel draws depend on the scenario's link, its deadline and the seed alone, so they are common to
    all policies, and episode i is the same for any num_episodes. The upload occupies the first T_ul slots of
    the same channel; a transfer occupies it until M b bits are through, headers neglected, and counts if it
    completes by the end of slot T_d. The policy is asked in idle slots with a sample to send, t(n) < T and
    t(n) < t_p. A device that got nothing has D_diff(T) by the formula (eq. 9).

    Args:
        scenario: the setting.
        policy: any policy; asked once per distinct state of a slot.
        num_episodes: number of channel draws, 1 or more.
        seed: root seed, 0 or more.
        base: D_base in the reported distortion; see `base_distortion`. The policy has its own.

    Raises:
        ParameterError: if num_episodes, seed or base is out of range.

    Example:
        >>> from latentcast.policy import PersistentPolicy
        >>> scenario = Scenario.paper(snr_db=6.0)
        >>> result = model_level(scenario, PersistentPolicy(scenario, bits=3), num_episodes=200)
        >>> abs(result.mean - 0.0075) < 4 * result.standard_error + 1e-4
        True
    """
    for name, value, low in (("num_episodes", num_episodes, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ParameterError(f"{name} is {value!r}; it must be a whole number of at least {low}")
    (stream,) = np.random.SeedSequence(int(seed)).spawn(1)
    rates = scenario.link.sample(num_episodes, scenario.deadline_slots, rng=np.random.default_rng(stream))
    distortions = _final_distortions(scenario, policy, rates, base)
    distortions.flags.writeable = False
    spread = float(distortions.std(ddof=1)) / num_episodes**0.5 if num_episodes > 1 else 0.0
    return ModelLevelResult(
        mean=float(distortions.mean()),
        standard_error=spread,
        num_episodes=int(num_episodes),
        seed=int(seed),
        policy=policy.name,
        distortions=distortions,
    )


def _final_distortions(
    scenario: Scenario, policy: Policy, rates: FloatArray, base: DistortionBase
) -> FloatArray:
    """Run all episodes side by side, slot after slot; rates has shape (episodes, T_d)."""
    path, num_steps = scenario.path, scenario.num_steps
    uplink = uplink_slots(rates, scenario.uplink_bits)
    held = np.full(uplink.size, num_steps)
    distortion = np.full(uplink.size, diffusion_distortion(path, num_steps))
    # Of the transfer under way: its last slot, and what the device holds after it.
    busy_until = np.zeros_like(uplink)
    coming_step = held.copy()
    coming_distortion = distortion.copy()
    for slot in range(1, scenario.deadline_slots + 1):
        arrived = busy_until == slot - 1
        held[arrived] = coming_step[arrived]
        distortion[arrived] = coming_distortion[arrived]
        step = num_steps - np.clip(slot - uplink - 1, 0, num_steps)
        (asked,) = np.nonzero((busy_until < slot) & (step < held))
        bits = _decisions(policy, slot, step[asked], held[asked], uplink[asked])
        for level in np.unique(bits[bits > 0]).tolist():
            sent = asked[bits == level]
            slots = transfer_slots(rates[sent], float(scenario.latent_size * level), slot=slot)
            busy_until[sent] = slot + slots - 1
            coming_step[sent] = step[sent]
            coming_distortion[sent] = total_distortion(path, step[sent], held[sent], level, base=base)
    return np.where(busy_until == scenario.deadline_slots, coming_distortion, distortion)


def _decisions(policy: Policy, slot: int, step: IntArray, held: IntArray, uplink: IntArray) -> IntArray:
    """Bits to transmit per episode, 0 for waiting; every distinct state is asked once."""
    states, which = np.unique(np.stack((step, held, uplink), axis=1), axis=0, return_inverse=True)
    answers = np.zeros(len(states), dtype=np.int64)
    for index, (t, reference, upload) in enumerate(states.tolist()):
        action = policy.decide(Observation(slot=slot, step=t, reference_step=reference, uplink_slots=upload))
        if isinstance(action, Transmit):
            answers[index] = action.bits
        elif not isinstance(action, Wait):
            raise ParameterError(f"policy {policy.name} answered {action!r}; it must answer Wait or Transmit")
    return answers[which.reshape(-1)]
