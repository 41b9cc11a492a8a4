"""Sender, receiver and episode: byte by byte in memory, and measured errors against the paper's model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from latentcast.codec.packet import packet_bytes
from latentcast.codec.quantizer import lloyd_max
from latentcast.delivery.deliver import deliver, draw_rates
from latentcast.delivery.episode import Episode
from latentcast.delivery.receiver import Receiver
from latentcast.delivery.sender import Sender
from latentcast.delivery.timeline import Timeline, psnr_db
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, Trajectory, shared_noise
from latentcast.errors import PacketError, ParameterError
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.policy.catalog import POLICY_NAMES, make_policy
from latentcast.policy.distortion import diffusion_distortion, total_distortion
from latentcast.scenario import Scenario

SHAPE: LatentShape = (4, 8, 8)
SIZE = 256
SCENARIO = Scenario.for_latent(SIZE, snr_db=6.0)
PATH = SCENARIO.path


@dataclass
class Script:
    """Transmits given steps with given bits, and remembers what it saw."""

    plan: Mapping[int, int]
    seen: list[Observation] = field(default_factory=list)
    name: str = "script"

    def decide(self, observation: Observation) -> Action:
        self.seen.append(observation)
        bits = self.plan.get(observation.step)
        return Wait() if bits is None else Transmit(bits)


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return Trajectory.record(GaussianSource(SHAPE, PATH), "words", seed=1)


def step_of(trajectory: Trajectory, index: int) -> Step:
    return Step(index, trajectory.samples[index][None], trajectory.clean_estimates[index][None])


def new_pair(trajectory: Trajectory, plan: Mapping[int, int]) -> tuple[Sender, Receiver]:
    noise = trajectory.samples[50]
    return Sender(SCENARIO, Script(plan), noise, uplink_slots=1), Receiver(PATH, noise)


def constant_rates(bits: float) -> npt.NDArray[np.float64]:
    return np.full(SCENARIO.deadline_slots, bits)


# The state machines.


def test_both_ends_hold_the_same_bits(trajectory: Trajectory) -> None:
    plan = {49: 3, 40: 1, 31: 8, 20: 4, 12: 16, 5: 3, 0: 10}
    sender, receiver = new_pair(trajectory, plan)
    for index in range(49, -1, -1):
        sender.offer(step_of(trajectory, index))
        packet = sender.poll(slot=60 - index)
        assert (packet is not None) == (index in plan)
        if packet is not None:
            assert len(packet) == packet_bytes(SIZE, plan[index])
            receiver.receive(packet)
            sender.delivered()
        assert (receiver.held_step, receiver.latent.tobytes()) == (
            sender.reference_step,
            sender.reference.tobytes(),
        )
    assert receiver.latent.shape == SHAPE
    assert receiver.latent.dtype == np.float32
    assert np.mean((receiver.latent - trajectory.samples[0]) ** 2) < 1e-3


def test_sender_is_busy_until_told_otherwise(trajectory: Trajectory) -> None:
    sender, receiver = new_pair(trajectory, {40: 4, 39: 4, 38: 4})
    for end in (sender.delivered, sender.lost):
        with pytest.raises(ParameterError, match="no transfer is under way"):
            end()
    assert sender.poll(1) is None
    sender.offer(step_of(trajectory, 40))
    assert sender.poll(2) is not None
    assert sender.in_flight is not None
    sender.offer(step_of(trajectory, 39))
    assert sender.poll(3) is None
    sender.lost()
    assert sender.reference_step == 50
    packet = sender.poll(4)
    assert packet is not None
    receiver.receive(packet)
    sender.delivered()
    assert receiver.held_step == sender.reference_step == 39
    assert sender.poll(5) is None  # nothing newer than what the device holds


def test_sender_refuses_what_does_not_fit(trajectory: Trajectory) -> None:
    sender, _ = new_pair(trajectory, {})
    sender.offer(step_of(trajectory, 30))
    sender.offer(step_of(trajectory, 30))
    with pytest.raises(ParameterError, match="step 31 came after step 30"):
        sender.offer(step_of(trajectory, 31))
    pair = np.repeat(trajectory.samples[20][None], 2, axis=0)
    with pytest.raises(ParameterError, match="shape"):
        sender.offer(Step(20, pair, pair))
    with pytest.raises(ParameterError, match=r"use Scenario\.for_latent\(64"):
        Sender(SCENARIO, Script({}), np.zeros((1, 8, 8), np.float32), uplink_slots=1)
    with pytest.raises(ParameterError, match="has 50 steps, the source 10"):
        Sender(
            SCENARIO, Script({}), trajectory.samples[50], uplink_slots=1, path=NoisePath.stable_diffusion(10)
        )


def test_receiver_refuses_packets_out_of_order(trajectory: Trajectory) -> None:
    sender, receiver = new_pair(trajectory, {40: 4, 30: 4})
    packets = []
    for index in (40, 30):
        sender.offer(step_of(trajectory, index))
        packet = sender.poll(1)
        assert packet is not None
        packets.append(packet)
        sender.delivered()
    with pytest.raises(PacketError, match="refines the latent of step 40, the device holds that of step 50"):
        receiver.receive(packets[1])
    receiver.receive(packets[0])
    held = receiver.latent.tobytes()
    with pytest.raises(PacketError, match="the device holds that of step 40"):
        receiver.receive(packets[0])
    assert (receiver.held_step, receiver.latent.tobytes()) == (40, held)
    receiver.receive(packets[1])
    assert receiver.held_step == 30


def test_nobody_can_change_what_the_device_holds(trajectory: Trajectory) -> None:
    noise = trajectory.samples[50].copy()
    receiver = Receiver(PATH, noise)
    before = noise.copy()
    noise[:] = 0.0
    assert np.array_equal(receiver.latent, before)
    sender, _ = new_pair(trajectory, {40: 3})
    sender.offer(step_of(trajectory, 40))
    packet = sender.poll(11)
    assert packet is not None
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            receiver.latent[0] = 0.0
        if receiver.held_step == 50:
            receiver.receive(packet)
    assert receiver.held_step == 40


def test_receiver_notices_that_it_drifted(trajectory: Trajectory) -> None:
    sender, _ = new_pair(trajectory, {40: 4})
    sender.offer(step_of(trajectory, 40))
    first = sender.poll(1)
    assert first is not None
    sender.delivered()
    other = NoisePath.from_alpha_bar(PATH.alpha_bar**1.01)
    sender = Sender(SCENARIO, Script({40: 4, 30: 4}), trajectory.samples[50], uplink_slots=1, path=other)
    receiver = Receiver(PATH, trajectory.samples[50])
    receiver.receive(first)
    sender.offer(step_of(trajectory, 40))
    assert sender.poll(1) == first  # the first transfer does not depend on the path
    sender.delivered()
    sender.offer(step_of(trajectory, 30))
    second = sender.poll(2)
    assert second is not None
    with pytest.raises(PacketError, match="another checksum"):
        receiver.receive(second)
    assert receiver.held_step == 40


def test_every_flipped_bit_and_every_cut_is_refused(trajectory: Trajectory) -> None:
    sender, receiver = new_pair(trajectory, {40: 1})
    sender.offer(step_of(trajectory, 40))
    packet = sender.poll(1)
    assert packet is not None
    for bit in range(8 * len(packet)):
        broken = bytearray(packet)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PacketError):
            receiver.receive(bytes(broken))
    for length in range(len(packet)):
        with pytest.raises(PacketError):
            receiver.receive(packet[:length])
    with pytest.raises(PacketError):
        receiver.receive(packet + b"\0")
    assert receiver.held_step == 50
    assert receiver.latent is trajectory.samples[50] or np.array_equal(
        receiver.latent, trajectory.samples[50]
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_raise_one_error(data: bytes) -> None:
    receiver = Receiver(PATH, shared_noise(0, SHAPE))
    with pytest.raises(PacketError):
        receiver.receive(data)
    assert receiver.held_step == 50


# Virtual time.


def test_slots_are_those_of_the_design(trajectory: Trajectory) -> None:
    # B_s = 128 bits: two slots of 100. A transfer of 4 bits per dimension is 1024 bits: eleven slots.
    policy = Script({48: 4, 30: 4})
    timeline = deliver(trajectory, SCENARIO, policy, rates_bits=constant_rates(100.0))
    assert timeline.uplink_slots == 2
    # x_49 is newest in slot 4, x_48 in slot 5; the transfer takes slots 5..15 and slot 16 is idle again.
    assert policy.seen[:3] == [
        Observation(slot=4, step=49, reference_step=50, uplink_slots=2),
        Observation(slot=5, step=48, reference_step=50, uplink_slots=2),
        Observation(16, 37, reference_step=48, uplink_slots=2, held_reference_step=50, held_bits=4),
    ]
    first, second = timeline.transmissions
    assert (first.slot, first.step, first.reference_step, first.bits_per_dimension) == (5, 48, 50, 4)
    assert (first.bytes, first.arrived_slot) == (packet_bytes(SIZE, 4), 15)
    assert (second.slot, second.step, second.reference_step, second.arrived_slot) == (23, 30, 48, 33)
    held = [record.held_step for record in timeline.slots]
    assert held == [50] * 14 + [48] * 18 + [30] * 28
    assert [record.slot for record in timeline.slots] == list(range(1, 61))
    # After x_0 it stays the newest: slot 53 on.
    assert [(seen.slot, seen.step) for seen in policy.seen[-9:]] == [(52, 1)] + [
        (slot, 0) for slot in range(53, 61)
    ]
    assert timeline.bits_sent == 2048
    assert timeline.bits_sent_by(4) == 0
    assert timeline.bits_sent_by(5) == 100
    assert timeline.bits_sent_by(22) == 1024


@pytest.mark.parametrize(("rate", "arrived"), [(1024 / 8, 60), (1024 / 8 - 1e-6, None)])
def test_the_last_bit_must_arrive_in_the_last_slot(
    trajectory: Trajectory, rate: float, arrived: int | None
) -> None:
    # One upload slot (128 bits) or two; x_0 at 4 bits starts in slot 53 at the earliest.
    policy = Script({0: 4})
    rates = constant_rates(rate)
    rates[:2] = 64.0
    timeline = deliver(trajectory, SCENARIO, policy, rates_bits=rates)
    assert timeline.uplink_slots == 2
    (sent,) = timeline.transmissions
    assert (sent.slot, sent.arrived_slot) == (53, arrived)
    assert timeline.bits_sent == (1024 if arrived else 1023)
    assert timeline.slots[-1].held_step == (0 if arrived else 50)
    assert [record.held_step for record in timeline.slots[:-1]] == [50] * 59


def test_nothing_is_sent_before_the_prompt_is_up(trajectory: Trajectory) -> None:
    policy = Script(dict.fromkeys(range(50), 3))
    timeline = deliver(trajectory, SCENARIO, policy, rates_bits=constant_rates(2.0))
    assert timeline.uplink_slots is None
    assert timeline.transmissions == ()
    assert policy.seen == []
    assert (timeline.bits_sent, timeline.slots[-1].held_step) == (0, 50)
    # The device's noise is independent of x_0: the true error is 2, not the formula's 1.848.
    assert timeline.latent_mse == pytest.approx(2.0, abs=4 * np.sqrt(2 * 4 / SIZE))


def test_generation_past_the_deadline_still_gives_x_0(trajectory: Trajectory) -> None:
    scenario = Scenario.for_latent(SIZE, snr_db=6.0, deadline_slots=20)
    timeline = deliver(trajectory, scenario, make_policy("lookahead", scenario))
    assert len(timeline.slots) == 20
    assert np.array_equal(timeline.final_latent, trajectory.samples[0])
    assert timeline.transmissions
    assert timeline.transmissions[-1].slot <= 20


def test_episode_runs_no_further_than_it_knows(trajectory: Trajectory) -> None:
    episode = Episode(SCENARIO, Script({}), trajectory.samples[50], constant_rates(200.0))
    slots = []
    for step in trajectory.steps():
        episode.advance(step)
        slots.append(episode.slot)
    # One upload slot; x_T is newest through slot 2, and every later step decides one slot more.
    assert slots == list(range(2, 53))
    assert episode.finish().slots[-1].slot == 60
    with pytest.raises(ParameterError, match="got step 5"):
        episode.advance(step_of(trajectory, 5))


def test_episode_refuses_gaps_and_bad_rates(trajectory: Trajectory) -> None:
    episode = Episode(SCENARIO, Script({}), trajectory.samples[50], constant_rates(200.0))
    with pytest.raises(ParameterError, match="got step 49; the next one is 50"):
        episode.advance(step_of(trajectory, 49))
    with pytest.raises(ParameterError, match="advance through step 0"):
        episode.finish()
    for rates in (np.ones(59), np.ones((1, 60)), np.full(60, np.nan), np.full(60, -1.0)):
        with pytest.raises(ParameterError, match="rates_bits"):
            Episode(SCENARIO, Script({}), trajectory.samples[50], rates)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_timelines_of_all_policies_are_consistent(trajectory: Trajectory, name: str) -> None:
    timeline = deliver(trajectory, SCENARIO, make_policy(name, SCENARIO))
    assert np.array_equal(timeline.rates_bits, draw_rates(SCENARIO, trajectory.seed))
    busy_until = timeline.uplink_slots or 0
    reference = 50
    for sent in timeline.transmissions:
        assert sent.slot > busy_until
        assert sent.reference_step == reference
        size = SIZE * sent.bits_per_dimension
        end = sent.arrived_slot or 60
        carried = timeline.rates_bits[sent.slot - 1 : end].sum()
        assert (carried >= size) == (sent.arrived_slot is not None)
        assert timeline.rates_bits[sent.slot - 1 : end - 1].sum() < size
        busy_until, reference = end, sent.step
        newest = 50 - min(50, sent.slot - (timeline.uplink_slots or 0) - 1)
        assert sent.step == newest
    for record in timeline.slots:
        expected = np.mean((timeline.held_after(record.slot).latent - trajectory.samples[0]) ** 2)
        assert record.latent_mse == pytest.approx(expected, rel=1e-5)
    assert timeline.latent_mse == timeline.slots[-1].latent_mse
    assert timeline.bits_sent == timeline.bits_sent_by(60)


# Measured errors against the paper's model.

NUM_EPISODES = 300


@pytest.fixture(scope="module")
def trajectories() -> list[Trajectory]:
    source = GaussianSource(SHAPE, PATH)
    steps = list(source.steps([""] * NUM_EPISODES, list(range(NUM_EPISODES))))[::-1]
    samples = np.stack([step.sample for step in steps], axis=1)
    estimates = np.stack([step.clean_estimate for step in steps], axis=1)
    return [
        Trajectory(samples=one, clean_estimates=estimate, prompt="", seed=seed, path=PATH)
        for seed, (one, estimate) in enumerate(zip(samples, estimates, strict=True))
    ]


def measured_error(trajectories: Sequence[Trajectory], plan: Mapping[int, int]) -> tuple[float, float]:
    """Mean error at the deadline and its standard error; every transfer takes one slot."""
    errors = np.array(
        [
            deliver(trajectory, SCENARIO, Script(plan), rates_bits=constant_rates(5000.0)).latent_mse
            for trajectory in trajectories
        ]
    )
    return float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(len(errors)))


@pytest.mark.parametrize(
    ("step", "bits"), [(0, 1), (0, 3), (1, 4), (3, 8), (20, 10), (35, 16), (49, 16), (45, 3)]
)
def test_error_of_a_single_transfer(trajectories: list[Trajectory], step: int, bits: int) -> None:
    mean, standard_error = measured_error(trajectories, {step: bits})
    base = lloyd_max(bits).mse if bits < 16 else 0.0
    # Cell centroids make the quantisation error correlate with x_t, E[e x_t] = -D, which eq. 8 neglects:
    # the exact sum is D_diff + (2 a_t - 1) D. For the final samples, a_t near 1, it is D_total.
    exact = float(diffusion_distortion(PATH, step)) + (2 * PATH.signal[step] - 1) * base
    assert mean == pytest.approx(exact, abs=4 * standard_error + 1e-6)
    if step <= 3:
        predicted = float(total_distortion(PATH, step, 50, bits, base="lloyd-max"))
        assert mean == pytest.approx(predicted, rel=0.01, abs=4 * standard_error + 1e-6)


@pytest.mark.parametrize(
    ("first", "step", "bits"), [(45, 30, 3), (30, 5, 4), (20, 0, 3), (10, 0, 1), (40, 20, 8)]
)
def test_error_of_a_refinement_of_an_exact_latent(
    trajectories: list[Trajectory], first: int, step: int, bits: int
) -> None:
    # z is the forward noise, independent of x_t and x_0: with an exact reference eqs. 8 to 10 hold exactly.
    mean, standard_error = measured_error(trajectories, {first: 16, step: bits})
    predicted = float(total_distortion(PATH, step, first, bits, base="lloyd-max"))
    assert mean == pytest.approx(predicted, abs=4 * standard_error + 1e-5)


def test_carried_error_widens_the_refinement(trajectories: list[Trajectory]) -> None:
    # 5 -> 0 at 3 bits after 3 bits. The carried error e makes z' = z - (r / sigma) e of variance
    # 1 + r^2 D / sigma^2 - 2 D, where E[z e] = sigma D / r; the quantiser made for variance 1 saturates.
    base = lloyd_max(3)
    sigma_squared = float(PATH.alpha_bar[0] / PATH.alpha_bar[5] - 1)
    variance = 1 + base.mse * (1 + sigma_squared) / sigma_squared - 2 * base.mse
    z = np.sqrt(variance) * stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    mismatched = np.mean((z - base.levels[np.searchsorted(base.thresholds, z)]) ** 2)
    assert mismatched > 1.4 * base.mse
    mean, standard_error = measured_error(trajectories, {5: 3, 0: 3})
    predicted = float(total_distortion(PATH, 0, 5, 3, base="lloyd-max"))
    assert mean > predicted + 10 * standard_error
    # e is not Gaussian, so neither is z'.
    assert mean == pytest.approx(sigma_squared * mismatched, rel=0.15)


# One call.


class Counting:
    """A source that tells whether it was closed."""

    name = "counting"
    latent_shape = SHAPE
    path = PATH

    def __init__(self) -> None:
        self.closed = False

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        try:
            yield from GaussianSource(SHAPE, PATH).steps(prompts, seeds)
        finally:
            self.closed = True

    def decode(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        levels = np.clip(128 + 40 * latents[:, :3].transpose(0, 2, 3, 1), 0, 255)
        return levels.astype(np.uint8)


def test_prompt_and_trajectory_give_the_same_episode(trajectory: Trajectory) -> None:
    policy = make_policy("persistent-4", SCENARIO)
    model = Counting()
    steps: list[int] = []
    live = deliver(
        "words", SCENARIO, policy, model=model, seed=1, progress=lambda step: steps.append(step.index)
    )
    replayed = deliver(trajectory, SCENARIO, policy, model=model)
    assert steps == list(range(50, -1, -1))
    assert model.closed
    assert live.to_dict() == replayed.to_dict()
    assert live.model == "counting"
    assert live.psnr_db is not None
    expected = psnr_db(*model.decode(np.stack([live.held[-1].latent, live.final_latent])))
    assert live.psnr_db == expected


def test_timeline_is_json_with_the_stated_fields(trajectory: Trajectory) -> None:
    timeline = deliver(trajectory, SCENARIO, make_policy("persistent-8", SCENARIO), seed=5)
    record = json.loads(json.dumps(timeline.to_dict(), allow_nan=False))
    assert list(record) == [
        "prompt",
        "model",
        "policy",
        "seed",
        "scenario",
        "uplink_slots",
        "transmissions",
        "slots",
        "latent_mse",
        "psnr_db",
        "bits_sent",
    ]
    assert list(record["transmissions"][0]) == [
        "slot",
        "step",
        "reference_step",
        "bits_per_dimension",
        "bytes",
        "link_bits",
        "expected_mse",
        "arrived_slot",
    ]
    assert list(record["slots"][0]) == ["slot", "held_step", "latent_mse"]
    assert Scenario(**record["scenario"]) == SCENARIO
    assert (record["seed"], record["policy"], record["model"], record["psnr_db"]) == (
        5,
        "persistent-8",
        None,
        None,
    )


def test_rates_are_common_and_grow_with_the_deadline() -> None:
    longer = Scenario.for_latent(SIZE, snr_db=6.0, deadline_slots=90)
    assert np.array_equal(draw_rates(SCENARIO, 3), draw_rates(longer, 3)[:60])
    assert not np.array_equal(draw_rates(SCENARIO, 3), draw_rates(SCENARIO, 4))


def test_a_failing_policy_stops_the_source() -> None:
    class Failing:
        name = "failing"

        def decide(self, observation: Observation) -> Action:
            raise ZeroDivisionError(observation.slot)

    model = Counting()
    with pytest.raises(ZeroDivisionError):
        deliver("words", SCENARIO, Failing(), model=model)
    assert model.closed


def test_a_scenario_for_another_latent_is_refused(trajectory: Trajectory) -> None:
    scenario = Scenario.paper(snr_db=3.0)
    with pytest.raises(ParameterError, match=r"use Scenario\.for_latent\(256, snr_db=3\)"):
        deliver(trajectory, scenario, make_policy("lookahead", scenario))


def test_held_after_reads_the_timeline(trajectory: Trajectory) -> None:
    timeline: Timeline = deliver(trajectory, SCENARIO, Script({40: 4}), rates_bits=constant_rates(512.0))
    assert [held.step for held in timeline.held] == [50, 40]
    arrival = timeline.held[1].slot
    assert timeline.held_after(arrival - 1).step == 50
    assert timeline.held_after(arrival).step == 40
