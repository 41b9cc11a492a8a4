"""Seeds, steps and recorded runs."""

import numpy as np
import pytest
from scipy import stats

from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Step, Trajectory, seed_stream, shared_noise
from latentcast.errors import ParameterError

PATH = NoisePath.stable_diffusion(10)


def test_shared_noise_is_golden() -> None:
    # Server and device must derive the same noise for ever.
    noise = shared_noise(0, (1, 1, 4))
    assert noise.dtype == np.float32
    assert noise.ravel().view(np.uint32).tolist() == [1074291156, 1079805268, 3155667079, 1059132695]


def test_shared_noise_is_standard_normal() -> None:
    noise = shared_noise(3, (4, 64, 64))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert np.array_equal(noise, shared_noise(3, (4, 64, 64)))
    assert not np.array_equal(noise, shared_noise(4, (4, 64, 64)))


def test_streams_of_a_seed_are_independent() -> None:
    draws = [
        np.random.default_rng(seed_stream(5, name)).standard_normal(4000)
        for name in ("noise", "sampler", "channel")
    ]
    correlation = np.asarray(np.corrcoef(draws))[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, None])
def test_bad_seed(seed: object) -> None:
    with pytest.raises(ParameterError, match="non-negative integer"):
        seed_stream(seed, "noise")  # type: ignore[arg-type]


def test_step_checks_its_arrays() -> None:
    good = np.zeros((1, 4, 8, 8), np.float32)
    with pytest.raises(ParameterError, match="float32"):
        Step(0, good.astype(np.float64), good)
    with pytest.raises(ParameterError, match="clean_estimate"):
        Step(0, good, good[:, :1])
    with pytest.raises(ParameterError, match="step index"):
        Step(-1, good, good)


def test_trajectory_replays_what_was_recorded() -> None:
    source = GaussianSource((2, 4, 4), PATH)
    seen: list[int] = []
    trajectory = Trajectory.record(source, "p", seed=9, progress=lambda step: seen.append(step.index))
    assert seen == list(range(10, -1, -1))
    assert (trajectory.prompt, trajectory.seed, trajectory.path) == ("p", 9, PATH)
    assert trajectory.latent_shape == (2, 4, 4)
    for replayed, step in zip(trajectory.steps(), source.steps(["p"], [9]), strict=True):
        assert replayed.index == step.index
        assert np.array_equal(replayed.sample, step.sample)
        assert np.array_equal(replayed.clean_estimate, step.clean_estimate)


def test_trajectory_checks_its_arrays() -> None:
    good = np.zeros((11, 1, 4, 4), np.float32)
    with pytest.raises(ParameterError, match="needs 11"):
        Trajectory(samples=good[1:], clean_estimates=good[1:], prompt="", seed=0, path=PATH)
    with pytest.raises(ParameterError, match="clean_estimates"):
        Trajectory(samples=good, clean_estimates=good[1:], prompt="", seed=0, path=PATH)
