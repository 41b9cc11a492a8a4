import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcast.errors import ParameterError
from latentcast.link.latency import latency_quantile
from latentcast.link.law import RateLaw
from latentcast.policy.base import Action, Observation, Policy, Transmit, Wait
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.distortion import diffusion_distortion, total_distortion
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.columns import COLUMNS, PICTURE_COLUMNS, EpisodeColumns
from latentcast.study.episodes.model_block import model_block, predicted_slots
from latentcast.study.episodes.tables import PolicyTable


class Rotating:
    """Sends and waits in turn by an arbitrary rule that uses all of the observation."""

    name = "rotating"

    def __init__(self) -> None:
        self.asked: list[Observation] = []

    def decide(self, observation: Observation) -> Action:
        self.asked.append(observation)
        turn = 3 * observation.slot + observation.reference_step + observation.uplink_slots
        return Transmit((2, 5, 16)[turn % 3]) if turn % 4 else Wait()


def plain_episode(scenario: Scenario, policy: Policy, rates: Sequence[float]) -> dict[str, float]:
    """One episode slot by slot, as Section II tells it."""
    link, num_steps, deadline = scenario.link, scenario.num_steps, scenario.deadline_slots
    uploaded, uplink = 0.0, deadline + 1
    held, distortion = num_steps, float(diffusion_distortion(scenario.path, num_steps))
    row = dict.fromkeys(
        (
            "first_slot",
            "transmissions",
            "judged_transfers",
            "quantile_slots",
            "actual_slots",
            "late_transfers",
        ),
        0,
    )
    bits_sent = 0.0
    under_way: tuple[int, int, int] | None = None
    carried = 0.0

    def judge(start: int, bits: int, taken: int) -> None:
        expected = latency_quantile(
            float(scenario.latent_size * bits), link.mean_rate_bits, link.std_rate_bits, scenario.quantile
        )
        if start + expected - 1 <= deadline:
            row["judged_transfers"] += 1
            row["quantile_slots"] += expected
            row["actual_slots"] += taken
            row["late_transfers"] += taken > expected

    for slot, rate in enumerate(rates, start=1):
        if uplink > deadline:
            uploaded += rate
            uplink = slot if uploaded >= scenario.uplink_bits else uplink
            continue
        step = num_steps - min(num_steps, slot - uplink - 1)
        if under_way is None and step < num_steps and step < held:
            action = policy.decide(Observation(slot, step, held, uplink))
            if isinstance(action, Transmit):
                under_way, carried = (slot, step, action.bits), 0.0
                row["transmissions"] += 1
        if under_way is not None:
            start, sample, bits = under_way
            carried += rate
            if carried >= scenario.latent_size * bits:
                distortion = float(total_distortion(scenario.path, sample, held, bits))
                row["first_slot"] = row["first_slot"] or slot
                bits_sent += scenario.latent_size * bits
                held, under_way = sample, None
                judge(start, bits, slot - start + 1)
    if under_way is not None:
        judge(under_way[0], under_way[2], deadline + 1 - under_way[0] + 1)
    return {
        "uplink_slots": uplink,
        "latent_mse": distortion,
        "held_step": held,
        "bits_sent": bits_sent,
        "predicted_mse": distortion,
        **row,
    }


SCENARIOS = st.builds(
    Scenario,
    latent_size=st.integers(500, 20_000),
    num_steps=st.integers(1, 60),
    deadline_slots=st.integers(3, 70),
    uplink_bits=st.floats(1.0, 20_000.0),
    bit_levels=st.sampled_from([(3, 4, 8, 10, 16), (2, 5), (1,), (6, 16)]),
    quantile=st.floats(0.05, 0.999),
    num_subchannels=st.sampled_from([1, 2, 5]),
    symbols_per_slot=st.floats(300.0, 5000.0),
    snr_db=st.floats(-10.0, 30.0),
)


@settings(max_examples=25)
@given(SCENARIOS, st.integers(0, 2**32))
def test_a_block_is_its_episodes_one_by_one(scenario: Scenario, seed: int) -> None:
    rates = scenario.link.sample(12, scenario.deadline_slots, rng=np.random.default_rng(seed))
    policies: list[Policy] = [
        Rotating(),
        LookaheadPolicy(scenario),
        PersistentPolicy(scenario, bits=scenario.bit_levels[0]),
        FinalOnlyPolicy(scenario),
    ]
    blocks = model_block(scenario, policies, rates, first_episode=100)
    for policy, block in zip(policies, blocks, strict=True):
        assert block.policy == policy.name
        assert block.column("snr_db").tolist() == [scenario.snr_db] * 12
        assert block.values["episode"].tolist() == list(range(100, 112))
        for row, slots in enumerate(rates.tolist()):
            expected = plain_episode(scenario, policy, slots)
            assert {name: block.values[name][row].item() for name in expected} == expected


def test_transfer_may_use_the_last_slot() -> None:
    scenario = Scenario(latent_size=10, num_steps=2, deadline_slots=5, uplink_bits=4, snr_db=0.0)
    # x_0 is there in slot T_ul + T + 1 = 4; 160 bits take slots 4 and 5.
    rates = np.array([[4.0, 0.0, 0.0, 80.0, 80.0], [4.0, 0.0, 0.0, 80.0, 79.0]])
    (block,) = model_block(scenario, [FinalOnlyPolicy(scenario)], rates)
    assert block.values["held_step"].tolist() == [0, 2]
    assert block.values["first_slot"].tolist() == [5, 0]


def test_latency_is_judged_by_the_papers_quantile_for_every_policy() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    assert predicted_slots(scenario)[[3, 4, 8, 10, 16]].tolist() == [12, 16, 32, 39, 62]
    rates = np.full((1, 60), 16384 * 3 / 13.0)
    # 3 bits take 13 slots, one more than predicted; four begin early enough for the prediction.
    (block,) = model_block(scenario, [PersistentPolicy(scenario, bits=3)], rates)
    values = {name: array.item() for name, array in block.values.items()}
    assert values["transmissions"] == 5
    assert values["judged_transfers"] == 4
    assert values["quantile_slots"] == 48
    assert values["actual_slots"] == 52
    assert values["late_transfers"] == 4


def test_late_transfers_are_as_rare_as_the_exact_law_says() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    law = RateLaw.prepare(scenario.link)
    rates = episode_rates(law, 60, seed=2, block=0)
    (block,) = model_block(scenario, [PersistentPolicy(scenario, bits=3)], rates)
    late = 1.0 - law.transfer_slots_cdf(3 * 16384.0, 12)[11]
    judged = block.values["judged_transfers"].sum()
    share = block.values["late_transfers"].sum() / judged
    assert share == pytest.approx(late, abs=4 * math.sqrt(late / judged) + 1e-3)


def test_hopeless_links_are_no_error() -> None:
    scenario = Scenario.paper(snr_db=0.0, symbols_per_slot=1e-300)
    (block,) = model_block(scenario, [PersistentPolicy(scenario)], np.zeros((3, 60)))
    assert block.values["uplink_slots"].tolist() == [61] * 3
    assert block.values["held_step"].tolist() == [50] * 3


def test_a_table_asks_each_state_once() -> None:
    scenario, policy = Scenario.paper(snr_db=6.0), Rotating()
    table = PolicyTable(scenario, policy)
    law = RateLaw.prepare(scenario.link)
    blocks = [episode_rates(law, 60, seed=1, block=block, count=300) for block in (0, 0, 1)]
    for rates in blocks:
        model_block(scenario, [table], rates)
    assert len(set(policy.asked)) == len(policy.asked)
    assert PolicyTable.of(scenario, table) is table
    assert PolicyTable.of(Scenario.paper(snr_db=5.0), table) is not table
    assert table.decide(policy.asked[0]) == policy.decide(policy.asked[0])


def test_answers_must_be_actions() -> None:
    class Broken:
        name = "broken"

        def decide(self, observation: Observation) -> Action:
            return observation.slot  # type: ignore[return-value]

    scenario = Scenario.paper(snr_db=0.0)
    with pytest.raises(ParameterError, match="policy broken answered"):
        model_block(scenario, [Broken()], np.full((2, 60), 5000.0))


def test_rates_need_one_column_per_slot() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    with pytest.raises(ParameterError, match=r"rates has shape \(2, 59\)"):
        model_block(scenario, [FinalOnlyPolicy(scenario)], np.ones((2, 59)))


def test_channels_are_common_and_their_own() -> None:
    bad, good = (RateLaw.prepare(Scenario.paper(snr_db=snr_db).link) for snr_db in (0.0, 6.0))
    rates = episode_rates(bad, 7, seed=3, block=2, count=20)
    assert episode_rates(bad, 7, seed=3, block=2).shape == (BLOCK_EPISODES, 7)
    assert np.array_equal(episode_rates(bad, 7, seed=3, block=2)[:20], rates)
    better = episode_rates(good, 7, seed=3, block=2, count=20)
    assert good.cdf(better) == pytest.approx(bad.cdf(rates), abs=1e-9)
    for other in ({"seed": 4, "block": 2}, {"seed": 3, "block": 1}):
        assert not np.any(episode_rates(bad, 7, **other, count=20) == rates)


def test_columns_are_complete_typed_and_read_only() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    given = {column.name: np.arange(3) for column in COLUMNS[2:] if column.name not in PICTURE_COLUMNS}
    block = EpisodeColumns(snr_db=1.0, policy="any", values=given)
    assert list(block.values) == names[2:]
    for column in COLUMNS[2:]:
        assert block.values[column.name].dtype == column.dtype
        assert not block.values[column.name].flags.writeable
    assert block.column("policy").tolist() == ["any"] * 3
    assert len(block.take(2)) == 2
    assert len(block.take(9)) == 3
    assert np.isnan(block.values["lpips"]).all()
    with pytest.raises(ParameterError, match="values has the unknown column 'speed'"):
        EpisodeColumns(snr_db=1.0, policy="any", values={**given, "speed": np.arange(3)})
    with pytest.raises(ParameterError, match="values lacks column 'held_step'"):
        EpisodeColumns(
            snr_db=1.0, policy="any", values={name: given[name] for name in given if name != "held_step"}
        )
    with pytest.raises(ParameterError, match=r"column late_transfers has shape \(2,\)"):
        EpisodeColumns(snr_db=1.0, policy="any", values={**given, "late_transfers": np.arange(2)})
