"""The record command: what it prints, and one clear line for everything that is wrong."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentcast import cli
from latentcast.cli import console, study
from latentcast.diffusion.loading import load_components
from latentcast.study.recording.record import RecordingProgress
from latentcast.study.recording.store import Recording


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    # The last is longer than the 16 tokens that the tiny model's text encoder takes.
    file.write_text("red\n\nblue\nred\na green thing of many letters\n")
    return file


def command(prompts: Path | str, folder: Path, out: Path, *more: str) -> list[str]:
    words = ["record", "--prompts", str(prompts), "--model", str(folder), "--out", str(out)]
    return [*words, "--steps", "4", *more]


def test_record_and_go_on(
    tiny_folder: Path, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.run(command(prompts, tiny_folder, out, "--json", "--seed", "4", "--batch-size", "2")) == 0
    output = capsys.readouterr()
    assert output.err == ""
    summary = json.loads(output.out)
    assert summary.pop("seconds") > 0.0
    assert 0.0 < summary.pop("denoiser_share") < 1.0
    assert summary == {"folder": str(out), "model": str(tiny_folder.resolve()), "items": 3, "new_items": 3}
    recording = Recording.open(out)
    assert recording.prompts[:2] == ("red", "blue")
    assert recording.manifest.root_seed == 4
    assert load_components(Path(recording.model), "cpu") is not None
    assert cli.run(command(prompts, tiny_folder, out, "--seed", "4")) == 0
    output = capsys.readouterr()
    assert "3 items of" in output.out
    assert "0 of them new." in output.out
    assert str(out) in output.out.replace("\n", "")


def test_count_and_bad_arguments(
    tiny_folder: Path,
    tmp_path: Path,
    prompts: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert cli.run(command(prompts, tiny_folder, out, "--count", "2")) == 0
    assert capsys.readouterr().out.startswith("2 items of")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert cli.run(command(prompts, tiny_folder, out)) == 2
    message = capsys.readouterr().err
    assert "holds another recording: its number of prompts is 2, not 3; choose another --out" in message
    (tmp_path / "empty.txt").write_text("\n")
    monkeypatch.setattr(study, "load_pipeline", None)  # all of it is found before the model is loaded
    for words, expected in [
        (command(tmp_path / "empty.txt", tiny_folder, out), "holds no prompt"),
        (command(tmp_path / "none.txt", tiny_folder, out), "No such file"),
        (command("prompts", tiny_folder, out), "give 'held-out', or a file"),
        (command(prompts, tiny_folder, out, "--count", "0"), "the number of prompts is 0"),
        (command(prompts, tiny_folder, out, "--count", "9"), "holds 3 different prompts, not 9"),
        (command(prompts, tiny_folder, out, "--seed", "-1"), "seed is -1"),
        (command(prompts, Path("missing"), out), "unknown model 'missing'"),
        (command(prompts, tiny_folder, prompts / "out"), "cannot write to"),
        (["record"], "Missing option '--prompts'"),
    ]:
        assert cli.run(words) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("Error: ")
        assert output.err.count("\n") == 1
        assert expected.lower() in output.err.lower()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_interrupt_keeps_the_items(tiny_folder: Path, tmp_path: Path, prompts: Path) -> None:
    program = (
        # A shell's background job, as which the tests may run, starts with interrupts ignored.
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from latentcast.study.recording.store import Recording\n"
        "original = Recording.write\n"
        "def told(self, item, trajectory):\n"
        "    original(self, item, trajectory)\n"
        "    print('recorded', item, flush=True)\n"
        "Recording.write = told\n"
        "from latentcast.cli import main\n"
        "main()\n"
    )
    words = command(prompts, tiny_folder, tmp_path / "out", "--steps", "300", "--batch-size", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "recorded 0\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.endswith("the same command goes on from there.\nInterrupted.\n")
    assert "Traceback" not in errors
    recording = Recording.open(tmp_path / "out")
    assert 1 <= recording.num_items < 3
    assert recording.trajectory(0).prompt == "red"


def test_the_bar_tells_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with console.RecordProgress.show("m") as progress:
        for items, share in ((5, 0.5), (5, 0.6), (7, 0.7)):
            progress(RecordingProgress(num_items=items, num_planned=10, share=share, denoiser_seconds=share))
        progress._progress.refresh()
    assert (progress.new_items, progress.denoiser_seconds) == (2, 0.7)
    text = capsys.readouterr().err
    assert "recording" in text
    assert "7/10" in text
    assert "left" in text
