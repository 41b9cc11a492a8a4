"""Example pictures of a study: what each policy's device would show at the deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from latentcast.delivery.deliver import deliver
from latentcast.delivery.timeline import Decode, Timeline
from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.policy.catalog import Scheme
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.latent_block import Trajectories

__all__ = ["ExampleEpisode", "ExamplePicture", "make_examples", "spread_snrs"]

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExamplePicture:
    """What one device showed at the deadline.

    Attributes:
        snr_db: Of its link.
        policy: Of its server.
        held_step: Step of the latent that it held.
        latent_mse: Of that latent.
        picture: uint8 (height, width, 3).
    """

    snr_db: float
    policy: str
    held_step: int
    latent_mse: float
    picture: Picture


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleEpisode:
    """One episode of a study at several SNRs under several policies.

    Attributes:
        episode: Its number.
        prompt: What was asked for.
        wanted: The picture of x_0, uint8 (height, width, 3).
        shown: One per SNR and policy, the SNR changing slowest.
    """

    episode: int
    prompt: str
    wanted: Picture
    shown: tuple[ExamplePicture, ...]


def spread_snrs(snrs_db: Sequence[float], count: int = 3) -> tuple[float, ...]:
    """SNRs of a grid to show examples at: the lowest, and others as far apart, without the highest.

    At the highest SNR everything arrives, and all pictures are the same.

    Example:
        >>> spread_snrs([0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]), spread_snrs([6.0, 0.0])
        ((0, 9, 21), (0.0, 6.0))
    """
    values = sorted(set(snrs_db))
    if len(values) <= count:
        return tuple(values)
    return tuple(values[round(index * (len(values) - 1) / count)] for index in range(count))


def make_examples(
    recording: Trajectories,
    scenario: Scenario,
    policies: Callable[[Scenario], Sequence[Scheme]],
    snrs_db: Sequence[float],
    *,
    decode: Decode,
    seed: int,
    episodes: Sequence[int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ExampleEpisode, ...]:
    """Run episodes of a study again, with the study's own channel draws, and decode what the devices held.

    Args:
        recording: The study's trajectories; episode i delivers number i modulo their count.
        scenario: The study's; its SNR is replaced.
        policies: Makes the policies of a scenario.
        snrs_db: SNRs to show.
        decode: The model's decoder.
        seed: The study's root seed.
        episodes: Which episodes.
        progress: Called with episodes done and in all.

    Returns:
        One per episode.

    Raises:
        ParameterError: If an argument is empty, an episode is negative, or trajectories and scenario do not
            fit.
    """
    if not snrs_db or not episodes or min(episodes) < 0 or recording.num_items < 1:
        raise ParameterError(
            f"examples need SNRs, episodes of 0 or more and a trajectory; got snrs_db {list(snrs_db)}, "
            f"episodes {list(episodes)} and {recording.num_items} trajectories"
        )
    made = []
    for done, episode in enumerate(episodes, start=1):
        trajectory = recording.trajectory(episode % recording.num_items)
        timelines: list[Timeline] = []
        for snr_db in snrs_db:
            setting = replace(scenario, snr_db=float(snr_db))
            rates = _rates(setting, seed, episode)
            timelines += [
                deliver(trajectory, setting, policy, rates_bits=rates) for policy in policies(setting)
            ]
        held = [timeline.held[-1] for timeline in timelines]
        pictures = decode(np.stack([trajectory.samples[0], *(item.latent for item in held)]))
        shown = tuple(
            ExamplePicture(
                snr_db=timeline.scenario.snr_db,
                policy=timeline.policy,
                held_step=item.step,
                latent_mse=item.latent_mse,
                picture=picture,
            )
            for timeline, item, picture in zip(timelines, held, pictures[1:], strict=True)
        )
        made.append(
            ExampleEpisode(episode=episode, prompt=trajectory.prompt, wanted=pictures[0], shown=shown)
        )
        if progress is not None:
            progress(done, len(episodes))
    return tuple(made)


def _rates(scenario: Scenario, seed: int, episode: int) -> npt.NDArray[np.float64]:
    block, row = divmod(episode, BLOCK_EPISODES)
    law = RateLaw.prepare(scenario.link)
    rates = episode_rates(law, scenario.deadline_slots, seed=seed, block=block, count=row + 1)
    return np.asarray(rates[row])
