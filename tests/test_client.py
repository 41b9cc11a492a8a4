"""The Python device: library and command, against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from websockets.asyncio.server import ServerConnection, serve

from latentcast import cli
from latentcast.diffusion.device_decoder import decoder_tag, device_decoder_file
from latentcast.errors import LiveError, ModelError, ParameterError
from latentcast.live import decoder as decoder_module
from latentcast.live.access import Access
from latentcast.live.client import Delivery, base_url, request_picture, request_picture_sync
from latentcast.live.decoder import DeviceDecoder, fetch_decoder
from latentcast.live.device_session import DeviceSession, RefusalError
from latentcast.live.messages import Cancel, Failure, Ping, Pong, Ready, Request
from latentcast.live.protocol import decode, encode
from latentcast.live.server import ServeConfig
from live_server import PATIENCE_SECONDS, MadeUpModel, RunningServer, made_up_server

TOKEN = "a-token-for-the-tests"


class MadeUpDecoder:
    """Stands for the ONNX decoder."""

    def decode(self, latents: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        return MadeUpModel().decode(latents)


DECODER = cast("DeviceDecoder", MadeUpDecoder())


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with made_up_server() as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with made_up_server(ServeConfig(access=Access(tokens=(TOKEN,)))) as running:
        yield running


def patiently(work: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await asyncio.wait_for(work, PATIENCE_SECONDS)

    return asyncio.run(wait())


@contextlib.asynccontextmanager
async def breaking_proxy(port: int) -> Any:
    """Passes bytes on; what it yields cuts every connection there is, in the middle of whatever goes on."""
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, there_writer))
        for pair in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(relay(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()
        writers.clear()

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1], cut
    finally:
        cut()
        proxy.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def scripted_server(answer: Callable[[ServerConnection, Request], Awaitable[None]]) -> Any:
    """Answers PINGs and hands over the first REQUEST."""

    async def talk(connection: ServerConnection) -> None:
        async for data in connection:
            message = decode(cast("bytes", data), sender="device")
            if isinstance(message, Ping):
                await connection.send(encode(Pong(message.nonce)))
            elif isinstance(message, Request):
                await answer(connection, message)
                return

    async with serve(talk, "127.0.0.1", 0) as running:
        yield f"http://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_picture_and_how_it_came_about(server: RunningServer) -> None:
    changes: list[int] = []
    delivery: Delivery = request_picture_sync(
        server.url,
        "red",
        deadline_ms=3000,
        seed=4,
        decoder=DECODER,
        on_change=lambda device, now: changes.append(device.packets),
    )
    assert delivery.agrees is True
    assert delivery.ready.seed == 4
    assert delivery.latent.shape == (4, 8, 8)
    assert delivery.picture.shape == (64, 64, 3)
    assert delivery.packets == sum(arrival.whole for arrival in delivery.arrivals) > 0
    assert np.array_equal(delivery.moments[-1].latent, delivery.latent)
    assert changes == sorted(changes)
    record = delivery.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert "key" not in record["request"]


def test_a_broken_connection_is_made_again_and_gone_on_with(server: RunningServer) -> None:
    # Nothing is generated anew: the made-up model counts its steps.
    async def deliver() -> Delivery:
        async with breaking_proxy(server.port) as (port, cut):
            cuts = 0

            def watch(device: DeviceSession, now: float) -> None:
                nonlocal cuts
                if device.packets > cuts and cuts < 2:
                    cuts += 1
                    cut()

            return await request_picture(
                f"http://127.0.0.1:{port}",
                "goes on",
                deadline_ms=4000,
                decoder=DECODER,
                on_change=watch,
            )

    delivery = patiently(deliver())
    assert delivery.reconnections >= 1
    assert delivery.agrees is True
    assert delivery.summary.deadline_met
    assert delivery.summary.steps == delivery.ready.num_steps
    assert server.steps_done["goes on"] == delivery.ready.num_steps


def test_a_connection_lost_for_good_leaves_what_was_held(server: RunningServer) -> None:
    async def deliver() -> Delivery:
        async with breaking_proxy(server.port) as (port, _):
            over = asyncio.Event()
            picture = asyncio.create_task(
                request_picture(
                    f"http://127.0.0.1:{port}",
                    "is lost",
                    deadline_ms=2000,
                    decoder=DECODER,
                    on_change=lambda device, now: over.set() if device.packets else None,
                )
            )
            await over.wait()
        # The proxy is gone.
        return await picture

    delivery = patiently(deliver())
    assert delivery.summary is None
    assert delivery.agrees is None
    assert delivery.packets >= 1
    assert delivery.latent.any()


@pytest.mark.parametrize(("token", "code"), [(None, "unauthorized"), ("wrong", "unauthorized")])
def test_without_the_token_there_is_no_picture(guarded: RunningServer, token: str | None, code: str) -> None:
    with pytest.raises(RefusalError, match="refuses") as caught:
        request_picture_sync(guarded.url, "red", deadline_ms=2000, token=token, decoder=DECODER)
    assert caught.value.code == code
    assert request_picture_sync(guarded.url, "red", deadline_ms=2000, token=TOKEN, decoder=DECODER).packets


def test_a_refusal_says_when_to_try_again() -> None:
    async def refuse(connection: ServerConnection, request: Request) -> None:
        await connection.send(encode(Failure(code="busy", message="full", retry_after_ms=900)))

    async def ask() -> None:
        async with scripted_server(refuse) as url:
            await request_picture(url, "red", deadline_ms=2000, decoder=DECODER)

    with pytest.raises(RefusalError, match="full") as caught:
        patiently(ask())
    assert (caught.value.code, caught.value.retry_after_ms) == ("busy", 900.0)


def test_whoever_has_had_enough_says_so() -> None:
    heard: list[object] = []

    async def listen(connection: ServerConnection, request: Request) -> None:
        ready = Ready(
            session="s",
            key="k",
            codec="progressive/1",
            latent_shape=(4, 8, 8),
            num_steps=50,
            slot_ms=100.0,
            model="m",
        )
        await connection.send(encode(ready))
        heard.extend([decode(cast("bytes", data), sender="device") async for data in connection])

    async def ask() -> None:
        async with scripted_server(listen) as url:
            running = asyncio.Event()
            asking = asyncio.create_task(
                request_picture(
                    url,
                    "red",
                    deadline_ms=50_000,
                    decoder=DECODER,
                    on_change=lambda device, now: running.set() if device.ready else None,
                )
            )
            await running.wait()
            # What asyncio.run does on Ctrl-C.
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    patiently(ask())
    assert heard == [Cancel()]


def test_nobody_there() -> None:
    with pytest.raises(LiveError, match="cannot reach"):
        request_picture_sync(f"http://127.0.0.1:{free_port()}", "red", deadline_ms=500, decoder=DECODER)
    with pytest.raises(LiveError, match="is the server running there"):
        request_picture_sync(f"http://127.0.0.1:{free_port()}", "red", deadline_ms=500)


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://a:b", "http://a/path", "http://[::"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ParameterError, match="it must be like"):
        base_url(url)


# The decoder


def onnx_model(*, output: str = "picture") -> bytes:
    """The first three channels, halved and lifted to the middle."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((3, 4, 1, 1), np.float32)
    weight[range(3), range(3)] = 0.5
    shape: list[str | int | None] = ["batch", 4, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["latent", "weight", "bias"], [output])],
        "decoder",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.full(3, 0.5, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class DecoderServer(http.server.ThreadingHTTPServer):
    """Serves one file under a tag, and notes what it was asked."""

    def __init__(self, content: bytes, tag: str) -> None:
        super().__init__(("127.0.0.1", 0), DecoderHandler)
        self.content, self.tag = content, tag
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class DecoderHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast("DecoderServer", self.server)
        known = server.tag in self.headers.get("If-None-Match", "")
        found = self.path == "/v1/decoder.onnx" and server.content != b""
        server.answers.append(304 if known else 200 if found else 404)
        self.send_response(server.answers[-1])
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", "0" if known else str(len(server.content)))
        self.end_headers()
        if not known:
            self.wfile.write(server.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def decoder_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    running = DecoderServer(onnx_model(), '"one"')
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join(PATIENCE_SECONDS)
    running.server_close()


def test_the_decoder_is_fetched_once(decoder_server: DecoderServer) -> None:
    latents = np.zeros((10, 4, 2, 3), np.float32)
    latents[9, 0] = 4.0
    for _ in range(2):
        pictures = fetch_decoder(decoder_server.url).decode(latents)
        assert pictures.shape == (10, 2, 3, 3)
        assert pictures[0].max() == pictures[0].min() == 128
        assert pictures[9, :, :, 0].min() == 255
    assert decoder_server.answers == [200, 304]
    decoder_server.tag = '"two"'
    fetch_decoder(decoder_server.url)
    fetch_decoder(decoder_server.url)
    assert decoder_server.answers == [200, 304, 200, 304]


def test_the_installed_decoder_need_not_be_fetched(decoder_server: DecoderServer) -> None:
    decoder_server.content = device_decoder_file("scenes").read_bytes()
    decoder_server.tag = decoder_tag(decoder_server.content)
    for _ in range(2):
        assert fetch_decoder(decoder_server.url).decode(np.zeros((1, 4, 16, 16))).shape == (1, 128, 128, 3)
    assert decoder_server.answers == [304, 304]


def test_a_file_that_is_not_here_cannot_be_unchanged(decoder_server: DecoderServer) -> None:
    decoder_server.tag = ""
    with pytest.raises(LiveError, match="answers 304"):
        fetch_decoder(decoder_server.url)


def test_the_decoder_is_asked_for_when_the_picture_is_there(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[bool] = []
    asked: list[list[bool]] = []

    def fetch(*_: object, **__: object) -> DeviceDecoder:
        asked.append(over[-1:])
        return DECODER

    monkeypatch.setattr(decoder_module, "fetch_decoder", fetch)
    delivery = request_picture_sync(
        server.url, "red", deadline_ms=2000, on_change=lambda device, _: over.append(device.ended)
    )
    assert delivery.picture.shape == (64, 64, 3)
    assert asked == [[True]]


def test_a_cache_that_cannot_be_written_is_done_without(
    decoder_server: DecoderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    fetch_decoder(decoder_server.url)
    fetch_decoder(decoder_server.url)
    assert decoder_server.answers == [200, 200]


def test_files_that_are_no_decoder(decoder_server: DecoderServer) -> None:
    decoder_server.content = b"no model"
    with pytest.raises(ModelError, match="cannot be used"):
        fetch_decoder(decoder_server.url)
    decoder_server.content = onnx_model(output="image")
    with pytest.raises(ModelError, match="must turn latent into picture"):
        fetch_decoder(decoder_server.url)
    # Nothing of it was kept.
    decoder_server.content = onnx_model()
    decoder = fetch_decoder(decoder_server.url)
    with pytest.raises(ModelError, match=r"\(1, 5, 2, 2\) cannot be decoded"):
        decoder.decode(np.zeros((1, 5, 2, 2), np.float32))
    decoder_server.content = b""
    decoder_server.tag = '"none"'
    with pytest.raises(LiveError, match="answers 404"):
        fetch_decoder(decoder_server.url)


# The command


@pytest.fixture
def no_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "fetch_decoder", lambda *_, **__: DECODER)


@pytest.mark.usefixtures("no_fetching")
def test_the_command_writes_its_files(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["device", server.url, "red", "--deadline", "2000", "--seed", "3", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    output = capsys.readouterr()
    assert "server knows what is held" in output.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "filmstrip.png",
        "picture.png",
        "timeline.json",
    ]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (64, 64)
    record = json.loads((tmp_path / "timeline.json").read_text())
    assert record["prompt"] == "red"
    assert record["request"]["seed"] == 3
    assert record["summary"]["agrees"] is True
    assert cli.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["agrees"] is True


@pytest.mark.usefixtures("no_fetching")
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["SERVER", "red", "--token", "wrong"], "unauthorized"),
        (["http://127.0.0.1:1", "red"], "cannot reach"),
        (["nowhere at all://", "red"], "it must be like"),
        (["SERVER", "red", "--codec", "jpeg"], "choose progressive/1 or final/1"),
        (["SERVER", "red", "--deadline", "-5"], "deadline"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    guarded: RunningServer,
    words: list[str],
    hint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [guarded.url if word == "SERVER" else word for word in words]
    assert cli.run(["device", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.strip().count("\n") == 0
    assert not list((tmp_path / "out").glob("*"))
