"""Going on from what a device holds: what the live service asks of the progressive sender."""

import numpy as np
import pytest

from latentcast.delivery.progressive import HeldState, ProgressiveReceiver, ProgressiveSender
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import Step
from latentcast.errors import PacketError
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

SHAPE = (4, 8, 8)
SCENARIO = Scenario.for_latent(256, snr_db=6.0, num_steps=10, deadline_slots=20)


def steps() -> list[Step]:
    return list(GaussianSource(SHAPE, SCENARIO.path).steps([""], [3]))


def fresh() -> ProgressiveSender:
    return ProgressiveSender(SCENARIO, ProgressivePolicy(SCENARIO), SHAPE, uplink_slots=1)


def send(sender: ProgressiveSender, slot: int, max_bytes: int = 60) -> bytes:
    packet = sender.poll(slot, 8.0 * max_bytes)
    assert packet is not None
    sender.delivered()
    return packet


def test_a_prefix_is_gone_on_from_bit_for_bit() -> None:
    sender, receiver = fresh(), ProgressiveReceiver(SHAPE)
    for number, step in enumerate(steps()[:6]):
        sender.offer(step)
        if step.index < 10:
            before, step_sent = sender.state, step.index
            packet = send(sender, number + 2)
            if number < 5:
                receiver.receive(packet)
    # Half of the last packet came; more was made that never did.
    half = packet[: len(packet) // 2]
    receiver.receive(half)
    sender.offer(steps()[6])
    send(sender, 8)
    sender.go_on_from(before.refined(half, step_sent))
    assert np.array_equal(sender.state.coefficients, receiver.coefficients)
    assert sender.reference_step == step_sent
    for step in steps()[7:]:
        sender.offer(step)
    for slot in range(12, 21):
        receiver.receive(send(sender, slot))
        assert np.array_equal(sender.state.coefficients, receiver.coefficients)
    assert sender.expected_mse < 0.1


def test_restarts_from_zeros() -> None:
    sender = fresh()
    for step in steps():
        sender.offer(step)
    send(sender, 12)
    send(sender, 13)
    sender.go_on_from(None)
    assert not sender.state.coefficients.any()
    assert (sender.state.next_start, sender.reference_step, sender.in_flight) == (0, 10, None)
    receiver = ProgressiveReceiver(SHAPE)
    for slot in range(14, 21):
        receiver.receive(send(sender, slot))
    assert np.array_equal(sender.state.coefficients, receiver.coefficients)


def test_what_is_expected_is_what_comes() -> None:
    sender = fresh()
    for step in steps():
        sender.offer(step)
    assert sender.expected_mse == pytest.approx(float(np.mean(steps()[-1].sample ** 2)), rel=1e-5)
    send(sender, 13)
    error = float(np.mean((sender.reference - steps()[-1].sample[0]) ** 2))
    assert sender.expected_mse == pytest.approx(error, rel=1e-4)


def test_several_packets_share_a_slot() -> None:
    whole, parts = fresh(), fresh()
    for sender in (whole, parts):
        for step in steps():
            sender.offer(step)
    packet = whole.poll(20, 960.0)
    assert packet is not None
    whole.delivered()
    for left in (120, 90, 60, 30):
        part = parts.poll(20, 8.0 * left, max_bytes=30)
        assert part is not None
        assert len(part) <= 30
        parts.delivered()
    # Three more headers of 40 bits are half a bit of every number, 2.8 dB.
    assert whole.expected_mse < parts.expected_mse < 2.5 * whole.expected_mse


def test_too_short_a_prefix_is_refused() -> None:
    state = HeldState(coefficients=np.zeros(256, np.float32), next_start=0, step=10)
    with pytest.raises(PacketError, match="shorter than its header"):
        state.refined(b"\x33", 9)
