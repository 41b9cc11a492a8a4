"""The web page in Chromium against a scripted server: what it shows, says, and holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from latentcast.codec.bands import Bands
from latentcast.codec.progressive import apply_packet
from latentcast.diffusion.source import FloatArray, Step
from latentcast.live.comparison import Recording
from latentcast.live.messages import Ack, Cancel, Failure, Held, Refinement, Request, Reset, Resume, Summary
from scripted_server import LATENT_SHAPE, Peer, Script, ScriptedServer, serving
from test_page_device import HELD, PACKETS, crc, ready, whole

pytestmark = pytest.mark.browser

WAIT_SECONDS = 120


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages on a server; what goes wrong in one of them fails the test."""
    problems: list[str] = []
    contexts = []

    def open_page(address: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.goto(address)
        until(page, "document.getElementById('server').dataset.state === 'up'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # That a request was refused is said by the browser itself.
    assert [text for text in problems if "Failed to load resource" not in text] == []


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the page's policy lets it not be evaluated inside."""
    end = time.monotonic() + WAIT_SECONDS
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not come true: {page.inner_text('main')}"
        page.wait_for_timeout(20)


def finished(page: Page) -> None:
    until(page, "latentcast.run?.comparison !== undefined")


def finish(page: Page, num_refinements: int) -> None:
    """Let the deadline come once the page has so many refinements, however long that takes."""
    until(page, f"latentcast.run?.ready && latentcast.run.arrivals.length >= {num_refinements}")
    page.evaluate("latentcast.run.request.freeze()")
    finished(page)


def start(page: Page, prompt: str = "a red sphere", deadline_ms: float = 60_000) -> None:
    """Fill in the form and press the button; by default with a deadline that `finish` brings forward."""
    page.fill("#prompt", prompt)
    page.locator("#deadline").evaluate(f"(slider) => {{ slider.max = 60000; slider.value = {deadline_ms}; }}")
    page.locator("#deadline").dispatch_event("input")
    page.click("#start")


def summary(held: FloatArray, **changes: Any) -> Summary:
    values: dict[str, Any] = {
        "session": "s1",
        "deadline_met": True,
        "packets": 2,
        "bytes": 136,
        "predicted_mse": 0.012,
        "reached_mse": 0.011,
        "agrees": True,
        "mean_rate_bits_per_second": 7300.0,
        "steps": 50,
        "num_steps": 50,
    }
    return Summary(**{**values, **changes})


async def two_packets(peer: Peer) -> None:
    await peer.expect(Request)
    await peer.send(ready(), whole(0))
    await peer.expect(Ack)
    await peer.send(whole(1))
    held = await peer.expect(Held)
    await peer.send(summary(HELD[2], agrees=held.crc == crc(HELD[2])))


def pixels(held: FloatArray) -> FloatArray:
    """What the tiny decoder makes of coefficients, 0 .. 255, a number for each pixel's first three."""
    latent = Bands(LATENT_SHAPE).inverse(held)[:3]
    picture = np.clip(0.5 + 0.25 * latent, 0, 1).repeat(8, axis=1).repeat(8, axis=2)
    return np.asarray(255 * picture.transpose(1, 2, 0), np.float32)


def shown(page: Page, pane: str = "#pane-ours") -> FloatArray:
    """The canvas of a pane, red, green and blue."""
    canvas = page.locator(f"{pane} canvas")
    data = canvas.evaluate("(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    side = canvas.evaluate("(c) => c.width")
    return np.array(data, np.float32).reshape(-1, side, 4)[..., :3]


def test_the_picture_at_the_deadline_is_what_the_server_believes(open_page: Callable[..., Page]) -> None:
    server = ScriptedServer([two_packets])
    with serving(server.app) as address:
        page = open_page(address)
        start(page, "a red sphere")
        finish(page, 2)
        held = page.evaluate("Array.from(latentcast.run.coefficients)")
        latent = page.evaluate("Array.from(latentcast.run.latent)")
        assert np.asarray(held, np.float32).tobytes() == HELD[2].tobytes()
        assert np.asarray(latent) == pytest.approx(Bands(LATENT_SHAPE).inverse(HELD[2]).ravel(), abs=1e-5)
        assert page.evaluate("latentcast.run.crc") == crc(HELD[2])
        assert np.abs(shown(page) - pixels(HELD[2])).max() <= 0.51
        said = page.inner_text("#summary")
        assert "The server agrees, bit for bit" in said
        assert "very close to the finished one: latent error 0.011" in said
        assert page.get_attribute("#pane-ours canvas", "aria-label") != "No picture yet"
    requests = [message for message in server.received if isinstance(message, Request)]
    assert [(r.prompt, r.deadline_ms, r.link, r.token) for r in requests] == [
        ("a red sphere", 60_000, None, None)
    ]
    assert 0 < requests[0].rtt_ms < 2000


def test_it_refines_while_the_run_goes_on(open_page: Callable[..., Page]) -> None:
    async def slowly(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready(), whole(0))
        await peer.expect(Held)
        await peer.send(summary(HELD[1]))

    with serving(ScriptedServer([slowly]).app) as address:
        page = open_page(address)
        start(page)
        until(page, "latentcast.run?.pictures.length > 0")
        assert page.evaluate("latentcast.run.summary") is None
        assert np.abs(shown(page) - pixels(HELD[1])).max() <= 0.51
        assert page.inner_text("#start") == "Cancel"
        assert "Generating" in page.inner_text("#summary")
        progress = float(page.get_attribute("#bar", "aria-valuenow") or "")
        assert 0 <= progress < 100
        finish(page, 1)
        assert page.get_attribute("#bar", "aria-valuenow") == "100"


def test_a_part_of_a_packet_counts_at_the_deadline(open_page: Callable[..., Page]) -> None:
    async def cut(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready(), Refinement(0, 0, False, PACKETS[0][:40]))
        await peer.expect(Held)
        await peer.send(summary(HELD[0]))

    server = ScriptedServer([cut])
    with serving(server.app) as address:
        page = open_page(address)
        start(page)
        finish(page, 1)
        assert np.abs(shown(page) - pixels(apply_packet(PACKETS[0][:40], HELD[0]).held)).max() <= 0.51
    (held,) = [message for message in server.received if isinstance(message, Held)]
    assert held.prefix == 40


def test_a_broken_connection_is_resumed(open_page: Callable[..., Page]) -> None:
    async def breaks(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready(), whole(0), Refinement(1, 0, False, PACKETS[1][:30]))
        await peer.expect(Ack)
        await peer.expect(Ack)
        await peer.close()

    async def goes_on(peer: Peer) -> None:
        resume = await peer.expect(Resume)
        await peer.send(Reset(2, True), whole(2))
        held = await peer.expect(Held)
        await peer.send(summary(after, agrees=(resume.crc, held.crc) == (crc(between), crc(after))))

    between = apply_packet(PACKETS[1][:30], HELD[1]).held
    after = apply_packet(PACKETS[2], between).held
    server = ScriptedServer([breaks, goes_on])
    with serving(server.app) as address:
        page = open_page(address)
        start(page)
        finish(page, 3)
        assert "The server agrees" in page.inner_text("#summary")
        assert np.abs(shown(page) - pixels(after)).max() <= 0.51
    (resume,) = [message for message in server.received if isinstance(message, Resume)]
    assert (resume.session, resume.key, resume.packet, resume.prefix) == ("s1", "k1", 0, 30)


def test_nothing_in_time_is_said(open_page: Callable[..., Page]) -> None:
    async def nothing(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready())
        await peer.expect(Held)
        await peer.send(summary(HELD[0], deadline_met=False, packets=0, predicted_mse=1.0, reached_mse=1.0))

    with serving(ScriptedServer([nothing]).app) as address:
        page = open_page(address)
        start(page)
        finish(page, 0)
        assert "Nothing reached this page within 60 s" in page.inner_text("#summary")
        assert page.inner_text("#pane-ours .empty") == "Nothing arrived in time"


def refuses(failure: Failure) -> Script:
    async def refuse(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(failure)

    return refuse


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure(code="busy", message="all places are taken", retry_after_ms=2300.0), ("busy", "in 2.3 s")),
        (Failure(code="unauthorized", message="bad token"), ("token is missing or wrong", "under More")),
        (Failure(code="deadline-too-short", message="It takes 0.5 s."), ("too short", "It takes 0.5 s.")),
        (Failure(code="shutting-down", message="bye"), ("shutting down", "no new pictures")),
        (Failure(code="made-up", message="The cat is on the keyboard."), ("cat is on the keyboard",)),
    ],
)
def test_refusals_are_said_in_plain_words(
    open_page: Callable[..., Page], failure: Failure, words: tuple[str, ...]
) -> None:
    with serving(ScriptedServer([refuses(failure), two_packets]).app) as address:
        page = open_page(address)
        start(page)
        page.wait_for_selector("#problem:visible")
        for part in words:
            assert part in page.inner_text("#problem")
        assert page.is_visible("#token") == (failure.code == "unauthorized")
        # It can be tried again at once.
        start(page)
        finish(page, 2)
        assert page.is_hidden("#problem")


def test_a_server_that_is_gone_is_said(open_page: Callable[..., Page]) -> None:
    with serving(ScriptedServer([]).app) as address:
        page = open_page(address)
        page.route("**/v1/info", lambda route: route.abort())
        page.route_web_socket("**/v1/live", lambda socket: socket.close())
        start(page)
        page.wait_for_selector("#problem:visible")
        assert "The server does not answer" in page.inner_text("#problem")
        assert "Generate" in page.inner_text("#start")


def test_cancel_tells_the_server(open_page: Callable[..., Page]) -> None:
    async def waits(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready(), whole(0))
        await peer.expect(Cancel)

    server = ScriptedServer([waits])
    with serving(server.app) as address:
        page = open_page(address)
        start(page)
        until(page, "latentcast.run?.pictures.length > 0")
        page.click("#start")
        until(page, "document.getElementById('start').textContent === 'Generate'")
        assert page.inner_text("#summary") == "Cancelled."
    assert any(isinstance(message, Cancel) for message in server.received)


def test_keyboard_and_link_and_token_reach_the_server(open_page: Callable[..., Page]) -> None:
    info = {"emulates_links": True, "token_required": True, "example_prompts": ["two cubes", "a cone"]}
    server = ScriptedServer([two_packets], info=info)
    with serving(server.app) as address:
        page = open_page(address)
        assert page.input_value("#prompt") == "two cubes"
        page.click("#examples button:nth-child(2)")
        page.focus("#link")
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#link-text") == "−1 dB, fair"
        page.fill("#token", "secret")
        page.fill("#seed", "42")
        page.focus("#prompt")
        page.keyboard.press("Enter")
        until(page, "latentcast.run?.request.sentAt > 0")
        page.click("#start")
        until(page, "document.getElementById('start').textContent === 'Generate'")
    (request,) = [message for message in server.received if isinstance(message, Request)]
    assert request.prompt == "a cone"
    assert (request.seed, request.token) == (42, "secret")
    assert request.link == {"kind": "rayleigh", "snr_db": -1}


def a_recording() -> Recording:
    """A session in which generation ends at 0.4 s, over 2000 bytes a second."""
    recording = Recording(started_at=0.0, deadline_seconds=1.5, rtt_seconds=0.0)
    for number in range(20):
        index = 19 - number
        latent = np.full((1, *LATENT_SHAPE), 0.1 * index, np.float32)
        recording.step(0.02 * (number + 1), Step(index, np.zeros_like(latent), latent))
    for tick in range(3, 150):
        recording.acknowledged(tick / 100, 20 * tick)
    return recording


def grey_pictures(latents: FloatArray) -> Any:
    grey = np.clip(np.rint(127.5 + 64 * latents[:, :1, 0, 0]), 0, 255).astype(np.uint8)
    return np.broadcast_to(grey[:, :, None, None], (len(latents), 64, 64, 3)).copy()


def test_the_other_ways_are_shown_beside_it(open_page: Callable[..., Page]) -> None:
    server = ScriptedServer([two_packets], recording=a_recording(), pictures=grey_pictures)
    with serving(server.app) as address:
        page = open_page(address)
        start(page, deadline_ms=1500)
        finished(page)
        until(page, "document.querySelector('#pane-send .frame').hasAttribute('data-filled')")
        assert np.abs(shown(page, "#pane-send") - 128).max() <= 1
        assert "as finished" in page.inner_text("#pane-send .state")
        # The JPEG that had come by 0.8 s is of an estimate that had set out with the second quarter.
        page.locator("#moment").fill("800")
        assert "PSNR" in page.inner_text("#pane-jpeg .state")
        # At 0.3 s generation was not done; at 0.5 s its result was on its way.
        for moment, words in ((300, "Still computing"), (500, "On its way")):
            page.locator("#moment").fill(str(moment))
            assert page.inner_text("#pane-send .empty") == words
        page.locator("#moment").fill("1500")
        page.click("#play")
        assert page.inner_text("#play") == "Stop"
        until(page, "document.getElementById('play').textContent === 'Replay'")


def test_past_runs_can_be_looked_at_again(open_page: Callable[..., Page]) -> None:
    async def one_packet(peer: Peer) -> None:
        await peer.expect(Request)
        await peer.send(ready(), whole(0))
        await peer.expect(Held)
        await peer.send(summary(HELD[1], reached_mse=0.2))

    with serving(ScriptedServer([one_packet, two_packets]).app) as address:
        page = open_page(address)
        for number, prompt in enumerate(("first", "second"), start=1):
            start(page, prompt)
            finish(page, number)
            until(page, f"document.querySelector('#runs b')?.textContent === '{prompt}'")
        assert page.locator("#runs b").all_inner_texts() == ["second", "first"]
        page.click("#runs li:nth-child(2) button")
        assert np.abs(shown(page) - pixels(HELD[1])).max() <= 0.51
        assert "0.2" in page.inner_text("#summary")
        assert page.get_attribute("#runs li:nth-child(2) button", "aria-current") == "true"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_and_everything_has_a_name(open_page: Callable[..., Page], width: int) -> None:
    info = {
        "emulates_links": True,
        "example_prompts": ["a rather long prompt that fills more than a line of it"],
    }
    with serving(ScriptedServer([two_packets], info=info).app) as address:
        page = open_page(address, viewport={"width": width, "height": 740}, reduced_motion="reduce")
        page.evaluate("document.getElementById('more').open = true")
        start(page)
        finish(page, 2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        controls = page.locator("button:visible, input:visible, textarea:visible, canvas, [role=progressbar]")
        for control in controls.all():
            name = control.evaluate(
                "(c) => c.labels?.[0]?.textContent || c.getAttribute('aria-label') || c.textContent"
            )
            hidden = control.get_attribute("aria-hidden") == "true"
            assert hidden or name.strip(), control.evaluate("(c) => c.outerHTML")
        assert page.locator("[aria-live], [role=status], [role=alert]").count() >= 3
        assert page.evaluate("getComputedStyle(document.getElementById('start')).transitionDuration") == "0s"
