"""Both ends of the progressive scheme over a whole request."""

import numpy as np
import pytest
from numpy.typing import NDArray

from latentcast.codec.calibration import Calibration
from latentcast.codec.progressive import Refined
from latentcast.delivery.progressive import HeldState, ProgressiveReceiver, ProgressiveSender
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import LatentShape, Step
from latentcast.errors import PacketError
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario
from latentcast.study.limits import gaussian_mmse, sequential_limit

FloatArray = NDArray[np.float64]
Latent = NDArray[np.float32]

SHAPE = (4, 16, 16)
SIZE = 1024


def scenario(snr_db: float, deadline_slots: int = 60) -> Scenario:
    return Scenario.for_latent(SIZE, snr_db=snr_db, deadline_slots=deadline_slots)


def run(
    setting: Scenario,
    steps: list[Step],
    rates: FloatArray,
    policy: ProgressivePolicy,
    shape: LatentShape = SHAPE,
    arrives: FloatArray | None = None,
) -> tuple[ProgressiveSender, ProgressiveReceiver, list[tuple[float, float]]]:
    """Simulate slot by slot; `arrives` is the share of each packet that gets through.

    Returns both ends, and the error to the target before and after every packet.
    """
    uplink = int(uplink_slots(rates[None], setting.uplink_bits)[0])
    sender = ProgressiveSender(setting, policy, shape, uplink_slots=uplink)
    receiver = ProgressiveReceiver(shape)
    errors = []
    for slot in range(uplink + 1, setting.deadline_slots + 1):
        newest = steps[min(slot - uplink - 1, setting.num_steps)]
        if newest.index < sender.step or slot == uplink + 1:
            sender.offer(newest)
        target = policy.calibration.target(newest)[0]
        packet = sender.poll(slot, float(rates[slot - 1]))
        if packet is None:
            continue
        assert 8 * len(packet) <= rates[slot - 1]
        before = float(np.mean((target - receiver.coefficients) ** 2, dtype=np.float64))
        share = 1.0 if arrives is None else float(arrives[slot - 1])
        length = int(share * len(packet))
        try:
            receiver.receive(packet[:length])
        except PacketError:
            # Not even the header came through.
            sender.lost()
        else:
            sender.delivered(length)
        assert sender.reference.tobytes() == receiver.latent.tobytes()
        errors.append((before, float(np.mean((target - receiver.coefficients) ** 2, dtype=np.float64))))
    return sender, receiver, errors


@pytest.mark.parametrize("snr_db", [-9.0, 0.0, 9.0, 24.0])
@pytest.mark.parametrize("shaped", [False, True])
def test_no_packet_makes_the_device_worse(snr_db: float, shaped: bool) -> None:
    setting = scenario(snr_db)
    make = GaussianSource.natural if shaped else GaussianSource
    source = make(SHAPE, setting.path)
    policy = ProgressivePolicy(setting, Calibration.gaussian(source))
    rates = setting.link.sample(1, 60, rng=np.random.default_rng(1))[0]
    _, _, errors = run(setting, list(source.steps([""], [3])), rates, policy)
    assert len(errors) > 10
    assert all(after < before for before, after in errors)


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_packets_do_not_either(seed: int) -> None:
    setting = scenario(3.0)
    source = GaussianSource(SHAPE, setting.path)
    rng = np.random.default_rng(seed)
    rates = setting.link.sample(1, 60, rng=rng)[0]
    _, _, errors = run(
        setting,
        list(source.steps([""], [seed])),
        rates,
        ProgressivePolicy(setting),
        arrives=rng.uniform(0, 1, 60),
    )
    # A number may be off by the quantiser's noise where the whole packet would have made up for it.
    assert all(after <= before * (1.0 + 1e-3) for before, after in errors)
    assert sum(after < before for before, after in errors) > 20


def test_a_packet_that_would_make_things_worse_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = scenario(0.0)
    source = GaussianSource(SHAPE, setting.path)
    made = []

    def worse(target: Latent, held: Latent, **options: object) -> object:
        made.append(options)
        return Refined(data=b"worse", held=held - 1e-3 * target, next_start=0, num_refined=1, complete=True)

    monkeypatch.setattr("latentcast.delivery.progressive.make_packet", worse)
    sender, _, errors = run(
        setting,
        list(source.steps([""], [0])),
        setting.link.sample(1, 60, rng=np.random.default_rng(0))[0],
        ProgressivePolicy(setting),
    )
    assert made
    assert not errors
    assert sender.in_flight is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snr_db", "deadline_slots"),
    [(-6.0, 60), (6.0, 60), (18.0, 60), (0.0, 30), (0.0, 90), (3.0, 90)],
)
def test_the_limit_is_three_decibels_away(snr_db: float, deadline_slots: int) -> None:
    setting = Scenario.for_latent(16384, snr_db=snr_db, deadline_slots=deadline_slots)
    source = GaussianSource((4, 64, 64), setting.path)
    rates = setting.link.sample(4, deadline_slots, rng=np.random.default_rng(7))
    limit = sequential_limit(
        rates,
        latent_size=16384,
        uplink=uplink_slots(rates, setting.uplink_bits),
        mmse=gaussian_mmse(setting.path),
    )
    policy = ProgressivePolicy(setting)
    errors = []
    for item, slots in enumerate(rates):
        steps = list(source.steps([""], [item]))
        _, receiver, _ = run(setting, steps, slots, policy, (4, 64, 64))
        final = policy.calibration.target(steps[-1])[0]
        errors.append(np.mean((receiver.coefficients - final) ** 2, dtype=np.float64))
    # An episode's distance deviates by 0.3 dB, by what its last slots happen to carry.
    assert 10 * np.log10(np.mean(errors) / limit.mean()) < 3.0 + 2.0 * 0.3 / np.sqrt(4)


def test_an_early_estimate_is_coded_no_finer_than_its_own_error_is_worth() -> None:
    setting = scenario(24.0)
    source = GaussianSource(SHAPE, setting.path)
    policy = ProgressivePolicy(setting)
    sender = ProgressiveSender(setting, policy, SHAPE, uplink_slots=1)
    steps = {step.index: step for step in source.steps([""], [0])}
    plenty = 64.0 * setting.latent_size
    for index in (40, 20, 5):
        sender.offer(steps[index])
        mmse = float(policy.calibration.mmse[index])
        for _ in range(4):
            packet = sender.poll(setting.deadline_slots - 1, plenty)
            if packet is None:
                break
            # A thousandth of its error takes 0.5 log2(V / 0.001 mmse) bits at most, and V is 1 or less.
            assert 8 * len(packet) < setting.latent_size * (2.0 + 0.5 * np.log2(1000.0 / mmse))
            sender.delivered()
        # Nothing more comes of this estimate, and what the device lacks of it is hidden: some 0.01 dB.
        assert packet is None
        assert sender.expected_mse < 1.003 * mmse
    sender.offer(steps[0])
    assert sender.poll(setting.deadline_slots - 1, plenty) is not None  # x_0 itself as finely as may be
    sender.delivered()
    assert sender.expected_mse < 1e-8


@pytest.mark.parametrize(("lack", "sends"), [(0.0005, False), (0.01, True)])
def test_what_the_estimates_error_hides_is_not_sent(lack: float, sends: bool) -> None:
    setting = scenario(24.0)
    source = GaussianSource(SHAPE, setting.path)
    policy = ProgressivePolicy(setting)
    sender = ProgressiveSender(setting, policy, SHAPE, uplink_slots=1)
    step = next(step for step in source.steps([""], [0]) if step.index == 20)
    sender.offer(step)
    deviation = np.sqrt(lack * policy.calibration.mmse[20])
    noise = np.random.default_rng(0).standard_normal(setting.latent_size).astype(np.float32)
    held = policy.calibration.target(step)[0] + np.float32(deviation) * noise
    sender.go_on_from(HeldState(coefficients=held, next_start=0, step=21))
    assert (sender.poll(setting.deadline_slots - 1, 64.0 * setting.latent_size) is not None) is sends
