"""`/v1/images/generations` as a client of OpenAI's API would use it."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentcast.live.access import Access
from latentcast.live.server import ServeConfig
from live_server import RunningServer, made_up_server, wait_until

TOKEN = "a-token-for-the-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with made_up_server() as running:
        yield running


def post(
    server: RunningServer, body: bytes | dict[str, Any], **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/v1/images/generations", data, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def picture(b64_json: str, kind: str = "PNG") -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    assert image.format == kind
    return np.asarray(image, np.float64)


def test_pictures(server: RunningServer) -> None:
    before = server.metric("images_total", outcome="delivered")
    status, body, _ = post(server, {"prompt": "red", "n": 2, "seed": 1, "size": "64x64", "quality": "low"})
    assert status == 200
    answer = json.loads(body)
    assert answer["size"] == "64x64"
    assert answer["output_format"] == "png"
    assert isinstance(answer["created"], int)
    first, second = (picture(item["b64_json"]) for item in answer["data"])
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
    again = json.loads(post(server, {"prompt": "red", "seed": 1, "quality": "low"})[1])
    assert np.array_equal(picture(again["data"][0]["b64_json"]), first)
    assert server.metric("images_total", outcome="delivered") == before + 3


def test_a_stream_of_pictures_that_become_better(server: RunningServer) -> None:
    status, body, headers = post(
        server, {"prompt": "red", "stream": True, "partial_images": 3, "output_format": "webp", "seed": 4}
    )
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = []
    for block in body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["type"] for event in events] == [
        *["image_generation.partial_image"] * 3,
        "image_generation.completed",
    ]
    assert [event["partial_image_index"] for event in events[:3]] == [0, 1, 2]
    assert all(isinstance(event["created_at"], int) for event in events)
    assert "usage" in events[-1]
    pictures = [picture(event["b64_json"], "WEBP") for event in events]
    errors = [float(np.mean((each - pictures[-1]) ** 2)) for each in pictures]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("change", "status", "code", "parameter"),
    [
        ({"prompt": ""}, 400, "invalid_value", "prompt"),
        ({"prompt": "nonsense"}, 400, "invalid_value", "prompt"),
        ({"colour": "red"}, 400, "unknown_parameter", "colour"),
        ({"n": 11}, 400, "invalid_value", "n"),
        ({"n": 2, "stream": True}, 400, "invalid_value", "n"),
        ({"size": "1024x1024"}, 400, "invalid_value", "size"),
        ({"response_format": "url"}, 400, "invalid_value", "response_format"),
        ({"partial_images": 2}, 400, "invalid_value", "partial_images"),
        ({"model": "dall-e-3"}, 404, "model_not_found", "model"),
    ],
)
def test_errors_have_openais_shape(
    server: RunningServer, change: dict[str, Any], status: int, code: str, parameter: str
) -> None:
    got, body, _ = post(server, {"prompt": "red", **change})
    error = json.loads(body)["error"]
    assert (got, error["code"], error["param"]) == (status, code, parameter)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_what_is_no_request(server: RunningServer) -> None:
    assert json.loads(post(server, b"{")[1])["error"]["code"] == "invalid_json"
    assert post(server, b" " * 70_000)[0] == 413


def test_a_failing_model(server: RunningServer) -> None:
    status, body, _ = post(server, {"prompt": "breaks"})
    assert (status, json.loads(body)["error"]["type"]) == (500, "server_error")
    status, body, _ = post(server, {"prompt": "breaks", "stream": True})
    assert status == 200
    assert body.startswith(b"event: error\n")
    assert b"out of memory" in body


def test_a_client_that_leaves_stops_the_denoising(server: RunningServer) -> None:
    body = json.dumps({"prompt": "leaves", "stream": True, "partial_images": 3}).encode()
    request = urllib.request.Request(f"{server.url}/v1/images/generations", body)
    with urllib.request.urlopen(request) as answer:
        answer.readline()
    wait_until(lambda: not server.service.engine._tickets)
    assert server.steps_done["leaves"] < 50


def test_a_busy_server_names_a_time(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half a second a step and request, two pictures of 50 steps fit the time that is allowed, not ten."""
    monkeypatch.setattr(server.service.engine, "slot_seconds", lambda active: 0.5 * active)
    status, body, headers = post(server, {"prompt": "red", "n": 10})
    assert (status, json.loads(body)["error"]["code"]) == (503, "busy")
    assert int(headers["retry-after"]) >= 1
    wait_until(lambda: not server.service.engine._tickets)
    monkeypatch.setattr(server.service, "draining", True)
    assert json.loads(post(server, {"prompt": "red"})[1])["error"]["code"] == "shutting-down"


def test_tokens() -> None:
    with made_up_server(ServeConfig(access=Access(tokens=(TOKEN,)))) as server:
        status, body, _ = post(server, {"prompt": "red"})
        assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
        assert post(server, {"prompt": "red", "quality": "low"}, Authorization=f"Bearer {TOKEN}")[0] == 200
