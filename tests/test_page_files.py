"""The web page's files, as far as no browser is needed for it."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import latentcast.live
from latentcast.codec import entropy
from latentcast.live.page_files import page_routes

FOLDER = Path(latentcast.live.__file__).parent / "page"
VENDORED = FOLDER / "vendor" / "onnxruntime-web"
OWN = sorted(path for path in FOLDER.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=list(page_routes())))


def test_the_page_is_at_the_root(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.content == (FOLDER / "index.html").read_bytes()


def test_everything_the_page_names_is_served(client: TestClient) -> None:
    named = set()
    for path in OWN:
        text = path.read_text()
        named |= set(re.findall(r'(?:src|href)="([^"#]+)"', text))
        named |= set(re.findall(r'from "\./([^"]+)"|URL\("\./([^"]+[^/])"', text))
    names = {name if isinstance(name, str) else "".join(name) for name in named}
    assert {"app.js", "style.css", "decoder_worker.js", "vendor/onnxruntime-web/ort.wasm.min.mjs"} <= names
    for name in names:
        assert client.get(f"/{name}").status_code == 200, name


def test_no_other_host_is_named() -> None:
    for path in OWN:
        # The name of SVG's language is not fetched.
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?|wss?)://|//[a-z]+\.[a-z]", text), path.name


def test_the_policy_forbids_other_hosts(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "'unsafe-inline'" not in policy


def test_tables_are_the_codecs_own(client: TestClient) -> None:
    assert client.get("/tables.npy").content == (Path(entropy.__file__).parent / "tables.npy").read_bytes()
    assert not list(FOLDER.rglob("*.npy"))


def test_unchanged_files_are_not_sent_again(client: TestClient) -> None:
    first = client.get("/app.js")
    again = client.get("/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_nothing_else_is_served(client: TestClient) -> None:
    for address in (
        "/page_files.py",
        "/../page_files.py",
        "/vendor/",
        "/vendor/onnxruntime-web/README.md",
        "/nothing",
    ):
        assert client.get(address).status_code == 404, address


def test_webassembly_goes_out_compressed(client: TestClient) -> None:
    name = "ort-wasm-simd-threaded.wasm"
    answer = client.get(f"/vendor/onnxruntime-web/{name}")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == "application/wasm"
    assert answer.content == gzip.decompress((VENDORED / f"{name}.gz").read_bytes())


def test_vendored_files_are_those_of_their_origin() -> None:
    sums = dict(
        re.findall(r"^\| `([^`]+)`[^|]*\| ([0-9a-f]{64}) \|$", (VENDORED / "README.md").read_text(), re.M)
    )
    assert len(sums) == 3
    for name, expected in sums.items():
        path = VENDORED / name
        content = (
            path.read_bytes() if path.exists() else gzip.decompress((VENDORED / f"{name}.gz").read_bytes())
        )
        assert hashlib.sha256(content).hexdigest() == expected, name


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        *((ink, paper) for ink in ("ink", "muted") for paper in ("paper", "card", "faint")),
        ("accent", "paper"),
        ("accent-ink", "accent"),
        ("bad", "bad-soft"),
        ("bad", "paper"),
        ("agrees", "paper"),
    ],
)
def test_text_has_contrast(scheme: str, ink: str, paper: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (FOLDER / "style.css").read_text(), re.S)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[0]))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[1]))
    light, dark = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
