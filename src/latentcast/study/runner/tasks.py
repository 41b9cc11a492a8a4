"""The tasks of a study: which there are, and what one computes, wherever it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from latentcast.delivery.timeline import Decode
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.link.law import RateLaw
from latentcast.policy.catalog import Scheme
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.columns import EpisodeColumns
from latentcast.study.episodes.latent_block import Trajectories, latent_block
from latentcast.study.episodes.model_block import model_block
from latentcast.study.episodes.tables import PolicyTable
from latentcast.study.limits import clairvoyant_distortion
from latentcast.study.metrics.catalog import PictureMetric, make_metric
from latentcast.study.recording.store import Recording
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.gaussian import GaussianRuns, gaussian_source
from latentcast.study.runner.knowledge import Knowledge
from latentcast.study.runner.schemes import make_schemes

__all__ = ["Job", "Task", "know", "latent_size", "run_task", "study_tasks"]

# Real packets take about a thousand times as long as formulas: a latent task is a part of a block. It must
# divide a block. Results do not depend on it, except through the batches in which pictures are decoded.
LATENT_EPISODES = 64

# Gaussian latents are as large as Stable Diffusion's, and few episodes tell their mean.
GAUSSIAN_EPISODES = 4


@dataclass(frozen=True, order=True)
class Task:
    """Some episodes of one block at one SNR, under every policy.

    Attributes:
        snr: Index into the study's SNRs.
        first_episode: Number of the first episode.
        episodes: How many; all in one block.
    """

    snr: int
    first_episode: int
    episodes: int

    @property
    def name(self) -> str:
        """Name of the task's part."""
        return f"{self.snr:04d}-{self.first_episode:012d}"


@dataclass(frozen=True)
class Job:
    """All that a worker needs for any task of a study; equal jobs share what they prepare.

    Attributes:
        configuration: The study as JSON.
        recording: Folder of the trajectories, absolute; None where nothing is recorded.
        knowledge: Of the recorded model, whose calibration need not be where a worker is; None for what
            follows from the configuration.
    """

    configuration: str
    recording: str | None
    knowledge: Knowledge | None = field(default=None, compare=False, repr=False)


def study_tasks(config: StudyConfig) -> Iterator[Task]:
    """The tasks in the order of the results: by SNR, then by episode."""
    size = BLOCK_EPISODES if config.fidelity == "model" else LATENT_EPISODES
    if config.gaussian_model is not None:
        size = GAUSSIAN_EPISODES
    for snr in range(len(config.link.snr_db if config.link else ())):
        for first in range(0, config.episodes, size):
            yield Task(snr, first, min(size, config.episodes - first))


def run_task(job: Job, task: Task) -> list[EpisodeColumns]:
    """Run one task; the result depends on the job and the task alone.

    Returns:
        One block of columns per policy, in the study's order.

    Raises:
        LatentcastError: If the recording is damaged, or a policy or metric fails.
    """
    return _bench(job).run(task)


@lru_cache(maxsize=1)
def _bench(job: Job) -> _Bench:
    return _Bench(job)


class _Bench:
    """A study set up in one process."""

    def __init__(self, job: Job) -> None:
        self.config = StudyConfig.model_validate_json(job.configuration)
        self.recording = None if job.recording is None else Recording.open(job.recording)
        self.knowledge = know(self.config, None) if job.knowledge is None else job.knowledge
        # Each SNR's policies keep their answers from task to task.
        self.setting: Callable[[int], tuple[Scenario, list[Any]]] = lru_cache(maxsize=64)(self._setting)

    def _setting(self, snr: int) -> tuple[Scenario, list[Any]]:
        config = self.config
        assert config.link is not None  # of any study with tasks
        scenario = config.scenario_at(config.link.snr_db[snr], latent_size(config, self.recording))
        schemes = make_schemes(config.policies, scenario, self.knowledge.calibration)
        return scenario, [_remembering(scenario, scheme) for scheme in schemes]

    @cached_property
    def trajectories(self) -> Trajectories:
        if self.recording is not None:
            return self.recording
        config = self.config
        assert config.trajectories is not None  # at latent level
        choice = config.trajectories
        seed = config.seed if choice.seed is None else choice.seed
        return GaussianRuns(_source(config), min(choice.count, config.episodes), seed=seed)

    @cached_property
    def metrics(self) -> list[PictureMetric]:
        return [make_metric(choice.name, **choice.options) for choice in self.config.metrics]

    @cached_property
    def decode(self) -> Decode:
        from latentcast.diffusion.pipeline import load_pipeline

        assert self.recording is not None
        assert self.config.trajectories is not None
        return load_pipeline(
            self.recording.model,
            self.config.trajectories.device,
            num_steps=self.recording.path.num_steps,
        ).decode

    def run(self, task: Task) -> list[EpisodeColumns]:
        config = self.config
        scenario, policies = self.setting(task.snr)
        block, row = divmod(task.first_episode, BLOCK_EPISODES)
        rates = episode_rates(
            RateLaw.prepare(scenario.link),
            scenario.deadline_slots,
            seed=config.seed,
            block=block,
            count=row + task.episodes,
        )[row:]
        bounds = {}
        if self.knowledge.statistics is not None:
            bounds["limit_mse"] = self.knowledge.statistics.limit(rates, scenario)
        if config.fidelity == "model":
            bounds["clairvoyant_mse"] = clairvoyant_distortion(scenario, rates)
            blocks = model_block(scenario, policies, rates, first_episode=task.first_episode)
        else:
            with _one_thread() if self.metrics else contextlib.nullcontext():
                blocks = latent_block(
                    scenario,
                    policies,
                    rates,
                    self.trajectories,
                    metrics=self.metrics,
                    decode=self.decode if self.metrics else None,
                    first_episode=task.first_episode,
                )
        return [block.adding(bounds) for block in blocks]


def know(config: StudyConfig, recording: Recording | None) -> Knowledge:
    """What a study knows of its source.

    Raises:
        LatentcastError: As `Knowledge.of_recording`.
    """
    if recording is not None:
        return Knowledge.of_recording(config, recording)
    if config.gaussian_model is not None:
        return Knowledge.of_gaussian(_source(config))
    return Knowledge.of_formulas(config.path)


def _source(config: StudyConfig) -> GaussianSource:
    assert config.gaussian_model is not None
    return gaussian_source(config.gaussian_model, latent_size(config, None), config.path)


def _remembering(scenario: Scenario, scheme: Scheme) -> Any:
    return scheme if isinstance(scheme, ProgressivePolicy) else PolicyTable.of(scenario, scheme)


def latent_size(config: StudyConfig, recording: Recording | None) -> int:
    """M of a study."""
    if recording is None:
        return config.scenario.latent_size or PAPER_LATENT_SIZE
    channels, height, width = recording.latent_shape
    return channels * height * width


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: with more, sums would depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
