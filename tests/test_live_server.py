"""The server over real sockets on the loopback, with a tiny pipeline."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from live_server import RunningServer, deliver, running_server


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> DiffusersModel:
    return load_pipeline(tiny_folder)


@pytest.fixture(scope="module")
def server(model: DiffusersModel) -> Iterator[RunningServer]:
    with running_server(model) as running:
        yield running


def test_a_device_gets_what_the_server_believes_that_it_holds(server: RunningServer) -> None:
    device = deliver(server.live_url, deadline_seconds=8.0, seed=3)
    assert device.error is None
    assert device.ready is not None
    assert device.ready.seed == 3
    summary = device.summary
    assert summary is not None
    assert summary.agrees
    assert summary.deadline_met
    assert summary.steps == device.ready.num_steps
    assert summary.bytes == device.total_bytes
