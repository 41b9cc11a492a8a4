import math
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcast.codec.quantizer import lloyd_max
from latentcast.errors import ParameterError
from latentcast.link.latency import latency_quantile
from latentcast.policy.base import Action, Observation, Policy, Transmit, Wait
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.scenario import Scenario


def literal_policy(scenario: Scenario, base: Callable[[int], float]) -> Callable[[Observation], Action]:
    """Section IV-C word for word, with its searches."""
    num_steps, deadline, link = scenario.num_steps, scenario.deadline_slots, scenario.link
    alpha_bar = scenario.path.alpha_bar.tolist()
    transfer = {
        bits: latency_quantile(
            float(scenario.latent_size * bits), link.mean_rate_bits, link.std_rate_bits, scenario.quantile
        )
        for bits in scenario.bit_levels
    }

    def total(step: int, reference: int, bits: int) -> float:
        variance = 1.0 if reference == num_steps else alpha_bar[step] / alpha_bar[reference] - 1.0
        return 2 * (1 - math.sqrt(alpha_bar[step])) + (0.0 if bits == 16 else variance * base(bits))

    def most_bits(start: int) -> int | None:
        return max((b for b in scenario.bit_levels if start + transfer[b] <= deadline), default=None)

    def decide(observation: Observation) -> Action:
        slot, reference, uplink = observation.slot, observation.reference_step, observation.uplink_slots

        def newest(n: int) -> int:
            return num_steps - min(num_steps, max(n - uplink - 1, 0))

        now = newest(slot)
        if now == num_steps or now >= reference:
            return Wait()
        best_single, best_wait = math.inf, None
        for wait in range(deadline - slot + 1):
            bits = most_bits(slot + wait)
            if bits is not None and total(newest(slot + wait), reference, bits) < best_single:
                best_single, best_wait = total(newest(slot + wait), reference, bits), wait
        best_dual, best_bits = math.inf, None
        for first in scenario.bit_levels:
            for wait in range(deadline - slot - transfer[first] + 1):
                start = slot + transfer[first] + wait
                bits = most_bits(start)
                if bits is not None and newest(start) < now and total(newest(start), now, bits) < best_dual:
                    best_dual, best_bits = total(newest(start), now, bits), first
        if best_wait is None:
            return Wait()
        if best_bits is not None and best_dual <= best_single:
            return Transmit(best_bits)
        immediate = most_bits(slot)
        return Transmit(immediate) if best_wait == 0 and immediate is not None else Wait()

    return decide


def panter_dite(bits: int) -> float:
    return math.pi * math.sqrt(3) / 2 * 2.0 ** (-2 * bits)


scenarios = st.builds(
    Scenario,
    latent_size=st.integers(1, 20_000),
    num_steps=st.integers(1, 40),
    deadline_slots=st.integers(3, 60),
    uplink_bits=st.floats(1.0, 1e5),
    bit_levels=st.sets(st.integers(1, 16), min_size=1, max_size=5).map(lambda levels: tuple(sorted(levels))),
    quantile=st.floats(0.02, 0.999),
    num_subchannels=st.integers(1, 100),
    symbols_per_slot=st.floats(0.5, 200.0),
    snr_db=st.floats(-10.0, 40.0),
)


@settings(max_examples=150, deadline=None)
@given(scenarios, st.data())
def test_table_is_the_literal_policy(scenario: Scenario, data: st.DataObject) -> None:
    base = data.draw(st.sampled_from(["panter-dite", "lloyd-max"]))
    exact = panter_dite if base == "panter-dite" else lambda bits: lloyd_max(bits).mse
    policy, oracle = LookaheadPolicy(scenario, base), literal_policy(scenario, exact)  # type: ignore[arg-type]
    for _ in range(8):
        uplink = data.draw(st.integers(1, scenario.deadline_slots))
        slot = data.draw(st.integers(1, scenario.deadline_slots))
        step = scenario.num_steps - min(scenario.num_steps, max(slot - uplink - 1, 0))
        reference = data.draw(st.integers(step, scenario.num_steps))
        observation = Observation(slot, step, reference, uplink)
        assert policy.decide(observation) == oracle(observation), observation


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 6.0, 12.0, 24.0])
def test_paper_scenario_is_the_literal_policy(snr_db: float) -> None:
    scenario = Scenario.paper(snr_db=snr_db)
    policy, oracle = LookaheadPolicy(scenario), literal_policy(scenario, panter_dite)
    seen = set()
    for uplink in (1, 3):
        for slot in range(1, 61, 2):
            step = 50 - min(50, max(slot - uplink - 1, 0))
            for reference in {50, 45, 30, 12, 3, step}:
                if reference >= step:
                    observation = Observation(slot, step, reference, uplink)
                    action = policy.decide(observation)
                    assert action == oracle(observation), observation
                    seen.add(action)
    assert len(seen) >= 2


def test_feasibility_is_one_slot_stricter_than_the_deadline() -> None:
    # At 0 dB three bits take 12 slots: started in slot 48 they use slots 48..59, in slot 49 slots 49..60.
    policy = LookaheadPolicy(Scenario.paper(snr_db=0.0, bit_levels=(3,)))
    assert policy.decide(Observation(48, 5, 50, 2)) == Transmit(3)
    assert policy.decide(Observation(49, 4, 50, 2)) == Wait()


def test_lossless_final_sample_is_sent_when_it_fits() -> None:
    policy = LookaheadPolicy(Scenario.paper(snr_db=24.0))
    # Nine slots from slot 51 on; the second transfer of strategy 2 has nothing later to send.
    assert policy.decide(Observation(51, 0, 20, 1)) == Transmit(16)
    assert policy.decide(Observation(52, 0, 20, 1)) == Transmit(10)


@pytest.mark.parametrize(("step", "reference"), [(50, 50), (20, 20), (0, 0), (20, 19)])
def test_nothing_new_is_never_sent(step: int, reference: int) -> None:
    policy = LookaheadPolicy(Scenario.paper(snr_db=24.0))
    assert policy.decide(Observation(30, step, reference, 1)) == Wait()


def test_a_late_deadline_needs_no_longer_tables() -> None:
    small = {"num_steps": 6, "latent_size": 4096, "snr_db": 3.0}
    scenario = Scenario(**small, deadline_slots=300)  # type: ignore[arg-type]
    policy, oracle = LookaheadPolicy(scenario), literal_policy(scenario, panter_dite)
    first, most = policy.transfer_slots[0], policy.transfer_slots[-1]
    for slot in (2, 3, 4, *range(300 - first - 6 - most - 3, 301, 2)):
        for reference in (6, 4, 1):
            observation = Observation(slot, max(8 - slot, 0), reference, 1)
            if observation.step <= reference:
                assert policy.decide(observation) == oracle(observation), observation
    assert first + most < 60
    assert len(policy._tables[6]) == first + most + 6 + 1
    # Rows for every slot would take hours and many GB here.
    late = LookaheadPolicy(Scenario(**{**small, "num_steps": 1000}, deadline_slots=100_000))  # type: ignore[arg-type]
    assert late.decide(Observation(3, 999, 1000, 1)) == Transmit(3)


def test_after_the_deadline_it_waits() -> None:
    policy = LookaheadPolicy(Scenario.paper(snr_db=24.0))
    assert policy.decide(Observation(60, 0, 50, 1)) == Wait()
    assert policy.decide(Observation(61, 0, 50, 1)) == Wait()


def test_impossible_links_wait() -> None:
    policy = LookaheadPolicy(Scenario.paper(snr_db=-60.0))
    assert {policy.decide(Observation(n, 51 - n, 50, 0)) for n in range(2, 51)} == {Wait()}


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation(10, 51, 50, 1), "step is 51"),
        (Observation(10, -1, 50, 1), "step is -1"),
        (Observation(10, 5, 51, 1), "reference_step is 51"),
        (Observation(10, 5, -1, 1), "reference_step is -1"),
        (Observation(0, 5, 50, 1), "slot is 0"),
        (Observation(10, 5, 49.5, 1), "reference_step is 49.5"),  # type: ignore[arg-type]
    ],
)
def test_impossible_observations_are_refused(observation: Observation, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LookaheadPolicy(Scenario.paper(snr_db=0.0)).decide(observation)


def test_unknown_base_is_refused_at_once() -> None:
    with pytest.raises(ParameterError, match="'panter-dite' or 'lloyd-max'"):
        LookaheadPolicy(Scenario.paper(snr_db=0.0), "shannon")  # type: ignore[arg-type]


def test_it_is_a_policy_and_a_value() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    policy = LookaheadPolicy(scenario)
    assert isinstance(policy, Policy)
    assert policy.name == "lookahead"
    observation = Observation(33, 19, 50, 1)
    action = policy.decide(observation)
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert again.decide(observation) == action


@pytest.mark.parametrize("bits", [0, 17, 2.5, True])
def test_transmit_checks_its_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match="bits is"):
        Transmit(bits)
