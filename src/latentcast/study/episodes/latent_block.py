"""Episodes at latent level: real packets of recorded trajectories, and the pictures that they leave.

Every episode is a request as `deliver` runs it, bytes included. It means what it means to `model_block`: the
same columns, and on the same rates the same transfers in the same slots; only the error is measured on the
latent instead of predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from latentcast.delivery.deliver import deliver
from latentcast.delivery.timeline import Decode, Timeline, Transmission
from latentcast.diffusion.source import FloatArray, Trajectory
from latentcast.errors import ParameterError
from latentcast.policy.catalog import Scheme
from latentcast.policy.distortion import diffusion_distortion
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario
from latentcast.study.episodes.columns import EpisodeColumns
from latentcast.study.episodes.model_block import predicted_slots
from latentcast.study.metrics.catalog import PictureMetric

__all__ = ["Trajectories", "latent_block"]

Row: TypeAlias = dict[str, float]

# A decoder's intermediate results of one 512 x 512 picture take about 1 GB.
PICTURES_AT_ONCE = 8


class Trajectories(Protocol):
    """Recorded runs to draw from, such as a `Recording`."""

    @property
    def num_items(self) -> int:
        """How many there are."""

    def trajectory(self, index: int) -> Trajectory:
        """One of them, 0..num_items - 1."""


def latent_block(
    scenario: Scenario,
    policies: Sequence[Scheme],
    rates_bits: ArrayLike,
    trajectories: Trajectories,
    *,
    metrics: Sequence[PictureMetric] = (),
    decode: Decode | None = None,
    first_episode: int = 0,
) -> list[EpisodeColumns]:
    """Run episodes with real packets, all policies on the same rates and trajectories.

    Episode i delivers trajectory i mod num_items. Each trajectory is read once, and is the only one in
    memory. Policies and rates that make the same transfers of the same trajectory leave the same latent,
    which is decoded and scored once.

    Args:
        scenario: The setting; its latent size is the trajectories'.
        policies: What to compare.
        rates_bits: Bits per slot of every episode, shape (episodes, deadline_slots).
        trajectories: What is delivered.
        metrics: How to score the picture shown at the deadline against that of x_0; none skips decoding.
        decode: Latents to pictures; needed with metrics only.
        first_episode: Number of the first episode.

    Returns:
        One block of columns per policy, in their order; latent_mse is measured against the trajectory's x_0.

    Raises:
        ParameterError: If the arguments do not fit each other.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> from latentcast.policy.baselines import PersistentPolicy
        >>> class Recorded:
        ...     num_items = 2
        ...
        ...     def trajectory(self, index):
        ...         return Trajectory.record(GaussianSource((4, 8, 8), scenario.path), "", seed=index)
        >>> scenario = Scenario.for_latent(256, snr_db=10.0)
        >>> rates = scenario.link.sample(3, scenario.deadline_slots, rng=np.random.default_rng(0))
        >>> (block,) = latent_block(scenario, [PersistentPolicy(scenario, bits=4)], rates, Recorded())
        >>> block.values["held_step"].tolist(), block.values["latent_mse"].max() < 0.1
        ([2, 1, 1], np.True_)
    """
    rates = np.asarray(rates_bits, np.float64)
    if rates.ndim != 2 or rates.shape[1] != scenario.deadline_slots or not len(rates):
        raise ParameterError(
            f"rates_bits has shape {rates.shape}; it must be (episodes, {scenario.deadline_slots}), "
            "with one episode at least"
        )
    if trajectories.num_items < 1:
        raise ParameterError("there are no trajectories; record at least one")
    if metrics and decode is None:
        raise ParameterError(f"metric {metrics[0].name} compares pictures; give a decoder")
    reading = _Reading(scenario)
    count, items = len(rates), trajectories.num_items
    rows: list[list[Row]] = [[{} for _ in range(count)] for _ in policies]
    for item in range(items):
        episodes = range((item - first_episode) % items, count, items)
        if not episodes:
            continue
        trajectory = trajectories.trajectory(item)
        pictures = _Pictures()
        for policy, made in zip(policies, rows, strict=True):
            for index in episodes:
                timeline = deliver(trajectory, scenario, policy, rates_bits=rates[index])
                made[index] = reading.row(timeline, policy)
                if metrics:
                    pictures.add(timeline, made[index])
        if metrics and decode is not None:
            pictures.score(trajectory.samples[0], metrics, decode)
    numbers = np.arange(first_episode, first_episode + count)
    return [
        EpisodeColumns(
            snr_db=scenario.snr_db,
            policy=policy.name,
            values={"episode": numbers, **{name: np.array([row[name] for row in made]) for name in made[0]}},
        )
        for policy, made in zip(policies, rows, strict=True)
    ]


class _Reading:
    """What the table says of an episode, with the predictions of the scenario's models."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._predicted_slots: list[int] = predicted_slots(scenario).tolist()
        self._noise = float(diffusion_distortion(scenario.path, scenario.num_steps))

    def row(self, timeline: Timeline, policy: Scheme) -> Row:
        """One episode's row, without the columns that number it."""
        after = self._scenario.deadline_slots + 1
        arrived = _arrived(timeline)
        judged = [
            (predicted, (sent.arrived_slot or after) - sent.slot + 1)
            for sent in timeline.transmissions
            if sent.slot + (predicted := self._slots(sent)) <= after
        ]
        return {
            "uplink_slots": timeline.uplink_slots or after,
            "latent_mse": timeline.latent_mse,
            "held_step": timeline.held[-1].step,
            "first_slot": timeline.held[1].slot if arrived else 0,
            "transmissions": len(timeline.transmissions),
            "bits_sent": sum(sent.link_bits for sent in arrived),
            "predicted_mse": arrived[-1].expected_mse if arrived else self._nothing(policy),
            "judged_transfers": len(judged),
            "quantile_slots": sum(predicted for predicted, _ in judged),
            "actual_slots": sum(actual for _, actual in judged),
            "late_transfers": sum(actual > predicted for predicted, actual in judged),
        }

    def _nothing(self, policy: Scheme) -> float:
        """The predicted error of a device that has got nothing: it holds noise, or by our codec zeros."""
        return float(policy.calibration.mmse[-1]) if isinstance(policy, ProgressivePolicy) else self._noise

    def _slots(self, sent: Transmission) -> int:
        """The predicted slots of a transfer; a packet made for a slot takes that one."""
        whole = isinstance(sent.bits_per_dimension, int)
        return self._predicted_slots[int(sent.bits_per_dimension)] if whole else 1


class _Pictures:
    """The distinct latents that one trajectory left at the deadline, and the rows that they belong to."""

    def __init__(self) -> None:
        self._latents: list[FloatArray] = []
        self._rows: dict[bytes, list[Row]] = {}

    def add(self, timeline: Timeline, row: Row) -> None:
        """Note an episode's row; equal transfers leave equal latents, to the last bit."""
        latent = timeline.held[-1].latent
        if (key := latent.tobytes()) not in self._rows:
            self._rows[key] = []
            self._latents.append(latent)
        self._rows[key].append(row)

    def score(self, final_latent: FloatArray, metrics: Sequence[PictureMetric], decode: Decode) -> None:
        """Decode, in batches, and write every score into its rows."""
        groups = list(self._rows.values())
        wanted = decode(final_latent[None])
        for start in range(0, len(groups), PICTURES_AT_ONCE):
            shown = decode(np.stack(self._latents[start : start + PICTURES_AT_ONCE]))
            reference = np.broadcast_to(wanted, shown.shape)
            for metric in metrics:
                for rows, score in zip(groups[start:], metric(reference, shown).tolist(), strict=False):
                    for row in rows:
                        row[metric.kind.column] = score


def _arrived(timeline: Timeline) -> list[Transmission]:
    return [sent for sent in timeline.transmissions if sent.arrived_slot is not None]
