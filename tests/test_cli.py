"""The command line: files, tables, JSON, and one clear line for everything that is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentcast import cli
from latentcast.cli import deliver
from latentcast.diffusion import scenes
from latentcast.diffusion.pipeline import DiffusersModel, Reading
from latentcast.errors import ModelError, PausedError
from latentcast.scenario import Scenario


def latentcast(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "latentcast", *words], capture_output=True, text=True, check=False, **options
    )


def run_deliver(folder: Path, out: Path, *more: str) -> int:
    return cli.run(["deliver", "red", "--model", str(folder), "--steps", "6", "--out", str(out), *more])


def test_deliver_writes_its_files(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_deliver(tiny_folder, tmp_path, "--snr-db", "12", "--deadline", "20", "--seed", "3") == 0
    output = capsys.readouterr()
    assert "arrived" in output.out
    assert "At the deadline, slot 20, the device shows step t = 0" in " ".join(output.out.split())
    assert output.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "filmstrip.png",
        "picture.png",
        "timeline.json",
    ]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (64, 64)
    with Image.open(tmp_path / "filmstrip.png") as strip:
        assert strip.width > 900
    timeline = json.loads((tmp_path / "timeline.json").read_text())
    assert timeline["prompt"] == "red"
    assert timeline["model"] == str(tiny_folder)
    assert (timeline["policy"], timeline["seed"]) == ("progressive", 3)
    expected = Scenario.for_latent(256, snr_db=12.0, deadline_slots=20, num_steps=6)
    assert Scenario(**timeline["scenario"]) == expected
    assert len(timeline["slots"]) == 20
    assert 0 < timeline["psnr_db"] < 60


def test_same_command_same_result(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert run_deliver(tiny_folder, tmp_path / name, "--policy", "persistent-3") == 0
    capsys.readouterr()
    for file in ("picture.png", "filmstrip.png", "timeline.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_json_is_all_there_is_on_stdout(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_deliver(tiny_folder, tmp_path, "--json", "--policy", "persistent-8") == 0
    record = json.loads(capsys.readouterr().out)
    files = record.pop("files")
    assert [Path(file).name for file in files] == ["picture.png", "filmstrip.png", "timeline.json"]
    assert record == json.loads((tmp_path / "timeline.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--snr-db", "-30"), "The upload of the prompt alone took longer."),
        (("--policy", "lookahead", "--deadline", "4"), "the policy saw nothing that could arrive in time."),
        (("--policy", "final-only", "--deadline", "9"), "What was sent was still under way."),
    ],
)
def test_nothing_arrived_is_said_in_words(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    assert run_deliver(tiny_folder, tmp_path, *arguments) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Nothing arrived by the deadline" in words
    assert reason in words
    assert "A higher --snr-db or a later --deadline would help" in words
    assert ("or --policy progressive" in words) == ("--policy" in arguments)


def test_compare(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "compare",
        "red",
        "--model",
        str(tiny_folder),
        "--steps",
        "6",
        "--deadline",
        "20",
        "--out",
        str(tmp_path),
    ]
    calls: list[int] = []
    original = DiffusersModel.steps

    def counted(self: DiffusersModel, *arguments: Any) -> Any:
        calls.append(1)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusersModel, "steps", counted)
        assert cli.run(command) == 0
    assert calls == [1]  # five policies, one denoising run
    text = capsys.readouterr().out
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert [policy["policy"] for policy in record["policies"]] == [
        "progressive",
        "lookahead",
        "persistent-3",
        "persistent-4",
        "persistent-8",
        "final-only",
    ]
    for policy in record["policies"]:
        assert policy["policy"] in text
    assert str(tmp_path / "comparison.png") in text.replace("\n", "")
    with Image.open(tmp_path / "comparison.png") as sheet:
        assert sheet.width > 1500
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "20")
        assert cli.run(command) == 0
    assert "…" not in capsys.readouterr().out
    assert cli.run([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(file).name for file in printed.pop("files")] == ["comparison.json", "comparison.png"]
    assert printed == record


def test_model_info(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text("# Tiny\n\nRandom weights.\n")
    assert cli.run(["model", "info", str(folder)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "4 x 8 x 8 = 256 numbers",
        "64 x 64 pixels",
        "scaled_linear",
        "epsilon",
        "7.5",
        "Random weights.",
    ):
        assert expected in text
    assert cli.run(["model", "info", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["model_card_text"].startswith("# Tiny")
    assert record["parameters"]["unet"] > 100_000


def test_notes_on_the_prompt_go_to_stderr(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading("red", ("'crimson' is understood as 'red'",))
    monkeypatch.setattr(DiffusersModel, "read_prompt", lambda self, prompt, seed=0: reading)
    assert run_deliver(tiny_folder, tmp_path, "--json") == 0
    output = capsys.readouterr()
    json.loads(output.out)
    assert output.err == "'crimson' is understood as 'red'\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the prompt is empty"),
        (("x" * 2001,), "the prompt has 2001 characters; at most 2000"),
        (("a\udcff",), "not valid UTF-8"),
        (
            ("red", "--policy", "best"),
            "unknown policy 'best'; choose progressive, lookahead, optimal,",
        ),
        (("red", "--policy", "persistent-x"), "unknown policy"),
        (("red", "--model", "best"), "unknown model 'best'; give 'scenes'"),
        (("red", "--model", "./missing"), "there is no folder ./missing"),
        (("red", "--model", "a" * 5000), "there is no model 'aaaa"),
        (("red", "--model", "~nobody-at-all/x"), "there is no model '~nobody-at-all/x'"),
        (("red", "--model", "a\x1b[31m/b c"), r"there is no folder a\x1b[31m/b c;"),
        (("red", "--out", "~nobody-at-all/x"), "cannot write to ~nobody-at-all/x"),
        (("red", "--snr-db", "nan"), "snr_db is nan"),
        (("red", "--snr-db", "inf"), "snr_db is inf"),
        (("red", "--snr-db", "300"), "-60..100"),
        (("red", "--snr-db", "loud"), "Invalid value for '--snr-db'"),
        (("red", "--deadline", "nan"), "Invalid value for '--deadline'"),
        (("red", "--deadline", "2"), "deadline_slots is 2; it must be at least 3"),
        (("red", "--deadline", "-7"), "deadline_slots is -7"),
        (("red", "--deadline", "99999999"), "deadline_slots is 99999999"),
        (("red", "--steps", "0"), "num_steps is 0"),
        (("red", "--steps", "1001"), "num_steps is 1001"),
        (("red", "--seed", "-1"), "seed is -1"),
        (("red", "--seed", "abc"), "--seed is 'abc'"),
        (("red", "--snr-db=x"), "--snr-db is 'x'"),
        (("red", "--device", "warp"), "unknown device 'warp'"),
        (("red", "--speed", "3"), "No such option: --speed"),
        (("red", "blue"), "unexpected extra argument"),
    ],
)
@pytest.mark.parametrize("command", ["deliver", "compare"])
def test_bad_arguments_are_one_line(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: tuple[str, ...],
    message: str,
) -> None:
    if command == "compare" and "--policy" in words:
        message = "No such option: --policy"
    prompt, options = words[:1] or ("  ",), words[1:]
    model = () if "--model" in options else ("--model", str(tiny_folder))
    assert cli.run([command, *prompt, *model, "--out", str(tmp_path / "out"), *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("Error: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("deliver",), "Missing argument"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("model", "info", "./missing"), "there is no folder ./missing"),
        (("model", "train", "other"), "the only model that latentcast trains is 'scenes'"),
    ],
)
def test_other_bad_commands(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert cli.run(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("Error: ")
    assert output.err.count("\n") == 1
    assert message.lower() in output.err.lower()


def test_unwritable_folder_is_found_before_the_work(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(deliver, "load_pipeline", None)
    assert run_deliver(tiny_folder, tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err.startswith("Error: cannot write to")


def test_missing_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise ModelError("the embedded model's weights are missing")

    monkeypatch.setattr(scenes, "weights_folder", missing)
    assert cli.run(["deliver", "red", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "Error: the embedded model's weights are missing\n"


def test_prompt_is_read_before_the_model_is_loaded(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "weights_folder", lambda: tiny_folder)
    monkeypatch.setattr(deliver, "load_pipeline", None)
    assert cli.run(["deliver", "xyzzy plugh", "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("Error: ")
    assert "sphere" in output.err  # what the model knows
    assert not (tmp_path / "out").exists()


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("deliver", "compare", "model"))
    assert cli.run(["deliver", "--help"]) == 0
    text = capsys.readouterr().out
    options = (
        "--model",
        "--policy",
        "--snr-db",
        "--deadline",
        "--steps",
        "--seed",
        "--device",
        "--out",
        "--json",
    )
    assert all(option in text for option in options)


# The real command around a description of a model that need not be loaded.
DESCRIBING = """
from latentcast.cli import console, main, model
description = {
    "model": "m", "pipeline": "p", "folder": "/" + "folder/" * 20 + "modèle", "latent_shape": [4, 8, 8],
    "latent_size": 256, "picture_size": [64, 64], "parameters": {"unet": 5}, "guidance_scale": 3.0,
    "noise_schedule": {
        "beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2, "training_steps": 10,
        "prediction_type": "epsilon",
    },
    "model_card": None,
}
def describe(name, *, as_json):
    if as_json:
        console.print_json(description)
    else:
        model.print_model(description, "Größe 8 × 8")
model.run_model_info = describe
main()
"""


def describing(*words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, "-c", DESCRIBING, "model", "info", *words]
    return subprocess.run(command, check=False, **options)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_encoding_will_do(encoding: str) -> None:
    result = describing(env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"})
    assert (result.returncode, result.stderr) == (0, b"")
    text = result.stdout.decode(encoding)
    assert ("Gr\\xf6\\xdfe 8 \\xd7 8" if encoding == "ascii" else "Größe 8 × 8") in text


@pytest.mark.parametrize("columns", ["0", "1", "20", "80"])
def test_narrow_terminals_lose_nothing(columns: str) -> None:
    result = describing(env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": columns})
    words = "".join(result.stdout.decode().split())
    assert "folder/" * 20 + "modèle" in words
    assert "0.1to0.2in10trainingsteps" in words


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_full_or_closed_output_is_one_line(words: tuple[str, ...]) -> None:
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            result = describing(*words, stdout=full)
        assert result.returncode == 2
        assert result.stderr == b"Error: cannot write to stdout: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    result = describing(*words, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, b"")  # as other programs do when nobody reads on
    result = describing(*words, stdout=None, preexec_fn=lambda: os.close(1))
    assert (result.returncode, result.stderr) == (0, b"")


def test_interrupt_leaves_no_files(tiny_folder: Path, tmp_path: Path) -> None:
    program = (
        # A shell's background job, as which the tests may run, starts with interrupts ignored.
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from latentcast.diffusion.pipeline import DiffusersModel\n"
        "original = DiffusersModel._denoise\n"
        "def slow(self, *arguments):\n"
        "    print('denoising', flush=True)\n"
        "    original(self, *arguments)\n"
        "DiffusersModel._denoise = slow\n"
        "from latentcast.cli import main\n"
        "main()\n"
    )
    options = ["--model", str(tiny_folder), "--steps", "1000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "deliver", "red", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "denoising\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors == "Interrupted.\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_a_callback_from_c_swallows_comes_again() -> None:
    program = (
        "import ctypes, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from latentcast.cli import deliver, main\n"
        "def interrupted(*arguments, **options):\n"
        "    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()\n"
        "    time.sleep(300)\n"
        "deliver.run_deliver = interrupted\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "deliver", "red"], capture_output=True, text=True, timeout=200
    )
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")


def test_module_runs_as_a_program() -> None:
    result = latentcast("deliver", "a dragon", env={**os.environ, "COLUMNS": "80"})
    assert result.returncode == 2
    assert result.stderr.startswith("Error: no known thing in the prompt 'a dragon': the model knows sphere,")
    assert result.stdout == ""


def test_a_piece_of_training_asks_to_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentcast.diffusion.scenes import judging, training

    given: list[dict[str, Any]] = []

    def paused(out: Path, **options: Any) -> None:
        given.append(options)
        raise PausedError("stage judge has made 3 of 4 updates; the same command goes on from there")

    monkeypatch.setattr(training, "train", paused)
    monkeypatch.setattr(judging, "judge_model", paused)
    train = ["model", "train", "--out", str(tmp_path / "model"), "--minutes", "9"]
    assert cli.run([*train, "--picture-size", "256"]) == 75
    assert cli.run([*train, "--only", "judge"]) == 75
    assert given[0]["plan"].picture_size == 256
    assert all(0.0 < options["stop_at"] - time.monotonic() < 541.0 for options in given)
    assert capsys.readouterr().err.count("Paused: stage judge has made 3 of 4 updates") == 2
    assert cli.run([*train, "--picture-size", "200"]) == 2
    assert cli.run([*train, "--only", "judge", "--picture-size", "256"]) == 2
