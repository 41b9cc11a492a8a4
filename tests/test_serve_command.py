"""`latentcast serve` as a process: its address, its log, its end."""

import json
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from latentcast.cli import run
from latentcast.live.client import request_picture_sync


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serve_until_told_to_end(tiny_folder: Path, ending: signal.Signals) -> None:
    command = [sys.executable, "-m", "latentcast", "serve", "--model", str(tiny_folder), "--port", "0"]
    with subprocess.Popen(
        [*command, "--json-logs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line.startswith("Serving on http://127.0.0.1:")
            with urllib.request.urlopen(f"{line.split()[-1]}/health") as answer:
                assert json.loads(answer.read())["status"] == "ok"
            process.send_signal(ending)
            _, log = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["ready", "draining", "closed"]
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "port is 70000"),
        (["--max-sessions", "0"], "max_sessions is 0"),
        (["--origin", "example.org"], "must read like https://"),
        (["--tls-cert", "missing.pem"], "TLS needs both"),
        (["--token-file", "missing"], "cannot read the tokens"),
        (["--model", "unheard-of"], "unknown model"),
    ],
)
def test_bad_options_end_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


# TLS


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*words.split(), *files], check=True, capture_output=True)
    return cert, key


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """`latentcast serve` as a process; its address."""
    command = [sys.executable, "-m", "latentcast", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=60)


class NoDecoder:
    """Stands for a decoder, for whom the latent is enough."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return np.zeros((len(latents), 8, 8, 3), np.uint8)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cert, key), (_, other) = certificate(tmp_path, "one"), certificate(tmp_path, "two")
    spoiled = tmp_path / "spoiled.pem"
    spoiled.write_text("no certificate")
    for wrong in ((cert, other), (spoiled, key)):
        assert run(["serve", "--tls-cert", str(wrong[0]), "--tls-key", str(wrong[1])]) == 2
        error = capsys.readouterr().err
        assert "the TLS certificate or key cannot be used" in error
        assert len(error.splitlines()) == 1
    with serving("--model", str(tiny_folder), "--tls-cert", str(cert), "--tls-key", str(key)) as url:
        assert url.startswith("https://127.0.0.1:")
        trusts = ssl.create_default_context(cafile=str(cert))
        delivery = request_picture_sync(url, "x", deadline_ms=5000, tls=trusts, decoder=NoDecoder())
        assert delivery.agrees is True
        assert run(["device", url, "x", "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "certificate is not trusted" in error
        assert len(error.splitlines()) == 1
        # Nobody was disturbed.
        with urllib.request.urlopen(f"{url}/health", context=trusts) as answer:
            assert json.loads(answer.read())["status"] == "ok"
