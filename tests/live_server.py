"""A real server on a loopback port, in a thread, and a device for it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from latentcast.live.device_session import DeviceSession
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.live.listening import Address, LiveServer
from latentcast.live.server import ServeConfig, make_app
from latentcast.live.service import LiveService

PATIENCE_SECONDS = 60.0


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
