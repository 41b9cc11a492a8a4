"""What the simulator says of a live request: same trajectory, pace of denoising and rates, in virtual time.

Used by live_over_link.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.codec.calibration import Calibration
from latentcast.delivery.deliver import deliver
from latentcast.diffusion.source import Trajectory
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import HEADER_BYTES, TokenBucket
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

# Frame of a WebSocket message, and a REFINEMENT's own fields.
MESSAGE_BYTES = HEADER_BYTES + 2 + 8
# A packet that shows something: about 20 numbers of the latent, the lowest frequencies.
SMALLEST_PACKET_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When a live request was denoised, in seconds since the device asked.

    Attributes:
        first: when the first step (x_T) was there.
        last: when the last one was, of those done before the deadline.
        steps: denoising steps between them.
        deadline: when the device showed what it held.
    """

    first: float
    last: float
    steps: int
    deadline: float

    @property
    def slot_seconds(self) -> float:
        """Time of a step, as it really was."""
        return max((self.last - self.first) / max(self.steps, 1), 1e-3)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Where the simulator's slots begin and end: the upload, then one slot for every step.

        The slot of a step begins when it is there. Those after x_0, whose length is of no account to
        denoising, are so long that a whole number of them ends at the deadline.
        """
        steps = self.first + self.slot_seconds * np.arange(self.steps + 1)
        before = steps[steps < self.deadline - 0.5 * self.slot_seconds]
        if before.size == 0:
            return np.array([0.0, 0.5, 1.0, 1.5]) * self.deadline
        rest = self.deadline - before[-1]
        num_slots = max(round(rest / self.slot_seconds), 1)
        after = before[-1] + rest * np.arange(1, num_slots + 1) / num_slots
        return np.concatenate(([0.0], before, after))


def arrived_bits(
    arrivals: Sequence[tuple[float, int]], begun: float, edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Bits of packets that arrived in each slot, each spread over the time since the one before.

    Args:
        arrivals: seconds since the request and bytes, in order.
        begun: when the first packet cannot have begun to arrive before.
        edges: where slots begin and end.
    """
    times, sums = [begun], [0.0]
    for seconds, num_bytes in arrivals:
        times.append(max(seconds, times[-1] + 1e-9))
        sums.append(sums[-1] + 8.0 * num_bytes)
    return np.diff(np.interp(edges, times, sums))


def predicted_mse(
    trajectory: Trajectory, calibration: Calibration, rates_bits: npt.NDArray[np.float64]
) -> float:
    """Error at the deadline that `deliver` reaches on rates of slots by `Pace.edges`."""
    if not rates_bits.sum() > 0.0:
        return float(np.mean(trajectory.samples[0] ** 2))
    rates = rates_bits.copy()
    # Whatever was uploaded took the one slot until x_T.
    rates[0] = max(rates[0], 1.0)
    scenario = Scenario.for_latent(
        trajectory.samples[0].size,
        snr_db=0.0,
        num_steps=trajectory.num_steps,
        deadline_slots=rates.size,
        uplink_bits=float(rates[0]) - 0.5,
    )
    policy = ProgressivePolicy(scenario, calibration, mean_rate_bits=max(float(rates[1:].mean()), 1.0))
    return deliver(trajectory, scenario, policy, rates_bits=rates).latent_mse


def could_carry_one(
    schedule: RateSchedule, asked: float, pace: Pace, request_bytes: int, ready_bytes: int
) -> bool:
    """Whether request, READY and the smallest packet fit before the deadline, one after the other.

    Args:
        schedule: the link, in time since `asked` of its own.
        asked: when the device asked, in the schedule's time.
        pace: when there was something to send.
        request_bytes: length of the REQUEST message.
        ready_bytes: length of the READY message.
    """
    uplink, downlink = (TokenBucket(schedule, start_seconds=-asked) for _ in range(2))
    there = uplink.send(request_bytes + HEADER_BYTES + 8, 0.0)
    ready = downlink.send(ready_bytes + HEADER_BYTES + 4, there)
    # The first estimate comes with the step after x_T.
    packet = downlink.send(SMALLEST_PACKET_BYTES + MESSAGE_BYTES, max(ready, pace.first + pace.slot_seconds))
    return packet <= pace.deadline
