"""A live request in virtual time: both sessions of the service, and a link that charges what a network does.

Nothing waits and nothing is late, so that what is left between this and the simulator is the protocol's own:
headers, acknowledgements, an estimated rate. Used by live_over_link.py.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from latentcast.diffusion.source import Trajectory
from latentcast.live.device_session import DeviceSession
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import HEADER_BYTES, LinkCounters, TokenBucket
from latentcast.live.messages import Ping, Pong, Request
from latentcast.live.protocol import decode, encode
from latentcast.live.served_model import ServedModel
from latentcast.live.server_session import ServerSession

# Frames of WebSocket messages of less than 126 bytes and of more; a device's have a mask, too.
FRAME_BYTES, LONG_FRAME_BYTES, MASK_BYTES = 2, 4, 4


class Rehearsal:
    """One request over a link.

    Args:
        device: The device's side, which has not asked yet.
        trajectory: What the server generates.
        model: As the server knows it.
        schedule: The link; the device connects at its time 0.
        step_seconds: Time of a denoising step.

    Attributes:
        downlink: What was carried to the device.
        asked: When the device asked.
        begun: When the server had the request.
        marks: Bytes carried to the device when it asked and when it showed what it had.
    """

    def __init__(
        self,
        device: DeviceSession,
        trajectory: Trajectory,
        model: ServedModel,
        schedule: RateSchedule,
        step_seconds: float,
    ) -> None:
        self.device = device
        self.downlink = LinkCounters()
        self.asked = self.begun = float("nan")
        self.marks: list[int] = []
        self._trajectory = trajectory
        self._model = model
        self._step_seconds = step_seconds
        self._down, self._up = (TokenBucket(schedule, start_seconds=0.0) for _ in range(2))
        self._server: ServerSession | None = None
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = count()
        self._now = 0.0

    def run(self) -> None:
        """Let it happen."""
        self.device.connected(0.0)
        while not self.device.ended:
            self._send()
            if self.device.ended:
                return
            wakes = [self.device.next_poll(self._now)]
            if self._server is not None:
                wakes.append(self._server.next_poll(self._now))
            # A moment later, lest rounding wake a session just before its time for ever.
            wake = min(moment for moment in wakes if moment is not None) + 1e-9
            if self._events and self._events[0][0] <= wake:
                self._now, _, happen, what = heapq.heappop(self._events)
                happen(what)
            else:
                self._now = max(wake, self._now)

    def _send(self) -> None:
        for data in self.device.poll(self._now):
            self._at(self._up.send(_charged(data) + MASK_BYTES, self._now), self._to_server, data)
        if self.device.deadline is not None and not self.marks:
            self.asked = self._now
            self.marks.append(self.downlink.bytes)
        if self.device.is_over and len(self.marks) == 1:
            self.marks.append(self.downlink.bytes)
        if self._server is not None:
            for data in self._server.poll(self._now):
                self._to_device(data)

    def _to_device(self, data: bytes) -> None:
        self._at(self._down.send(_charged(data), self._now), self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        self.downlink.count(_charged(data))
        self.device.receive(data, self._now)

    def _to_server(self, data: bytes) -> None:
        message = decode(data, sender="device")
        if self._server is not None:
            self._server.receive(message, self._now)
        elif isinstance(message, Ping):
            self._to_device(encode(Pong(message.nonce)))
        elif isinstance(message, Request):
            self._server = ServerSession(
                request=message,
                session="rehearse",
                key="rehearsed-000000",
                model=self._model,
                slot_seconds=self._step_seconds,
                num_steps=self._trajectory.num_steps,
                received_at=self._now,
            )
            self.begun = self._now
            for number, step in enumerate(self._trajectory.steps()):
                if number > 0:
                    self._at(self._now + number * self._step_seconds, self._server.offer, step)

    def _at(self, moment: float, happen: Callable[[Any], None], what: object) -> None:
        if moment < float("inf"):
            heapq.heappush(self._events, (moment, next(self._order), happen, what))


def _charged(data: bytes) -> int:
    return len(data) + HEADER_BYTES + (FRAME_BYTES if len(data) < 126 else LONG_FRAME_BYTES)
