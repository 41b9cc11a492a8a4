"""A headless Chromium for tests marked `browser`, and the page's modules run in it."""

import base64
import mimetypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Route, sync_playwright

import latentcast.codec
import latentcast.live

PAGE_FOLDER = Path(latentcast.live.__file__).parent / "page"
TABLES = Path(latentcast.codec.__file__).parent / "tables.npy"

# What the page's modules need to take and give back arrays bit for bit.
HELPERS = """
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
const textOf = (array) => {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
};
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no Chromium on the PATH; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        # Root, as in CI's container, has no sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def serve_modules(page: Page) -> None:
    """Answer the page's requests from the package, and open an empty document."""

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix("http://modules.test/")
        if name == "":
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")
            return
        file = TABLES if name == "tables.npy" else PAGE_FOLDER / name
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        route.fulfill(body=file.read_bytes(), content_type=kind)

    page.route("http://modules.test/**", answer)
    page.goto("http://modules.test/")


def run(page: Page, body: str, argument: object = None) -> Any:
    """Run the body of an async function of `input` in the page and return what it returns."""
    return page.evaluate(f"async (input) => {{ {HELPERS} {body} }}", argument)


def text_of(data: bytes) -> str:
    """Bytes as the page's `bytesOf` and `floatsOf` read them."""
    return base64.b64encode(data).decode()
