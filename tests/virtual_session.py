"""A server's and a device's session in virtual time, with a virtual link between them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.calibration import Calibration
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, Trajectory
from latentcast.errors import ProtocolError
from latentcast.live.device_session import DeviceSession
from latentcast.live.messages import Cancel, Ping, Pong, Request, Resume
from latentcast.live.protocol import decode, encode, failure_of
from latentcast.live.served_model import ServedModel
from latentcast.live.server_session import ServerSession
from virtual_link import VirtualLink

_CALIBRATIONS: dict[int, Calibration] = {}


def _calibration(num_steps: int) -> Calibration:
    if num_steps not in _CALIBRATIONS:
        _CALIBRATIONS[num_steps] = Calibration.white(NoisePath.stable_diffusion(num_steps))
    return _CALIBRATIONS[num_steps]


def gaussian_model(shape: LatentShape) -> ServedModel:
    """White Gaussian latents, whose calibration is exact."""
    return ServedModel(
        name="gaussian", latent_shape=shape, path=NoisePath.stable_diffusion, calibration=_calibration
    )


def gaussian_steps(shape: LatentShape, num_steps: int, seed: int = 0) -> list[Step]:
    """t = T - 1, ..., 0."""
    source = GaussianSource(shape, NoisePath.stable_diffusion(num_steps))
    return list(source.steps([""], [seed]))[1:]


def gaussian_trajectory(shape: LatentShape, num_steps: int, seed: int = 0) -> Trajectory:
    """The same run, recorded."""
    return Trajectory.record(GaussianSource(shape, NoisePath.stable_diffusion(num_steps)), "", seed)


@dataclass
class World:
    """Runs one request; what happens on the way may be changed by the hooks.

    Attributes:
        device: The device's session.
        steps: t = T - 1, ..., 0; each is ready one slot after the one before.
        shape: Of the latents.
        link: Downlink.
        slot: Seconds of a step.
        uplink: One way, seconds.
        tamper: Changes a message on its way down: returns what arrives in its place, in order.
        breaks_at: When the connection breaks; it comes back `back_after` later.
        on_server: Called after each change of the server, with the time.
        step_times: When the steps are ready, after the request; None for one per slot.
    """

    device: DeviceSession
    steps: list[Step]
    shape: LatentShape
    link: VirtualLink
    slot: float
    uplink: float = 0.0
    tamper: Callable[[bytes, float], list[bytes]] = lambda data, now: [data]
    breaks_at: tuple[float, ...] = ()
    back_after: float = 0.05
    on_server: Callable[[ServerSession, float], None] = lambda server, now: None
    step_times: list[float] | None = None
    clock: Callable[[float], float] = lambda now: now
    server: ServerSession | None = None
    errors: list[str] = field(default_factory=list)
    steps_offered: int = 0
    now: float = 0.0
    sent_down: int = 0
    most_kept: int = 0
    most_in_flight: int = 0

    def run(self, until: float) -> None:
        """Let it happen."""
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = count()
        self._connection = 0
        self._wakes: dict[str, float] = {}
        for moment in self.breaks_at:
            self._at(moment, "break", None)
        self._at(self.now, "connect", None)
        while self._events:
            moment, _, kind, what = heapq.heappop(self._events)
            if moment > until:
                break
            self.now = moment
            getattr(self, f"_{kind}")(what)
            self._pump()

    def _at(self, moment: float, kind: str, what: object) -> None:
        heapq.heappush(self._events, (moment, next(self._order), kind, what))

    def _connect(self, _: object) -> None:
        if self.device.wants_connection:
            self._connection += 1
            self.device.connected(self.clock(self.now))

    def _break(self, _: object) -> None:
        self._connection += 1
        self.device.lost(self.clock(self.now))
        if self.server is not None:
            self.server.detach(self.now)
        self._at(self.now + self.back_after, "connect", None)

    def _wake(self, who: str) -> None:
        self._wakes.pop(who, None)

    def _step(self, step: Step) -> None:
        if self.server is not None and self.server.wants_steps:
            self.steps_offered += 1
            self.server.offer(step)

    def _down(self, what: tuple[int, bytes]) -> None:
        connection, data = what
        if connection == self._connection:
            self.device.receive(data, self.clock(self.now))

    def _up(self, what: tuple[int, bytes]) -> None:
        connection, data = what
        if connection != self._connection:
            return
        message = decode(data, sender="device")
        if isinstance(message, Request):
            assert self.server is None
            self.server = ServerSession(
                request=message,
                session="s",
                key="k",
                model=gaussian_model(self.shape),
                slot_seconds=self.slot,
                num_steps=len(self.steps),
                received_at=self.now,
            )
            times = self.step_times or [self.slot * (n + 1) for n in range(len(self.steps))]
            for moment, step in zip(times, self.steps, strict=True):
                self._at(self.now + moment, "step", step)
        elif isinstance(message, Resume):
            assert self.server is not None
            self.server.attach(message, self.now)
        elif self.server is not None and self.server.attached:
            try:
                self.server.receive(message, self.now)
            except ProtocolError as error:
                self.errors.append(str(error))
                self._send_down(encode(failure_of(error)))
        elif isinstance(message, Ping):
            self._send_down(encode(Pong(message.nonce)))
        else:
            assert isinstance(message, Cancel)

    def _send_down(self, data: bytes) -> None:
        for part in self.tamper(data, self.now):
            self.sent_down += len(part)
            self._at(self.link.send(len(part), self.now), "down", (self._connection, part))

    def _pump(self) -> None:
        for data in self.device.poll(self.clock(self.now)):
            self._at(self.now + self.uplink, "up", (self._connection, data))
        self._remind("device", self.device.next_poll(self.clock(self.now)))
        if self.server is not None:
            for data in self.server.poll(self.now):
                self._send_down(data)
            self._remind("server", self.server.next_poll(self.now))
            self.on_server(self.server, self.now)

    def _remind(self, who: str, moment: float | None) -> None:
        if moment is None:
            return
        if who == "device":
            moment = self.now + moment - self.clock(self.now)
        # Rounding must not wake it a moment too early for ever.
        moment = max(moment, self.now) + 1e-9
        if moment < self._wakes.get(who, np.inf):
            self._wakes[who] = moment
            self._at(moment, "wake", who)


def held_by(server: ServerSession) -> NDArray[np.float32]:
    """What the server believes the device holds once everything has arrived, as a latent."""
    return np.asarray(server._stream._sender.reference)  # type: ignore[attr-defined]
