"""The server over real sockets on the loopback; the model is made up, save in one test."""

import asyncio
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.reading import interpret
from latentcast.errors import ParameterError
from latentcast.live import hosted
from latentcast.live.access import Access, read_tokens
from latentcast.live.admission import RefusedError
from latentcast.live.device_session import DeviceSession
from latentcast.live.engine import Work
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.listening import Address
from latentcast.live.messages import Cancel, Failure, Message, Ping, Pong, Ready, Request, Resume
from latentcast.live.protocol import decode, encode
from latentcast.live.server import _EXAMPLE_PROMPTS, ServeConfig
from live_server import (
    PATIENCE_SECONDS,
    RunningServer,
    deliver,
    drive,
    made_up_server,
    running_server,
    wait_until,
)

TOKEN = "a-token-for-the-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with made_up_server(ServeConfig(emulate_links=True)) as running:
        yield running


def fetch(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def opened(server: RunningServer, origin: str | None = None) -> ClientConnection:
    headers = {} if origin is None else {"Origin": origin}
    return connect(server.live_url, compression=None, proxy=None, additional_headers=headers)


def answers(server: RunningServer, *messages: bytes | str) -> tuple[list[Message], int | None]:
    """What the server says to messages that it does not like, and its close code."""
    got: list[Message] = []
    with opened(server) as connection:
        try:
            for message in messages:
                connection.send(message)
            while True:
                data = connection.recv(timeout=PATIENCE_SECONDS)
                assert isinstance(data, bytes)
                got.append(decode(data, sender="server"))
        except ConnectionClosed as closed:
            return got, closed.rcvd.code if closed.rcvd is not None else None


def request(**changes: Any) -> bytes:
    return encode(
        Request(**{"prompt": "red", "deadline_ms": 5000.0, "codecs": ("progressive/1",), **changes})
    )


def refusal(server: RunningServer, *messages: bytes | str) -> Failure:
    (failure,), _ = answers(server, *messages)
    assert isinstance(failure, Failure)
    return failure


# Delivery


def test_a_device_holds_what_the_server_believes(server: RunningServer) -> None:
    before = {
        name: server.metric(name)
        for name in ("sent_bits_total", "predicted_mse_count", "reached_mse_count", "step_seconds_count")
    }
    met = server.metric("deadlines_total", met="yes")
    device = deliver(server.live_url, deadline_seconds=3.0, seed=3)
    assert device.error is None
    ready, summary = device.ready, device.summary
    assert ready is not None
    assert summary is not None
    assert (ready.seed, ready.model, ready.notes) == (3, "made-up", ("taken as it stands",))
    assert summary.agrees
    assert summary.deadline_met
    assert summary.steps == ready.num_steps
    # What was sent too late is in the server's count alone.
    assert summary.bytes >= device.total_bytes > 0
    assert summary.reached_mse is not None
    assert summary.reached_mse < 0.5  # of 1 that it has before anything comes
    wait_until(lambda: server.service.num_sessions == 0)
    assert server.metric("deadlines_total", met="yes") == met + 1
    assert server.metric("sent_bits_total") == before["sent_bits_total"] + 8 * summary.bytes
    for name in ("predicted_mse_count", "reached_mse_count"):
        assert server.metric(name) == before[name] + 1
    assert server.metric("step_seconds_count") > before["step_seconds_count"]


def test_a_real_pipeline(tiny_folder: Path) -> None:
    with running_server(load_pipeline(tiny_folder)) as server:
        device = deliver(server.live_url, "a red thing", deadline_seconds=20.0)
        assert device.error is None
        assert device.summary is not None
        assert device.summary.agrees
        assert device.summary.reached_mse is not None
        status, _, _ = fetch(f"{server.url}/v1/decoder.onnx")
        assert status == 404
        (tiny_folder / "device_decoder.onnx").write_bytes(b"stands for a decoder")
        try:
            status, body, headers = fetch(f"{server.url}/v1/decoder.onnx")
            assert (status, body) == (200, b"stands for a decoder")
            again = fetch(f"{server.url}/v1/decoder.onnx", **{"If-None-Match": headers["etag"]})
            assert again[:2] == (304, b"")
        finally:
            (tiny_folder / "device_decoder.onnx").unlink()


def test_many_devices_at_once_are_served_or_refused_clearly() -> None:
    with made_up_server(ServeConfig(max_sessions=12)) as server:
        with ThreadPoolExecutor(20) as devices:
            done = list(
                devices.map(lambda seed: deliver(server.live_url, str(seed), 4.0, seed=seed), range(20))
            )
        served = [device for device in done if device.error is None]
        refused = [device for device in done if device.error is not None]
        assert len(served) == 12
        for device in served:
            assert device.summary is not None
            assert device.summary.agrees
        for device in refused:
            assert getattr(device.error, "code", None) == "busy"
            assert getattr(device.error, "retry_after_ms", None) is not None
        assert server.metric("refusals_total", code="busy") == len(refused)
        assert server.metric("batch_size_sum") > server.metric("batch_size_count")


def test_an_emulated_link_is_as_slow_as_it_says(server: RunningServer) -> None:
    """What arrives by the deadline is no more than the link carries; without it, all is there at once."""
    link: dict[str, object] = {"kind": "rayleigh", "snr_db": 0.0, "seed": 1}
    device = deliver(server.live_url, deadline_seconds=4.0, seed=5, link=link)
    assert device.error is None
    assert device.ready is not None
    assert device.summary is not None
    assert device.summary.agrees
    schedule = RateSchedule.rayleigh(
        snr_db=0.0, latent_size=256, slot_ms=device.ready.slot_ms, seed=1, num_slots=1000
    )
    for arrival in device.arrivals:
        assert 8 * arrival.total_bytes <= schedule.carried_bits(0.0, arrival.seconds)
    for bad in ({"snr_db": "high"}, {"kind": "trace"}, {"snr_db": 3.0, "colour": "red"}):
        assert refusal(server, request(link=bad)).code == "bad-request"


# Leaving and coming back


def test_who_leaves_stops_the_denoising_at_the_next_step(server: RunningServer) -> None:
    def leave_after_some_steps(end: Callable[[ClientConnection], object], prompt: str) -> None:
        with opened(server) as connection:
            connection.send(request(prompt=prompt, deadline_ms=60_000.0))
            wait_until(lambda: server.steps_done.get(prompt, 0) > 3)
            end(connection)
        wait_until(lambda: not server.service.engine._tickets)
        done = server.steps_done[prompt]
        assert done < 40
        time.sleep(0.05)
        assert server.steps_done[prompt] == done

    leave_after_some_steps(lambda connection: connection.send(encode(Cancel())), "cancels")
    leave_after_some_steps(lambda connection: connection.close(), "closes")


def test_a_device_that_vanishes_returns_and_nothing_is_made_anew(server: RunningServer) -> None:
    device = DeviceSession(prompt="vanishes", deadline_seconds=4.0)
    resumed = server.metric("resumed_sessions_total")

    async def both() -> None:
        await drive(device, server.live_url, until=lambda device: len(device.arrivals) >= 1)
        assert device.wants_connection
        await drive(device, server.live_url)

    asyncio.run(asyncio.wait_for(both(), PATIENCE_SECONDS))
    assert device.error is None
    assert device.ready is not None
    assert device.summary is not None
    assert device.summary.agrees
    assert device.summary.steps == device.ready.num_steps == server.steps_done["vanishes"]
    assert server.metric("resumed_sessions_total") == resumed + 1


def test_resuming_needs_the_session_and_its_key(server: RunningServer) -> None:
    with opened(server) as connection:
        connection.send(request(prompt="mine", deadline_ms=60_000.0))
        data = connection.recv(timeout=PATIENCE_SECONDS)
        assert isinstance(data, bytes)
        ready = decode(data, sender="server")
        assert isinstance(ready, Ready)
        for session, key in ((ready.session, "wrong"), ("unknown", ready.key), ("unknown", "")):
            resume = Resume(session=session, key=key or "x", packet=65535, prefix=0, crc=0)
            assert refusal(server, encode(resume)).code == "unknown-session"
        # The true owner is undisturbed.
        connection.send(encode(Ping(9)))
        got: Message = ready
        while got != Pong(9):
            data = connection.recv(timeout=PATIENCE_SECONDS)
            assert isinstance(data, bytes)
            got = decode(data, sender="server")


def test_a_server_that_was_killed_and_restarted_does_not_know_the_session() -> None:
    device = DeviceSession(prompt="unlucky", deadline_seconds=60.0)
    with made_up_server() as first:
        port = first.port
        asyncio.run(drive(device, first.live_url, until=lambda device: len(device.arrivals) >= 1))
    with made_up_server(port=port) as second:
        asyncio.run(asyncio.wait_for(drive(device, second.live_url), PATIENCE_SECONDS))
    assert device.ended
    assert getattr(device.error, "code", None) == "unknown-session"
    assert device.latent is not None  # what it held is still there


# Refusals


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request(codecs=("jpeg/9",)), "unsupported"),
        (request(latents=((4, 1, 1),)), "unsupported"),
        (request(deadline_ms=5.0), "deadline-too-short"),
        (request(prompt="nonsense"), "bad-request"),
        (request(prompt=" "), "bad-request"),
        (encode(Pong(1)), "bad-request"),
        (b"", "bad-request"),
        (b"\x01{}\x00\x00\x00\x00", "bad-request"),
        ("text", "bad-request"),
        (b"\x01" * 9000, "too-large"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(
    server: RunningServer, message: bytes | str, code: str
) -> None:
    before = server.metric("refusals_total", code=code)
    (failure,), close_code = answers(server, message)
    assert isinstance(failure, Failure)
    assert failure.code == code
    assert failure.message
    assert close_code == 1008
    assert server.metric("refusals_total", code=code) == before + 1


def test_a_message_far_too_long_closes_the_connection(server: RunningServer) -> None:
    assert answers(server, b"\x01" * 100_000) == ([], 1009)


def test_a_device_at_fault_is_told_and_others_go_on(server: RunningServer) -> None:
    other = DeviceSession(prompt="other", deadline_seconds=2.0)
    thread = threading.Thread(target=lambda: asyncio.run(drive(other, server.live_url)))
    thread.start()
    got, close_code = answers(server, request(prompt="at fault", deadline_ms=60_000.0), b"rubbish")
    assert isinstance(got[-1], Failure)
    assert got[-1].code == "bad-request"
    assert close_code == 1011
    thread.join(PATIENCE_SECONDS)
    assert other.summary is not None
    assert other.summary.agrees
    wait_until(lambda: server.service.num_sessions == 0)


def test_a_failing_model_ends_only_the_session_concerned(server: RunningServer) -> None:
    good, bad = (DeviceSession(prompt=prompt, deadline_seconds=3.0) for prompt in ("good", "breaks"))

    async def both() -> None:
        await asyncio.gather(drive(good, server.live_url), drive(bad, server.live_url))

    asyncio.run(asyncio.wait_for(both(), PATIENCE_SECONDS))
    assert getattr(bad.error, "code", None) == "internal"
    assert "out of memory" in str(bad.error)
    assert good.summary is not None
    assert good.summary.agrees


def test_who_asks_for_nothing_is_sent_away(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentcast.live.server._HELLO_SECONDS", 0.1)
    assert "no request came" in refusal(server).message
    assert "64 PINGs came" in str(answers(server, *[encode(Ping(n)) for n in range(64)])[0][-1])


def test_a_slow_reader_disturbs_nobody_and_costs_little(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that never reads: the window bounds what is sent, others are served, and it ends in time."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.sendall(
            f"GET /v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        greeting = b""
        while not greeting.endswith(b"\r\n\r\n"):
            greeting += raw.recv(1)
        body = request(prompt="slow", deadline_ms=4000.0)
        mask = b"\0\0\0\0"
        raw.sendall(bytes([0x82, 0xFE]) + len(body).to_bytes(2, "big") + mask + body)
        wait_until(lambda: server.steps_done.get("slow", 0) > 3)
        assert deliver(server.live_url, deadline_seconds=1.5).summary is not None
        (slow,) = [each.session for each in server.service._sessions.values()]
        assert slow.session.summary()["bytes"] < 16_384
        wait_until(lambda: server.service.num_sessions == 0)


def test_a_send_that_does_not_end_loses_the_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even a small message cannot be handed over, the session waits for its device to come back."""
    monkeypatch.setattr(hosted, "SEND_SECONDS", 0.05)
    with made_up_server() as server:

        async def never(self: object, message: bytes) -> None:
            await asyncio.Event().wait()

        with opened(server) as connection:
            connection.send(request(prompt="stuck", deadline_ms=3000.0))
            connection.recv(timeout=PATIENCE_SECONDS)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("latentcast.live.websocket_transport.WebSocketTransport.send", never)
                wait_until(lambda: server.metric("sessions", state="waiting") == 1)


# Access


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# for the tests\n{TOKEN}\n\n")
    with made_up_server(ServeConfig(access=Access(tokens=read_tokens(file)))) as server:
        for token in (None, "wrong", TOKEN[:-1]):
            assert refusal(server, request(token=token)).code == "unauthorized"
        resume = Resume(session="s", key="k", packet=65535, prefix=0, crc=0)
        assert refusal(server, encode(resume)).code == "unauthorized"
        device = deliver(server.live_url, deadline_seconds=1.5, token=TOKEN)
        assert device.error is None
        assert fetch(f"{server.url}/metrics")[0] == 401
        assert fetch(f"{server.url}/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert fetch(f"{server.url}/health")[0] == 200
        assert json.loads(fetch(f"{server.url}/v1/info")[1])["token_required"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "with a space in it, long\n"])
def test_bad_token_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(ParameterError, match="token"):
        Access(tokens=read_tokens(file))
    with pytest.raises(ParameterError, match="cannot read the tokens"):
        read_tokens(tmp_path / "missing")


def test_origins() -> None:
    with made_up_server(ServeConfig(access=Access(origins=("https://friend.example",)))) as server:
        for origin in ("https://evil.example", "null", "http://127.0.0.1"):
            with pytest.raises(InvalidStatus) as caught:
                opened(server, origin=origin)
            assert caught.value.response.status_code == 403
        assert server.metric("refusals_total", code="forbidden-origin") == 3
        for origin in ("https://friend.example", server.url):
            with opened(server, origin=origin) as connection:
                connection.send(encode(Ping(4)))
                assert connection.recv(timeout=PATIENCE_SECONDS) == encode(Pong(4))
    with pytest.raises(ParameterError, match="must read like"):
        Access(origins=("friend.example",))


@pytest.mark.parametrize("prompt", _EXAMPLE_PROMPTS["scenes"])
def test_the_page_suggests_what_the_model_knows(prompt: str) -> None:
    understood = interpret(prompt)
    assert understood.caption == prompt
    assert understood.notes == ()


def test_links_are_emulated_only_where_that_is_meant() -> None:
    with made_up_server() as server:
        assert refusal(server, request(link={"snr_db": 3.0})).code == "unsupported"


# What is beside


def test_info_health_metrics_and_the_page(server: RunningServer) -> None:
    info = json.loads(fetch(f"{server.url}/v1/info")[1])
    assert info["model"] == "made-up"
    assert info["latent_shape"] == [4, 8, 8]
    assert info["slot_ms"] > 0
    assert info["emulates_links"]
    assert not info["token_required"]
    status, body, _ = fetch(f"{server.url}/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    status, body, headers = fetch(f"{server.url}/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert b"latentcast_step_seconds_bucket" in body
    assert b"<html" in fetch(f"{server.url}/")[1]
    assert fetch(f"{server.url}/nowhere")[0] == 404


def test_the_comparison_needs_the_sessions_key(server: RunningServer) -> None:
    device = deliver(server.live_url, deadline_seconds=1.5)
    assert device.ready is not None
    address = f"{server.url}/v1/sessions/{device.ready.session}/comparison"
    assert fetch(f"{address}?key=wrong")[0] == 404
    assert fetch(address)[0] == 404
    status, body, _ = fetch(f"{address}?key={device.ready.key}")
    assert status == 200
    assert json.loads(body)


def test_logs_are_json_without_prompts(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="latentcast.live"):
        deliver(server.live_url, "a secret wish", deadline_seconds=1.5)
        wait_until(lambda: "session-ended" in [record.message for record in caplog.records])
    began, ended = (
        next(record for record in caplog.records if record.message == event)
        for event in ("session-began", "session-ended")
    )
    assert began.fields["session"] == ended.fields["session"]  # type: ignore[attr-defined]
    assert ended.fields["outcome"] == "delivered"  # type: ignore[attr-defined]
    assert "secret" not in json.dumps([record.fields for record in (began, ended)])  # type: ignore[attr-defined]


# The end


def test_shutting_down_finishes_what_is_under_way() -> None:
    with made_up_server(drain_seconds=PATIENCE_SECONDS) as server:
        engine = server.service.engine._thread
        device = DeviceSession(prompt="last", deadline_seconds=2.5)
        thread = threading.Thread(target=lambda: asyncio.run(drive(device, server.live_url)))
        thread.start()
        wait_until(lambda: server.service.num_sessions == 1)
        server.call(server.server.drain)
        wait_until(lambda: server.service.draining)
        assert refusal(server, request()).code == "shutting-down"
        assert fetch(f"{server.url}/health")[0] == 503
        thread.join(PATIENCE_SECONDS)
        assert device.summary is not None
        assert device.summary.agrees
        server.thread.join(PATIENCE_SECONDS)
        assert not server.thread.is_alive()
    assert not engine.is_alive()


def test_shutting_down_has_a_limit() -> None:
    with made_up_server(drain_seconds=0.2) as server:
        device = DeviceSession(prompt="endless", deadline_seconds=60.0)
        thread = threading.Thread(target=lambda: asyncio.run(drive(device, server.live_url)))
        thread.start()
        wait_until(lambda: server.service.num_sessions == 1)
        server.call(server.server.drain)
        thread.join(PATIENCE_SECONDS)
        assert getattr(device.error, "code", None) == "shutting-down"


def test_a_port_that_is_taken_is_told(server: RunningServer) -> None:
    with pytest.raises(AssertionError, match="cannot listen on"), made_up_server(port=server.port):
        pass


def test_addresses(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="port is 70000"):
        Address(port=70000)
    with pytest.raises(ParameterError, match="both a certificate and its key"):
        Address(tls_cert=tmp_path / "cert")
    with pytest.raises(ParameterError, match="there is no file"):
        Address(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")


def test_those_who_are_refused_are_told_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with made_up_server() as server:
        crowd = [Work(steps=50, deadline=time.monotonic() + 60.0)] * 100
        monkeypatch.setattr(server.service.engine, "under_way", lambda: crowd)
        told = []
        for _ in range(4):
            with pytest.raises(RefusedError) as refused:
                server.service.admit(0.5)
            told.append(refused.value.retry_seconds or 0.0)
        monkeypatch.undo()
    assert told == sorted(told)
    # A request of the fewest steps among a hundred takes some 7 ms of the engine.
    assert min(np.diff(told)) > 1e-3
