import math
import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.errors import ParameterError
from latentcast.policy.base import Action, Observation, Policy, Wait
from latentcast.policy.distortion import diffusion_distortion
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.optimal import OptimalPolicy, solve
from latentcast.scenario import Scenario
from latentcast.study.model_level import model_level

State = tuple[int, int, int, int]  # slot after the upload, t_p, reference and level of what is held


class Problem:
    """A small decision problem, told in plain loops."""

    def __init__(self, num_steps: int, num_slots: int, num_levels: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_steps, self.num_slots, self.num_levels = num_steps, num_slots, num_levels
        steps = num_steps + 1
        self.distortions = rng.random((steps, steps, num_levels))
        above = np.arange(steps)[:, None] >= np.arange(steps)
        self.distortions[above] = self.distortions[:, :1, :1].repeat(steps, 1)[above]
        # A law without normalisation: some transfers may never end.
        self.taken = rng.dirichlet(np.ones(num_slots + 1), num_levels)[:, :num_slots]
        self.within = np.cumsum(self.taken, axis=1)

    def step(self, slot: int) -> int:
        return max(self.num_steps - slot, 0)

    def held(self, state: State) -> float:
        return float(self.distortions[state[1], state[2], state[3]])

    def outcomes(self, state: State, level: int) -> list[tuple[float, State | None]]:
        """Probability of each idle state after a transfer; None where the deadline cuts it off."""
        slot, reference = state[:2]
        ends = range(1, self.num_slots - slot + 1)
        reached = [
            (float(self.taken[level, count - 1]), (slot + count, self.step(slot), reference, level))
            for count in ends
        ]
        return [*reached, (1.0 - sum(chance for chance, _ in reached), None)]

    def best(self, state: State) -> float:
        """Plain recursion over all actions."""
        slot, reference = state[:2]
        if slot == self.num_slots:
            return self.held(state)
        values = [self.best((slot + 1, *state[1:]))]
        if self.step(slot) < reference:
            values += [
                sum(
                    chance * (self.held(state) if after is None else self.best(after))
                    for chance, after in self.outcomes(state, level)
                )
                for level in range(self.num_levels)
            ]
        return min(values)

    def expected(self, state: State, actions: dict[State, int]) -> float:
        """Expected distortion of a policy; an action is 0 for waiting or a level plus 1."""
        if state[0] == self.num_slots:
            return self.held(state)
        action = actions.get(state, 0)
        if action == 0:
            return self.expected((state[0] + 1, *state[1:]), actions)
        return sum(
            chance * (self.held(state) if after is None else self.expected(after, actions))
            for chance, after in self.outcomes(state, action - 1)
        )

    @property
    def first(self) -> State:
        return (0, self.num_steps, self.num_steps, 0)


@given(
    num_steps=st.integers(1, 4),
    num_slots=st.integers(0, 6),
    num_levels=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_value_is_that_of_plain_recursion(num_steps: int, num_slots: int, num_levels: int, seed: int) -> None:
    problem = Problem(num_steps, num_slots, num_levels, seed)
    table = solve(problem.distortions, problem.within)
    assert table.start == pytest.approx(problem.best(problem.first), rel=1e-12)
    # Following the table earns the value that it promises.
    actions = {
        (slot, reference, before, level): int(table.actions[slot, reference, before, level])
        for slot, reference, before, level in np.ndindex(table.actions.shape)
    }
    assert problem.expected(problem.first, actions) == pytest.approx(table.start, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_policy_at_all_is_better(seed: int) -> None:
    problem = Problem(2, 4, 2, seed)
    # Every state in which there is something to send: noise held, or x_1 after either level.
    states = [(slot, 2, 2, 0) for slot in (1, 2, 3)]
    states += [(slot, 1, 2, level) for slot in (2, 3) for level in (0, 1)]
    values = [
        problem.expected(problem.first, dict(zip(states, choice, strict=True)))
        for choice in product(range(3), repeat=len(states))
    ]
    assert len(values) == 3**7
    start = solve(problem.distortions, problem.within).start
    assert start == pytest.approx(min(values), rel=1e-12)
    assert start < np.median(values)


def test_ties_go_to_earlier_slots_and_fewer_bits_and_to_silence() -> None:
    distortions = np.array([[[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2])
    certain = np.ones((2, 4))
    assert solve(distortions, certain).actions[:, 1, 1, 0].tolist() == [0, 1, 1, 1]
    assert not solve(distortions, np.zeros((2, 4))).actions.any()
    assert not solve(np.ones((2, 2, 2)), certain).actions.any()


@pytest.mark.parametrize("snr_db", [-6.0, -3.0, 0.0, 3.0, 6.0, 12.0, 18.0, 24.0])
def test_never_worse_than_look_ahead(snr_db: float) -> None:
    scenario = Scenario.paper(snr_db=snr_db)
    optimal, lookahead = (
        model_level(scenario, policy, num_episodes=1500, seed=1)
        for policy in (OptimalPolicy(scenario), LookaheadPolicy(scenario))
    )
    difference = optimal.distortions - lookahead.distortions
    assert difference.mean() <= 3 * difference.std() / math.sqrt(1500)


@pytest.mark.parametrize(
    ("snr_db", "changes"),
    [
        (0.0, {}),
        (3.0, {"num_subchannels": 12, "symbols_per_slot": 350.0}),
        (6.0, {"num_subchannels": 1, "symbols_per_slot": 4200.0, "num_steps": 20, "deadline_slots": 30}),
        (-12.0, {"deadline_slots": 90, "bit_levels": (1, 2)}),
        (0.0, {"num_subchannels": 1, "symbols_per_slot": 4200.0, "bit_levels": (1, 2, 3, 16)}),
    ],
)
def test_episodes_have_the_expected_distortion(snr_db: float, changes: dict[str, int]) -> None:
    policy = OptimalPolicy(Scenario.paper(snr_db=snr_db, **changes))
    result = model_level(policy.scenario, policy, num_episodes=4096, seed=2)
    # The law's probabilities err by a few 1e-4.
    tolerance = 4 * result.standard_error + 1e-3 * result.mean
    assert policy.expected_distortion() == pytest.approx(result.mean, abs=tolerance)


class Forgetful:
    """The optimal policy without knowing how the held latent came."""

    name = "forgetful"

    def __init__(self, scenario: Scenario) -> None:
        self.policy = OptimalPolicy(scenario)

    def decide(self, observation: Observation) -> Action:
        return self.policy.decide(replace(observation, held_reference_step=None, held_bits=None))


def test_what_is_held_decides() -> None:
    # At 1 bit a refinement can be worse than noise, which x_t without quantisation error is not.
    scenario = Scenario.paper(
        snr_db=0.0, num_subchannels=1, symbols_per_slot=4200.0, bit_levels=(1, 2, 3, 16)
    )
    knowing, forgetful = (
        model_level(scenario, policy, num_episodes=2000, seed=1)
        for policy in (OptimalPolicy(scenario), Forgetful(scenario))
    )
    difference = forgetful.distortions - knowing.distortions
    assert difference.mean() > 3 * difference.std() / math.sqrt(2000)


def test_unknown_is_without_quantisation_error() -> None:
    policy = OptimalPolicy(Scenario.paper(snr_db=3.0))
    observations = [Observation(slot, 52 - slot, 25, 1) for slot in range(28, 53)]
    lossless = [replace(each, held_reference_step=50, held_bits=16) for each in observations]
    assert [policy.decide(each) for each in observations] == [policy.decide(each) for each in lossless]


def test_where_nothing_can_be_sent_it_waits() -> None:
    policy = OptimalPolicy(Scenario.paper(snr_db=0.0))
    waiting = [(1, 50, 50, 1), (2, 50, 50, 1), (20, 32, 32, 1), (20, 32, 10, 1), (61, 0, 50, 1)]
    assert {policy.decide(Observation(*values)) for values in waiting} == {Wait()}
    hopeless = OptimalPolicy(Scenario.paper(snr_db=-60.0))
    assert {hopeless.decide(Observation(n, 51 - n, 50, 0)) for n in range(2, 51)} == {Wait()}
    assert hopeless.expected_distortion() == pytest.approx(
        float(diffusion_distortion(hopeless.scenario.path, 50))
    )


def test_a_lagging_server_is_decided_for_as_it_stands() -> None:
    scenario = Scenario.paper(snr_db=3.0)
    policy = OptimalPolicy(scenario)

    def decide(slot: int, step: int, uplink_slots: int) -> Action:
        return policy.decide(Observation(slot, step, 50, uplink_slots))

    for slot in range(6, 50):
        assert decide(slot, 55 - slot, 2) == decide(slot, 55 - slot, 4)
    for slot in range(55, 61):
        assert decide(slot, 0, 1) == decide(slot, 0, 3)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation(10, 51, 50, 1), "step is 51"),
        (Observation(10, -1, 50, 1), "step is -1"),
        (Observation(10, 5, 51, 1), "reference_step is 51"),
        (Observation(0, 5, 50, 1), "slot is 0"),
        (Observation(10, 42, 45, 1, held_reference_step=51, held_bits=3), "held_reference_step is 51"),
        (Observation(10, 42, 45, 1, held_reference_step=50, held_bits=5), "held_bits is 5"),
    ],
)
def test_impossible_observations_are_refused(observation: Observation, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        OptimalPolicy(Scenario.paper(snr_db=0.0)).decide(observation)


def test_huge_tables_are_refused() -> None:
    policy = OptimalPolicy(Scenario.paper(snr_db=0.0, num_steps=1000, deadline_slots=1200))
    with pytest.raises(ParameterError, match="need a table of 44"):
        policy.decide(Observation(1000, 2, 1000, 1))


def test_it_is_a_policy_and_a_value() -> None:
    policy = OptimalPolicy(Scenario.paper(snr_db=0.0))
    assert isinstance(policy, Policy)
    assert policy.name == "optimal"
    observation = Observation(40, 12, 50, 1)
    action = policy.decide(observation)
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert again.decide(observation) == action
    with pytest.raises(ParameterError, match="'panter-dite' or 'lloyd-max'"):
        OptimalPolicy(policy.scenario, "shannon")  # type: ignore[arg-type]
