"""Moments for the limit: exact for Gaussian sources, and measured ones agree with them."""

import numpy as np
import pytest

from latentcast.codec.calibration import Calibration
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import Trajectory
from latentcast.errors import ParameterError
from latentcast.link.rayleigh import uplink_slots
from latentcast.scenario import Scenario
from latentcast.study.limits import SourceStatistics, gaussian_mmse, sequential_limit

SCENARIO = Scenario.for_latent(1024, snr_db=0.0)
RATES = SCENARIO.link.sample(6, SCENARIO.deadline_slots, rng=np.random.default_rng(2))


def test_distinct_variances_are_the_whole_spectrum() -> None:
    source = GaussianSource.natural((4, 16, 16), SCENARIO.path)
    assert source.spectrum is not None
    everything = source.spectrum.reshape(-1)
    one_by_one = sequential_limit(
        RATES,
        latent_size=1024,
        uplink=np.asarray(uplink_slots(RATES, SCENARIO.uplink_bits)),
        mmse=gaussian_mmse(SCENARIO.path, everything),
        variances=everything,
    )
    statistics = SourceStatistics.gaussian(source)
    assert statistics.variances.size < everything.size
    assert statistics.limit(RATES, SCENARIO) == pytest.approx(one_by_one, rel=1e-3)
    # A shaped source needs less than a white one.
    assert (one_by_one < SourceStatistics.white(SCENARIO.path).limit(RATES, SCENARIO)).all()


def test_measured_moments_of_a_white_source_are_its_own() -> None:
    source = GaussianSource((4, 16, 16), SCENARIO.path)
    runs = (Trajectory.record(source, "", seed=seed) for seed in range(12))
    measured = SourceStatistics.measured(runs, Calibration.white(SCENARIO.path))
    white = SourceStatistics.white(SCENARIO.path)
    assert measured.weights.sum() == 1024
    # Of 12 x 1024 squares of Gaussians: sqrt(2 / 12288) = 1.3 %; the smallest band holds 12 x 12 of them.
    total = measured.mmse @ measured.weights / 1024
    assert total[1:] == pytest.approx(white.mmse[1:, 0], rel=0.07)
    assert total[0] == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(measured.mmse, axis=0) >= 0.0).all()
    assert (measured.mmse <= measured.variances).all()
    assert measured.limit(RATES, SCENARIO) == pytest.approx(white.limit(RATES, SCENARIO), rel=0.1)


def test_without_runs_there_is_nothing_to_measure() -> None:
    with pytest.raises(ParameterError, match="no trajectories to measure"):
        SourceStatistics.measured([], Calibration.white(SCENARIO.path))
