"""Two hundred devices at once; the figures on the embedded model are those of benchmarks/bench_live.py."""

import asyncio
import resource

import pytest

from latentcast.live.device_session import DeviceSession
from latentcast.live.server import ServeConfig
from live_server import drive, made_up_server, wait_until


@pytest.mark.slow
def test_two_hundred_devices_at_once_are_served_or_refused() -> None:
    """Nobody is left without an answer, nobody starves, nothing is left behind, and memory is bounded."""
    devices = [DeviceSession(prompt=str(n), deadline_seconds=30.0, seed=n) for n in range(200)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with made_up_server(ServeConfig(max_sessions=100)) as server:

        async def everyone() -> None:
            await asyncio.gather(*(drive(device, server.live_url) for device in devices))

        asyncio.run(asyncio.wait_for(everyone(), 300.0))
        wait_until(lambda: server.service.num_sessions == 0)
        wait_until(lambda: not server.service.engine._tickets)
    served = [device for device in devices if device.error is None]
    refused = [device for device in devices if device.error is not None]
    assert len(served) >= 50
    for device in served:
        assert device.summary is not None
        assert device.summary.agrees
        assert device.summary.steps == device.summary.num_steps
    for device in refused:
        assert getattr(device.error, "code", None) == "busy"
        assert getattr(device.error, "retry_after_ms", None) is not None
    # In KiB. A session holds its latents, plans and buffers: well below a MiB for a latent of 256 numbers.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
