"""End to end: the real server with the embedded model, and its page in Chromium.

`python tests/test_page_live.py` renews docs/live.png.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from playwright.sync_api import Browser, Page, WebSocket

from chromium import chromium
from latentcast import load_pipeline
from latentcast.codec.bands import Bands
from latentcast.codec.progressive import apply_packet
from latentcast.diffusion.device_decoder import device_decoder_file
from latentcast.diffusion.source import FloatArray
from latentcast.live.messages import NO_PACKET, Ack, Held, Ready, Refinement, Request, Summary
from latentcast.live.protocol import decode
from latentcast.live.server import ServeConfig, make_app
from scripted_server import serving
from test_page import finished, shown, start, until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_app(ServeConfig(emulate_links=True), load_pipeline("scenes"))) as address:
        yield address


class Wire:
    """What went over the page's socket, as the browser saw it."""

    def __init__(self, socket: WebSocket) -> None:
        self.messages: list[object] = []
        socket.on("framesent", lambda data: self._note(data, "device"))
        socket.on("framereceived", lambda data: self._note(data, "server"))

    def _note(self, data: str | bytes, sender: str) -> None:
        assert isinstance(data, bytes)
        self.messages.append(decode(data, sender="server" if sender == "server" else "device"))

    def held(self) -> FloatArray:
        """What a device holds that decoded, in Python, the packets that came before HELD went out."""
        (ready,) = [message for message in self.messages if isinstance(message, Ready)]
        (report,) = [message for message in self.messages if isinstance(message, Held)]
        packets: dict[int, bytes] = {}
        for message in self.messages:
            if isinstance(message, Refinement):
                packets[message.packet] = packets.get(message.packet, b"") + message.data
        held = np.zeros(int(np.prod(ready.latent_shape)), np.float32)
        whole = 0 if report.packet == NO_PACKET else report.packet + 1
        for number in range(whole):
            held = apply_packet(packets[number], held).held
        return apply_packet(packets[whole][: report.prefix], held).held if report.prefix else held


def deadline_of(page: Page, times: float) -> float:
    """A deadline in milliseconds of so many times what the server takes, however busy the machine is."""
    info = page.request.get("/v1/info").json()
    generation_ms = info["num_steps"] * info["slot_ms"]
    return float(min(max(100 * math.ceil(times * generation_ms / 100), 1_500), 60_000))


@pytest.mark.parametrize("snr_db", [-3, 6])
def test_the_picture_at_the_deadline_is_the_one_the_server_believes_in(
    browser: Browser, address: str, snr_db: int
) -> None:
    page = browser.new_page(base_url=address)
    wires: list[Wire] = []
    page.on("websocket", lambda socket: wires.append(Wire(socket)))
    # The page may have been open for long, which is nothing to the run: its clock begins with the request.
    page.add_init_script(
        "const now = performance.now.bind(performance); performance.now = () => now() + 3.6e6;"
    )
    page.goto(address)
    until(page, "document.getElementById('server').dataset.state === 'up'")
    page.locator("#link").fill(str(snr_db))
    deadline_ms = deadline_of(page, 3)
    start(page, "a red sphere left of a blue cube", deadline_ms)
    finished(page)
    (wire,) = wires
    (request,) = [message for message in wire.messages if isinstance(message, Request)]
    (summary,) = [message for message in wire.messages if isinstance(message, Summary)]
    assert request.link == {"kind": "rayleigh", "snr_db": snr_db}

    # The page holds, bit for bit, what the packets say in Python, and the server believes the same.
    held = np.asarray(page.evaluate("Array.from(latentcast.run.coefficients)"), np.float32)
    assert held.tobytes() == wire.held().tobytes()
    assert summary.agrees is True
    assert summary.deadline_met
    assert "The server agrees, bit for bit" in page.inner_text("#summary")
    assert page.evaluate("latentcast.run.pictures.length") > 1
    clocks = [message.clock_us for message in wire.messages if isinstance(message, Ack)]
    assert len(clocks) > 5
    assert clocks == sorted(clocks)
    assert clocks[-1] < 1e3 * (deadline_ms + 1_000)

    # The picture is that of this latent, by the same decoder in Python.
    latent = Bands((4, 16, 16)).inverse(held)
    assert np.asarray(page.evaluate("Array.from(latentcast.run.latent)"), np.float32) == pytest.approx(
        latent.ravel(), abs=1e-5
    )
    decoder = onnxruntime.InferenceSession(str(device_decoder_file("scenes")))
    (picture,) = decoder.run(None, {"latent": latent[None]})
    assert np.abs(shown(page) - 255 * picture[0].transpose(1, 2, 0)).max() < 1.5

    # It is as near to the picture that the server finished as the server foretold, within a factor.
    assert summary.predicted_mse is not None
    assert summary.predicted_mse < 0.5
    if summary.reached_mse is not None:
        assert summary.reached_mse < 4 * summary.predicted_mse + 1e-3
    page.close()


def renew_picture(file: Path) -> None:
    """Photograph the page after a run."""
    app = make_app(ServeConfig(emulate_links=True), load_pipeline("scenes"))
    with serving(app) as address, chromium() as browser:
        page = browser.new_page(base_url=address, viewport={"width": 1100, "height": 900})
        page.goto(address)
        until(page, "document.getElementById('server').dataset.state === 'up'")
        page.locator("#link").fill("3")
        page.evaluate("document.getElementById('seed').value = '0'")
        for number in range(2):
            # The second run meets a server that is warm.
            start(page, "a red sphere left of a blue cube", deadline_of(page, 1.5))
            finished(page)
            until(page, f"document.querySelectorAll('#runs li').length === {number + 1}")
        until(page, "document.querySelector('#pane-jpeg .frame').hasAttribute('data-filled')")
        page.screenshot(path=file)


if __name__ == "__main__":
    renew_picture(Path(__file__).parents[1] / "docs" / "live.png")
