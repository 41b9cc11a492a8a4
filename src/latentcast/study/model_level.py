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
from latentcast.link.law import RateLaw
from latentcast.policy.base import Policy
from latentcast.policy.distortion import DistortionBase, base_distortion
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.model_block import model_block
from latentcast.study.episodes.tables import PolicyTable

__all__ = ["ModelLevelResult", "model_level"]

FloatArray: TypeAlias = NDArray[np.float64]


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

    The episodes are those of `episode_rates` and `model_block`, the same as a study's of this seed: common to
    all policies, and episode i is the same for any num_episodes.

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
    base_distortion(1, base)
    law = RateLaw.prepare(scenario.link)
    table = PolicyTable.of(scenario, policy)
    distortions = np.empty(num_episodes)
    for first in range(0, num_episodes, BLOCK_EPISODES):
        rates = episode_rates(
            law,
            scenario.deadline_slots,
            seed=int(seed),
            block=first // BLOCK_EPISODES,
            count=min(BLOCK_EPISODES, num_episodes - first),
        )
        (block,) = model_block(scenario, [table], rates, base=base)
        distortions[first : first + len(block)] = block.values["latent_mse"]
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
