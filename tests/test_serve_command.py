"""`latentcast serve` as a process: its address, its log, its end."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from latentcast.cli import run


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
