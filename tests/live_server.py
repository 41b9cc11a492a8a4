"""A real server on a loopback port, in a thread, and a device for it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel, Reading
from latentcast.diffusion.source import Step
from latentcast.errors import ModelError, ParameterError
from latentcast.live import service as service_module
from latentcast.live.device_session import DeviceSession
from latentcast.live.listening import Address, LiveServer
from latentcast.live.server import ServeConfig, make_app
from latentcast.live.service import LiveService

PATIENCE_SECONDS = 180.0


class MadeUpModel:
    """Stands for a diffusion model: noise that becomes smaller from step to step."""

    name = "made-up"
    latent_shape = (4, 8, 8)
    picture_size = (64, 64)

    def read_prompt(self, prompt: str) -> Reading:
        if prompt == "nonsense":
            raise ParameterError("nothing of this is known here")
        return Reading(prompt, ("taken as it stands",))

    def decode(self, latents: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        array = np.asarray(latents, np.float32)
        levels = np.clip(array[:, :3] * 64 + 128, 0, 255).astype(np.uint8)
        return levels.transpose(0, 2, 3, 1).repeat(8, axis=1).repeat(8, axis=2)


class MadeUpDenoiser:
    """Takes 10 ms a call, whatever the batch; "breaks" fails at its third step."""

    def __init__(self, _: object) -> None:
        self.steps_done: dict[str, int] = {}

    def path(self, num_steps: int) -> NoisePath:
        return NoisePath.stable_diffusion(num_steps)

    def close(self) -> None:
        """There is nothing to end."""

    def start(self, caption: str, seed: int, num_steps: int) -> "MadeUpRun":
        return MadeUpRun(caption, np.random.default_rng(seed), num_steps, num_steps)

    def advance(self, runs: Sequence["MadeUpRun"]) -> list[Step]:
        time.sleep(0.010)
        if any(run.caption == "breaks" and run.index == run.num_steps - 2 for run in runs):
            raise ModelError("out of memory")
        steps = []
        for run in runs:
            run.index -= 1
            self.steps_done[run.caption] = self.steps_done.get(run.caption, 0) + 1
            noise = run.rng.standard_normal((1, 4, 8, 8), dtype=np.float32)
            sample = run.final + np.float32(run.index / run.num_steps) * noise
            steps.append(Step(run.index, sample, sample))
        return steps


class MadeUpRun:
    def __init__(self, caption: str, rng: np.random.Generator, index: int, num_steps: int) -> None:
        self.caption, self.rng, self.index, self.num_steps = caption, rng, index, num_steps
        self.final = rng.standard_normal((1, 4, 8, 8), dtype=np.float32)


@contextlib.contextmanager
def made_up_server(config: ServeConfig | None = None, **options: Any) -> Iterator["RunningServer"]:
    """A server whose model costs nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module, "BatchedDenoiser", MadeUpDenoiser)
        with running_server(cast("DiffusersModel", MadeUpModel()), config, **options) as server:
            yield server


@dataclass
class RunningServer:
    server: LiveServer
    service: LiveService
    thread: threading.Thread
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def live_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/live"

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def steps_done(self) -> dict[str, int]:
        """Steps by caption, of the made-up model."""
        return cast("MadeUpDenoiser", self.service._denoiser).steps_done

    def call(self, function: Callable[[], object]) -> None:
        """Run something in the server's event loop."""
        assert self.server._loop is not None
        self.server._loop.call_soon_threadsafe(function)

    def metric(self, name: str, **labels: str) -> float:
        self.service.update_gauges()
        return self.service.metrics.registry.get_sample_value(f"latentcast_{name}", labels) or 0.0


@contextlib.contextmanager
def running_server(
    model: DiffusersModel, config: ServeConfig | None = None, *, port: int = 0, drain_seconds: float = 5.0
) -> Iterator[RunningServer]:
    app = make_app(config or ServeConfig(), model)
    ready = threading.Event()
    server = LiveServer(app, Address(port=port), on_ready=lambda _: ready.set(), drain_seconds=drain_seconds)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="test server")
    thread.start()
    try:
        assert ready.wait(PATIENCE_SECONDS)
        assert not errors, errors
        yield RunningServer(server, app.state.service, thread, errors)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


async def drive(
    device: DeviceSession,
    url: str,
    *,
    until: Callable[[DeviceSession], bool] = lambda _: False,
    meanwhile: Callable[[ClientConnection], Awaitable[None]] | None = None,
) -> None:
    """Run a device over one connection until it ends, or something is so; then the connection breaks."""
    async with connect(url, max_size=70_000, compression=None, proxy=None) as connection:
        if meanwhile is not None:
            await meanwhile(connection)
        device.connected(time.monotonic())
        while not device.ended:
            for message in device.poll(time.monotonic()):
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(message)
            if until(device):
                connection.transport.abort()
                break
            again = device.next_poll(time.monotonic())
            if again is None:
                break
            try:
                async with asyncio.timeout(max(again - time.monotonic(), 0.0) + 1e-3):
                    data = await connection.recv()
            except TimeoutError:
                continue
            except ConnectionClosed:
                break
            assert isinstance(data, bytes)
            device.receive(data, time.monotonic())
    device.lost(time.monotonic())


def deliver(url: str, prompt: str = "red", deadline_seconds: float = 2.0, **options: object) -> DeviceSession:
    """Ask for a picture and wait for the end."""
    device = DeviceSession(prompt=prompt, deadline_seconds=deadline_seconds, **options)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(drive(device, url), PATIENCE_SECONDS))
    return device


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)
