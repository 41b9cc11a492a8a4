"""The latent level: one meaning with the model level, real latents, pictures scored once."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from latentcast.delivery.deliver import deliver
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import FloatArray, Trajectory
from latentcast.errors import ParameterError
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.policy.catalog import POLICY_NAMES, make_policy
from latentcast.scenario import Scenario
from latentcast.study.episodes.columns import BOUND_COLUMNS, COLUMNS, PICTURE_COLUMNS
from latentcast.study.episodes.latent_block import latent_block
from latentcast.study.episodes.model_block import model_block
from latentcast.study.metrics.catalog import make_metric

SHAPE = (4, 8, 8)
SIZE = 256


class Recorded:
    """Runs of a white Gaussian source, where the paper's model holds to the letter."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.asked: list[int] = []

    def trajectory(self, index: int) -> Trajectory:
        self.asked.append(index)
        return run(index)


@cache
def run(index: int) -> Trajectory:
    return Trajectory.record(GaussianSource(SHAPE, Scenario.for_latent(SIZE, snr_db=0.0).path), "", index)


class Rotating:
    """Sends and waits in turn by an arbitrary rule that uses all of the observation."""

    name = "rotating"

    def decide(self, observation: Observation) -> Action:
        turn = 3 * observation.slot + observation.reference_step + observation.uplink_slots
        return Transmit((3, 4, 8, 10, 16)[turn % 5]) if turn % 4 else Wait()


def scene(snr_db: float, count: int) -> tuple[Scenario, NDArray[np.float64]]:
    scenario = Scenario.for_latent(SIZE, snr_db=snr_db)
    rates = scenario.link.sample(count, scenario.deadline_slots, rng=np.random.default_rng(7))
    return scenario, rates


@pytest.mark.parametrize("snr_db", [-9.0, 0.0, 9.0, 24.0])
def test_two_fidelities_have_one_meaning(snr_db: float) -> None:
    scenario, rates = scene(snr_db, 12)
    rates[3] = 0.0  # not even the prompt gets through
    policies = [*(make_policy(name, scenario) for name in POLICY_NAMES), Rotating()]
    latent = latent_block(scenario, policies, rates, Recorded(5))
    model = model_block(scenario, policies, rates)
    others = {*PICTURE_COLUMNS, *BOUND_COLUMNS}
    same = [column.name for column in COLUMNS if column.name not in ("latent_mse", *others)]
    for left, right in zip(latent, model, strict=True):
        for name in same:
            assert left.column(name).tolist() == right.column(name).tolist(), (left.policy, name)
        assert np.array_equal(right.column("predicted_mse"), right.column("latent_mse"))


def test_the_error_is_that_of_the_latent_held() -> None:
    scenario, rates = scene(3.0, 7)
    policies = [make_policy(name, scenario) for name in ("lookahead", "persistent-4")]
    recorded = Recorded(3)
    blocks = latent_block(scenario, policies, rates, recorded, first_episode=10)
    assert sorted(recorded.asked) == [0, 1, 2]
    for policy, block in zip(policies, blocks, strict=True):
        assert block.policy == policy.name
        assert block.column("episode").tolist() == list(range(10, 17))
        for row, episode in enumerate(range(10, 17)):
            timeline = deliver(run(episode % 3), scenario, policy, rates_bits=rates[row])
            error = timeline.held[-1].latent.astype(np.float64) - run(episode % 3).samples[0]
            assert block.column("latent_mse")[row] == pytest.approx(np.mean(error**2), rel=1e-12)


def test_the_model_is_right_about_a_white_source() -> None:
    # Persistent-8 at 12 dB: fine quantisation, so the forward process explains the error nearly alone. Its
    # mean over M = 256 numbers and 60 independent runs has a relative deviation of sqrt(2 / (256 * 60)).
    scenario, rates = scene(12.0, 60)
    (block,) = latent_block(scenario, [make_policy("persistent-8", scenario)], rates, Recorded(60))
    measured, predicted = (block.column(name).mean() for name in ("latent_mse", "predicted_mse"))
    assert measured == pytest.approx(predicted, rel=5 * (2 / (SIZE * 60)) ** 0.5)


def test_rows_do_not_depend_on_the_block() -> None:
    scenario, rates = scene(0.0, 9)
    policies = [make_policy("persistent-3", scenario), Rotating()]
    whole = latent_block(scenario, policies, rates, Recorded(4))
    part = latent_block(scenario, policies, rates[3:8], Recorded(4), first_episode=3)
    for left, right in zip(whole, part, strict=True):
        for column in COLUMNS:
            assert np.array_equal(
                left.column(column.name)[3:8], right.column(column.name), equal_nan=column.dtype == "float64"
            )


def decode(latents: FloatArray) -> NDArray[np.uint8]:
    """A picture of 16 x 16 whose every value comes from one latent number."""
    pixels = np.repeat(np.repeat(latents[:, :3], 2, axis=2), 2, axis=3)
    return np.clip(128 + 40 * pixels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def test_pictures_are_scored_once_and_rightly() -> None:
    scenario, rates = scene(0.0, 10)
    policies = [make_policy(name, scenario) for name in ("final-only", "persistent-3", "persistent-4")]
    metrics = [make_metric(name) for name in ("psnr", "ms-ssim")]
    decoded: list[bytes] = []

    def counting(latents: FloatArray) -> NDArray[np.uint8]:
        decoded.extend(latent.tobytes() for latent in latents)
        return decode(latents)

    blocks = latent_block(scenario, policies, rates, Recorded(2), metrics=metrics, decode=counting)
    assert len(decoded) == len(set(decoded))
    # At 0 dB Final-Only delivers nothing: one picture of noise per trajectory, and one of x_0.
    assert 4 < len(decoded) < 2 + 3 * 10
    for policy, block in zip(policies, blocks, strict=True):
        for row in range(10):
            trajectory = run(row % 2)
            held = deliver(trajectory, scenario, policy, rates_bits=rates[row]).held[-1].latent
            pair = decode(trajectory.samples[:1]), decode(held[None])
            assert block.column("psnr_db")[row] == metrics[0](*pair)[0]
            assert block.column("ms_ssim")[row] == metrics[1](*pair)[0]
        assert np.isnan(block.column("ssim")).all()


def test_no_metric_decodes_nothing() -> None:
    def forbidden(latents: FloatArray) -> NDArray[np.uint8]:
        raise AssertionError

    scenario, rates = scene(0.0, 2)
    (block,) = latent_block(
        scenario, [make_policy("persistent-3", scenario)], rates, Recorded(2), decode=forbidden
    )
    assert all(np.isnan(block.column(name)).all() for name in PICTURE_COLUMNS)


def test_bad_arguments_are_refused() -> None:
    scenario, rates = scene(0.0, 2)
    policies = [make_policy("persistent-3", scenario)]
    with pytest.raises(ParameterError, match=r"rates_bits has shape \(2, 59\)"):
        latent_block(scenario, policies, rates[:, 1:], Recorded(1))
    with pytest.raises(ParameterError, match="one episode at least"):
        latent_block(scenario, policies, rates[:0], Recorded(1))
    with pytest.raises(ParameterError, match="there are no trajectories"):
        latent_block(scenario, policies, rates, Recorded(0))
    with pytest.raises(ParameterError, match="metric psnr compares pictures; give a decoder"):
        latent_block(scenario, policies, rates, Recorded(1), metrics=[make_metric("psnr")])
    other = Scenario.for_latent(1024, snr_db=0.0)
    with pytest.raises(ParameterError, match=r"use Scenario.for_latent\(256"):
        latent_block(other, policies, rates, Recorded(1))
