import math

import numpy as np
import pytest

from latentcast.errors import ParameterError
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.catalog import POLICY_NAMES, make_policy
from latentcast.policy.distortion import diffusion_distortion, total_distortion
from latentcast.scenario import Scenario
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


class Rotating:
    """Sends and waits in turn by an arbitrary rule that uses all of the observation."""

    name = "rotating"

    def decide(self, observation: Observation) -> Action:
        turn = 3 * observation.slot + observation.reference_step + observation.uplink_slots
        return Transmit((2, 5, 16)[turn % 3]) if turn % 4 else Wait()


def scalar_episode(scenario: Scenario, rates: list[float]) -> float:
    """One episode slot by slot, as Section II tells it."""
    policy, num_steps = Rotating(), scenario.num_steps
    uploaded, uplink = 0.0, None
    held, distortion = num_steps, float(diffusion_distortion(scenario.path, num_steps))
    pending: tuple[float, int, float] | None = None
    for slot, rate in enumerate(rates, start=1):
        if uplink is None:
            uploaded += rate
            uplink = slot if uploaded >= scenario.uplink_bits else None
            continue
        step = num_steps - min(num_steps, slot - uplink - 1)
        if pending is None and step < num_steps and step < held:
            action = policy.decide(Observation(slot, step, held, uplink))
            if isinstance(action, Transmit):
                after = float(total_distortion(scenario.path, step, held, action.bits))
                pending = (scenario.latent_size * action.bits, step, after)
        if pending is not None:
            left, step, after = pending
            pending = (left - rate, step, after)
            if pending[0] <= 0.0:
                held, distortion, pending = step, after, None
    return distortion


@pytest.mark.parametrize(
    ("num_steps", "deadline_slots", "snr_db"), [(50, 60, 3.0), (10, 14, 6.0), (30, 20, 9.0)]
)
def test_side_by_side_is_one_by_one(num_steps: int, deadline_slots: int, snr_db: float) -> None:
    scenario = Scenario(
        latent_size=3000,
        num_steps=num_steps,
        deadline_slots=deadline_slots,
        snr_db=snr_db,
        num_subchannels=1,
        symbols_per_slot=4200.0,
        bit_levels=(2, 5, 16),
    )
    result = model_level(scenario, Rotating(), num_episodes=60, seed=5)
    (stream,) = np.random.SeedSequence(5).spawn(1)
    rates = scenario.link.sample(60, deadline_slots, rng=np.random.default_rng(stream))
    expected = [scalar_episode(scenario, row) for row in rates.tolist()]
    assert result.distortions == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 5
    assert result.mean == pytest.approx(np.mean(expected))
    assert result.standard_error == pytest.approx(np.std(expected, ddof=1) / math.sqrt(60))


def test_transfer_may_use_the_last_slot() -> None:
    # A rate that hardly varies: each slot carries the whole final latent, so only slot T_ul + T + 1 matters.
    scenario = Scenario(
        latent_size=10, num_steps=3, deadline_slots=5, uplink_bits=1, snr_db=60.0, symbols_per_slot=1.0
    )
    assert model_level(scenario, FinalOnlyPolicy(scenario), num_episodes=20).mean == 0.0
    shorter = Scenario(**{**scenario.to_dict(), "deadline_slots": 4})
    nothing = float(diffusion_distortion(scenario.path, 3))
    assert model_level(shorter, FinalOnlyPolicy(shorter), num_episodes=20).mean == pytest.approx(nothing)


def test_uplink_that_never_ends_leaves_nothing() -> None:
    scenario = Scenario.paper(snr_db=0.0, uplink_bits=1e9)
    result = model_level(scenario, PersistentPolicy(scenario, bits=3), num_episodes=5)
    assert set(result.distortions.tolist()) == {float(diffusion_distortion(scenario.path, 50))}


def test_draws_are_common_and_do_not_depend_on_their_number() -> None:
    scenario = Scenario.paper(snr_db=6.0)
    policy = PersistentPolicy(scenario, bits=4)
    few, many = (model_level(scenario, policy, num_episodes=n, seed=3) for n in (10, 40))
    assert np.array_equal(few.distortions, many.distortions[:10])
    assert model_level(scenario, policy, num_episodes=10, seed=3) == few
    other = model_level(scenario, policy, num_episodes=10, seed=4)
    assert not np.array_equal(other.distortions, few.distortions)


def test_base_changes_the_reported_distortion_only() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    policy = PersistentPolicy(scenario, bits=3)
    formula = model_level(scenario, policy, num_episodes=50)
    exact = model_level(scenario, policy, num_episodes=50, base="lloyd-max")
    assert np.all(exact.distortions < formula.distortions)


def test_policies_must_answer_with_actions() -> None:
    class Broken:
        name = "broken"

        def decide(self, observation: Observation) -> Action:
            return observation.slot  # type: ignore[return-value]

    with pytest.raises(ParameterError, match="policy broken answered"):
        model_level(Scenario.paper(snr_db=0.0), Broken(), num_episodes=2)


@pytest.mark.parametrize(
    ("name", "value"), [("num_episodes", 0), ("num_episodes", 1.5), ("seed", -1), ("seed", None)]
)
def test_bad_arguments_are_refused(name: str, value: int) -> None:
    scenario = Scenario.paper(snr_db=0.0)
    with pytest.raises(ParameterError, match=f"{name} is"):
        model_level(scenario, FinalOnlyPolicy(scenario), **{name: value})  # type: ignore[arg-type]
