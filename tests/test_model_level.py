import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.policy.base import Observation, Transmit
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.catalog import POLICY_NAMES, make_policy
from latentcast.policy.distortion import diffusion_distortion
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.model_block import model_block
from latentcast.study.model_level import model_level

# Mean and standard error of 1500 channel draws of an independent implementation, by SNR and policy.
REFERENCE = {
    0.0: [(0.12675, 28e-5), (0.40012, 54e-5), (0.56855, 75e-5), (1.82938, 0.0), (1.84801, 0.0)],
    6.0: [(0.00236, 6e-5), (0.00750, 3e-5), (0.00407, 9e-5), (0.52317, 60e-5), (1.84801, 0.0)],
    12.0: [(0.00021, 0.0), (0.00007, 0.0), (0.00068, 0.0), (0.03653, 53e-5), (1.84801, 0.0)],
    24.0: [(0.0, 0.0), (0.00007, 0.0), (0.00002, 0.0), (0.0, 0.0), (0.0012, 12e-4)],
}


@pytest.mark.parametrize("snr_db", list(REFERENCE))
def test_reference_table(snr_db: float) -> None:
    scenario = Scenario.paper(snr_db=snr_db)
    for name, (mean, error) in zip(POLICY_NAMES, REFERENCE[snr_db], strict=True):
        result = model_level(scenario, make_policy(name, scenario), num_episodes=1500, seed=1)
        # Besides both standard errors, the half of the last digit printed.
        tolerance = 3 * math.hypot(error, result.standard_error) + 5e-6
        assert result.mean == pytest.approx(mean, abs=tolerance), name


def bisected_rates(
    rng: np.random.Generator, episodes: int, slots: int, num_subchannels: int, snr_db: float
) -> np.ndarray:
    """True per-slot waterfilling, by bisection of the level in every slot; bits per slot for 70 symbols."""
    gains = rng.exponential(10 ** (snr_db / 10), (episodes * slots, num_subchannels))
    low, high = np.zeros(len(gains)), num_subchannels + 1.0 / gains.max(axis=1)
    for _ in range(60):
        level = 0.5 * (low + high)
        spent = np.maximum(level[:, None] - 1.0 / gains, 0.0).sum(axis=1)
        low, high = np.where(spent > num_subchannels, (low, level), (level, high))
    bits = 70.0 * np.log2(np.maximum(level[:, None] * gains, 1.0)).sum(axis=1)
    return np.asarray(bits.reshape(episodes, slots))


def plain_distortion(
    scenario: Scenario, rates: list[float], choose: Callable[[int, int, int, int], int]
) -> float:
    """D_total at the deadline by Section II and eqs. 7-10, slot by slot; choose answers bits, 0 to wait."""
    abar = scenario.path.alpha_bar.tolist()
    steps, size = scenario.num_steps, scenario.latent_size
    left, uplink = scenario.uplink_bits, 0
    held, distortion, sending = steps, 2.0 * (1.0 - math.sqrt(abar[steps])), 0
    for slot, rate in enumerate(rates, start=1):
        if left > 0.0:
            left, uplink = left - rate, slot
            continue
        newest = max(steps - (slot - uplink - 1), 0)
        if not sending and newest < min(held, steps):
            sending, sample = choose(slot, newest, held, uplink), newest
            missing = float(size * sending)
        if sending:
            missing -= rate
            if missing <= 0.0:
                # The first transfer codes x_t itself, of unit variance; 16 bits are lossless.
                variance = 1.0 if held == steps else abar[sample] / abar[held] - 1.0
                base = 0.0 if sending == 16 else math.sqrt(3.0) * math.pi / 2.0 * 4.0**-sending
                distortion = 2.0 * (1.0 - math.sqrt(abar[sample])) + variance * base
                held, sending = sample, 0
    return distortion


def independent_means(scenario: Scenario, episodes: int) -> dict[str, tuple[float, float]]:
    """Mean and standard error by policy name: own channel, own waterfilling, a plain loop."""
    rng = np.random.default_rng(2024)
    rates = bisected_rates(
        rng, episodes, scenario.deadline_slots, scenario.num_subchannels, scenario.snr_db
    ).tolist()
    lookahead = LookaheadPolicy(scenario)

    def look_ahead(*state: int) -> int:
        action = lookahead.decide(Observation(*state))
        return action.bits if isinstance(action, Transmit) else 0

    choices: dict[str, Callable[[int, int, int, int], int]] = {
        "lookahead": look_ahead,
        "persistent-3": lambda slot, step, held, uplink: 3,
        "persistent-8": lambda slot, step, held, uplink: 8,
        "final-only": lambda slot, step, held, uplink: 16 if step == 0 else 0,
    }
    means = {}
    for name, choose in choices.items():
        values = np.array([plain_distortion(scenario, row, choose) for row in rates])
        means[name] = (float(values.mean()), float(values.std(ddof=1)) / math.sqrt(episodes))
    return means


def check_against_independent(scenario: Scenario, *, plain: int, blocks: int) -> None:
    for name, (mean, error) in independent_means(scenario, plain).items():
        result = model_level(scenario, make_policy(name, scenario), num_episodes=blocks, seed=9)
        # Where every episode ends alike, both standard errors vanish; the means then agree to rounding.
        tolerance = 3 * math.hypot(error, result.standard_error) + 1e-9
        assert result.mean == pytest.approx(mean, abs=tolerance), name


OFF_DESIGN: list[dict[str, Any]] = [
    {"snr_db": 2.7},
    {"snr_db": -4.3, "deadline_slots": 90, "latent_size": 12_000},
    {"snr_db": 7.9, "num_subchannels": 7, "latent_size": 3000, "num_steps": 31, "deadline_slots": 44},
    {"snr_db": 15.3, "num_subchannels": 23, "quantile": 0.75, "uplink_bits": 30_000},
]


@pytest.mark.parametrize("changes", OFF_DESIGN)
def test_agrees_with_an_independent_simulation(changes: dict[str, Any]) -> None:
    check_against_independent(Scenario(**changes), plain=250, blocks=2000)


@pytest.mark.slow
@pytest.mark.parametrize("changes", OFF_DESIGN)
def test_agrees_with_a_long_independent_simulation(changes: dict[str, Any]) -> None:
    check_against_independent(Scenario(**changes), plain=4000, blocks=100_000)


def test_uplink_that_never_ends_leaves_nothing() -> None:
    scenario = Scenario.paper(snr_db=0.0, uplink_bits=1e9)
    result = model_level(scenario, PersistentPolicy(scenario, bits=3), num_episodes=5)
    assert set(result.distortions.tolist()) == {float(diffusion_distortion(scenario.path, 50))}


def test_draws_are_common_and_do_not_depend_on_their_number() -> None:
    scenario = Scenario.paper(snr_db=6.0)
    policy = PersistentPolicy(scenario, bits=4)
    few, many = (model_level(scenario, policy, num_episodes=n, seed=3) for n in (100, 400))
    assert np.array_equal(few.distortions, many.distortions[:100])
    assert model_level(scenario, policy, num_episodes=100, seed=3) == few
    other = model_level(scenario, policy, num_episodes=100, seed=4)
    assert not np.array_equal(other.distortions, few.distortions)


def test_episodes_go_on_from_block_to_block() -> None:
    scenario = Scenario.paper(snr_db=6.0)
    policy = PersistentPolicy(scenario, bits=4)
    result = model_level(scenario, policy, num_episodes=BLOCK_EPISODES + 3, seed=3)
    rates = episode_rates(RateLaw.prepare(scenario.link), 60, seed=3, block=1, count=3)
    (block,) = model_block(scenario, [policy], rates)
    assert np.array_equal(result.distortions[BLOCK_EPISODES:], block.values["latent_mse"])


def test_base_changes_the_reported_distortion_only() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    policy = PersistentPolicy(scenario, bits=3)
    formula = model_level(scenario, policy, num_episodes=50)
    exact = model_level(scenario, policy, num_episodes=50, base="lloyd-max")
    assert np.all(exact.distortions < formula.distortions)


@pytest.mark.parametrize(
    ("name", "value"), [("num_episodes", 0), ("num_episodes", 1.5), ("seed", -1), ("seed", None)]
)
def test_bad_arguments_are_refused(name: str, value: int) -> None:
    scenario = Scenario.paper(snr_db=0.0)
    with pytest.raises(ParameterError, match=f"{name} is"):
        model_level(scenario, FinalOnlyPolicy(scenario), **{name: value})  # type: ignore[arg-type]
