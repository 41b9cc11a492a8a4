import pytest

from latentcast.errors import ParameterError
from latentcast.policy.base import Observation, Policy, Transmit, Wait
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.catalog import POLICY_NAMES, make_policy, policy_names
from latentcast.scenario import Scenario

SCENARIO = Scenario.paper(snr_db=0.0)


@pytest.mark.parametrize(
    ("slot", "step", "reference", "sends"),
    [
        (3, 49, 50, True),
        (2, 50, 50, False),
        (30, 20, 20, False),
        (30, 20, 19, False),
        (60, 0, 1, True),
        (60, 0, 0, False),
        (61, 0, 1, False),
    ],
)
@pytest.mark.parametrize("bits", [1, 3, 16])
def test_persistent_sends_whatever_is_newer(
    slot: int, step: int, reference: int, sends: bool, bits: int
) -> None:
    action = PersistentPolicy(SCENARIO, bits=bits).decide(Observation(slot, step, reference, 1))
    assert action == (Transmit(bits) if sends else Wait())


def test_final_only_sends_the_final_sample_once() -> None:
    policy = FinalOnlyPolicy(SCENARIO)
    assert policy.decide(Observation(50, 1, 50, 1)) == Wait()
    assert policy.decide(Observation(52, 0, 50, 1)) == Transmit(16)
    assert policy.decide(Observation(61, 0, 50, 1)) == Wait()
    assert policy.decide(Observation(58, 0, 0, 1)) == Wait()


def test_final_only_sends_losslessly_whatever_the_levels() -> None:
    policy = FinalOnlyPolicy(Scenario.paper(snr_db=0.0, bit_levels=(3,)))
    assert policy.decide(Observation(52, 0, 50, 1)) == Transmit(16)


@pytest.mark.parametrize("bits", [0, 17, 3.0])
def test_persistent_checks_its_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match="bits is"):
        PersistentPolicy(SCENARIO, bits=bits)


def test_every_name_makes_the_policy_of_that_name() -> None:
    assert set(POLICY_NAMES) <= set(policy_names(SCENARIO))
    for name in policy_names(SCENARIO):
        policy = make_policy(name, SCENARIO)
        assert isinstance(policy, Policy)
        assert policy.name == name
    assert make_policy("persistent-8", SCENARIO) == PersistentPolicy(SCENARIO, bits=8)


@pytest.mark.parametrize(
    "name", ["", "Lookahead", "persistent-5", "persistent-", "persistent-03", "persistent"]
)
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ParameterError, match=r"choose lookahead, optimal, persistent-3, .*, final-only"):
        make_policy(name, SCENARIO)
