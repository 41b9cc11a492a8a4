"""A session in memory, in virtual time: compiles what is compiled on first use before anybody waits."""

from __future__ import annotations

import numpy as np

from latentcast.diffusion.source import Step
from latentcast.live.device_session import DeviceSession
from latentcast.live.messages import Ping, Pong, Request
from latentcast.live.protocol import decode, encode
from latentcast.live.served_model import ServedModel
from latentcast.live.server_session import ServerSession

__all__ = ["rehearse"]

_SLOT_SECONDS = 0.05
_TICK_SECONDS = 0.0125


def rehearse(model: ServedModel, num_steps: int) -> bool:
    """Deliver noise over a link without delay.

    Args:
        model: What is served; nothing is generated.
        num_steps: T.

    Returns:
        Whether device and server agreed on what was delivered.

    Example:
        >>> from latentcast.codec.calibration import Calibration
        >>> from latentcast.diffusion.path import NoisePath
        >>> path = NoisePath.stable_diffusion
        >>> model = ServedModel(
        ...     name="m", latent_shape=(4, 8, 8), path=path, calibration=lambda n: Calibration.white(path(n))
        ... )
        >>> rehearse(model, 10)
        True
    """
    rng = np.random.default_rng(0)
    device = DeviceSession(prompt="rehearsal", deadline_seconds=(num_steps + 10) * _SLOT_SECONDS, seed=0)
    device.connected(0.0)
    session: ServerSession | None = None
    to_server: list[bytes] = []
    for tick in range(4 * (num_steps + 60)):
        now = tick * _TICK_SECONDS
        to_server += device.poll(now)
        for data in to_server:
            message = decode(data, sender="device")
            if session is None and isinstance(message, Request):
                session = ServerSession(
                    request=message,
                    session="rehearsal",
                    key="rehearsal",
                    model=model,
                    slot_seconds=_SLOT_SECONDS,
                    num_steps=num_steps,
                    received_at=now,
                )
            elif session is not None:
                session.receive(message, now)
            elif isinstance(message, Ping):
                device.receive(encode(Pong(message.nonce)), now)
        to_server.clear()
        if session is not None:
            if session.wants_steps and tick % 4 == 0:
                latent = rng.standard_normal((1, *model.latent_shape), dtype=np.float32)
                session.offer(Step(session.step - 1, latent, latent))
            for answer in session.poll(now):
                device.receive(answer, now)
        if device.ended:
            break
    return device.summary is not None and bool(device.summary.agrees)
