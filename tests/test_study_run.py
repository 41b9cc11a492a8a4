"""Studies end to end: the same tables from one process, several, and after every kind of interruption."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from latentcast import cli
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.errors import OutputError, ParameterError, StudyError
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario
from latentcast.study.episodes.columns import COLUMNS
from latentcast.study.model_level import model_level
from latentcast.study.output import OutputFolder
from latentcast.study.recording.record import record
from latentcast.study.runner import results
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.load import parse_study
from latentcast.study.runner.pool import run_on_processes
from latentcast.study.runner.run import run_study, study_policies
from latentcast.study.runner.tasks import Job, Task, run_task, study_tasks

MODEL = """
fidelity = "model"
episodes = 9000
seed = 5
policies = ["lookahead", "persistent-4", { name = "lookahead", label = "exact", base = "lloyd-max" }]
[link]
snr_db = [0, 5]
"""
LATENT = """
episodes = 70
policies = ["lookahead", "final-only"]
[trajectories]
recording = "{recording}"
[link]
snr_db = [0, 5]
[scenario]
num_steps = 10
deadline_slots = 14
"""


GAUSSIAN = """
episodes = 10
policies = [{ name = "progressive", label = "ours" }, "lookahead"]
[trajectories]
model = "white-gaussian"
count = 3
[link]
snr_db = [0, 9]
[scenario]
latent_size = 256
num_steps = 10
deadline_slots = 16
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = GaussianSource((4, 8, 8), NoisePath.stable_diffusion(10))
    return record(source, ["a", "b", "c"], tmp_path_factory.mktemp("recording"), batch_size=3).folder


@pytest.fixture(scope="module")
def latent(recording: Path) -> StudyConfig:
    return parse_study(LATENT.replace("{recording}", str(recording)))


def table(folder: Path) -> bytes:
    return (folder / "episodes.parquet").read_bytes()


def column(folder: Path, name: str) -> npt.NDArray[Any]:
    return np.asarray(pq.read_table(folder / "episodes.parquet").column(name).to_numpy())


def test_model_level_on_one_process_and_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_study(MODEL)
    stages: list[tuple[str, int, int]] = []
    # Row groups that end inside a part are cut as well as others.
    monkeypatch.setattr(results, "GROUP_ROWS", 5000)
    one = run_study(config, tmp_path / "1", processes=1, progress=lambda *state: stages.append(state))
    two = run_study(config, tmp_path / "2", processes=2)
    assert table(one.folder) == table(two.folder)
    assert one.summary == two.summary
    assert stages[0] == ("episodes", 0, 18000)
    assert ("episodes", 18000, 18000) in stages
    assert stages[-1] == ("tables", 6, 6)
    assert not (one.folder / "parts").exists()
    # By SNR, then policy in the study's order, then episode.
    names = np.repeat(["lookahead", "persistent-4", "exact"], 9000)
    assert (column(one.folder, "snr_db") == np.repeat([0.0, 5.0], 27000)).all()
    assert (column(one.folder, "policy") == np.tile(names, 2)).all()
    assert (column(one.folder, "episode") == np.tile(np.arange(9000), 6)).all()
    schema = pq.read_schema(one.folder / "episodes.parquet")
    assert schema.names == [item.name for item in COLUMNS]
    assert schema.field("latent_mse").metadata[b"meaning"].startswith(b"error of the latent")


def test_the_summary_is_that_of_the_table(tmp_path: Path) -> None:
    config = parse_study(MODEL, episodes=5000)
    result = run_study(config, tmp_path, processes=1)
    mse = column(tmp_path, "latent_mse").reshape(2, 3, 5000)
    (row,) = (
        row
        for row in result.summary
        if (row["snr_db"], row["policy"], row["quantity"]) == (5.0, "persistent-4", "latent_mse")
    )
    scenario = Scenario.paper(snr_db=5.0)
    policy = study_policies(config, result.knowledge, scenario)[1]
    assert not isinstance(policy, ProgressivePolicy)
    alone = model_level(scenario, policy, 5000, seed=5)
    assert (row["n"], row["pairs"]) == (5000, 5000)
    assert row["mean"] == pytest.approx(alone.mean, rel=1e-12)
    assert row["standard_error"] == pytest.approx(alone.standard_error, rel=1e-9)
    assert row["high"] - row["mean"] == pytest.approx(1.9604 * alone.standard_error, rel=1e-3)
    difference = mse[1, 1] - mse[1, 0]
    assert row["difference_mean"] == pytest.approx(difference.mean(), rel=1e-9)
    assert row["difference_standard_error"] == pytest.approx(difference.std(ddof=1) / 5000**0.5, rel=1e-9)
    shown = {r["mean"] for r in result.summary if r["quantity"] == "shown" and r["policy"] == "lookahead"}
    assert shown == {1.0}
    # The same rows for readers of Parquet, and of JSON.
    assert pq.read_table(tmp_path / "summary.parquet").to_pylist() == result.summary
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["configuration"]["link"]["snr_db"] == [0.0, 5.0]
    assert (provenance["seed"], provenance["versions"]["python"]) == (5, sys.version.split()[0])
    assert provenance["started"] <= provenance["finished"]


def test_latent_level_on_one_process_and_two(tmp_path: Path, latent: StudyConfig) -> None:
    one = run_study(latent, tmp_path / "1", processes=1)
    two = run_study(latent, tmp_path / "2", processes=2)
    assert table(one.folder) == table(two.folder)
    assert (column(one.folder, "episode") == np.tile(np.arange(70), 4)).all()
    assert np.isnan(column(one.folder, "flip")).all()
    # The same study of the same folder is done; nothing is written again.
    before = (one.folder / "provenance.json").read_bytes()
    again = run_study(latent, tmp_path / "1")
    assert (again.summary, (one.folder / "provenance.json").read_bytes()) == (one.summary, before)


def test_the_progressive_scheme_on_one_process_and_two(tmp_path: Path) -> None:
    config = parse_study(GAUSSIAN)
    one, two = (run_study(config, tmp_path / str(n), processes=n) for n in (1, 2))
    assert one.recording is None
    assert table(one.folder) == table(two.folder)
    assert one.summary == two.summary
    assert (column(one.folder, "policy") == np.tile(np.repeat(["ours", "lookahead"], 10), 2)).all()
    ours = column(one.folder, "policy") == "ours"
    # A packet is made for its slot and fills it at most: none is late, and what is expected is what comes.
    judged, late = column(one.folder, "judged_transfers"), column(one.folder, "late_transfers")
    assert (judged[ours] == column(one.folder, "transmissions")[ours]).all()
    assert not late[ours].any()
    assert (column(one.folder, "first_slot")[ours] > 0).all()
    mse, predicted = column(one.folder, "latent_mse")[ours], column(one.folder, "predicted_mse")[ours]
    assert mse.mean() == pytest.approx(predicted.mean(), rel=0.2)
    # The same channel draws: the same limit, and nobody is below it.
    limit = column(one.folder, "limit_mse")
    assert (limit[ours] == limit[~ours]).all()
    assert (column(one.folder, "latent_mse") > limit).all()
    assert np.isnan(column(one.folder, "clairvoyant_mse")).all()
    saved = json.loads((one.folder / "summary.json").read_text())
    assert {row["policy"] for row in saved["verdicts"]} == {"lookahead"}


def test_a_recorded_model_needs_a_calibration(tmp_path: Path, recording: Path) -> None:
    text = LATENT.replace("{recording}", str(recording)).replace('"lookahead"', '"progressive"')
    with pytest.raises(ParameterError, match="GaussianSource has not been calibrated, which policy 'progr"):
        run_study(parse_study(text), tmp_path, processes=1)


def test_bounds_at_model_level(tmp_path: Path) -> None:
    run_study(parse_study(MODEL, episodes=300), tmp_path, processes=1)
    mse, clairvoyant, limit = (
        column(tmp_path, name) for name in ("latent_mse", "clairvoyant_mse", "limit_mse")
    )
    assert (clairvoyant <= mse * (1 + 1e-12)).all()
    assert (limit < clairvoyant).all()


def test_another_study_of_the_folder_is_refused(tmp_path: Path, recording: Path) -> None:
    config = parse_study(MODEL, episodes=10)
    run_study(config, tmp_path, processes=1)
    with pytest.raises(
        ParameterError, match=r"another study: configuration\.seed is 5 there and 6 here; cho"
    ):
        run_study(parse_study(MODEL, episodes=10, seed=6), tmp_path, processes=1)
    with pytest.raises(ParameterError, match="processes is 0; it must be at least 1"):
        run_study(config, tmp_path, processes=0)
    with pytest.raises(ParameterError, match="a Ray cluster has its own, so give one of them"):
        run_study(config, tmp_path, processes=1, ray="auto")
    run_study(parse_study(MODEL, episodes=10, title="Renamed"), tmp_path, processes=1)
    with pytest.raises(ParameterError, match="this is one of kind 'validation'"):
        run_study(parse_study('kind = "validation"\n[trajectories]'), tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ParameterError, match=r"study\.json cannot be read"):
        run_study(config, tmp_path, processes=1)


def test_trajectories_must_fit(tmp_path: Path, recording: Path) -> None:
    text = LATENT.replace("{recording}", str(recording))
    with pytest.raises(ParameterError, match=r"num_steps is 50, but .* was recorded in 10 steps"):
        run_study(parse_study(text.replace("num_steps = 10", "")), tmp_path / "a")
    with pytest.raises(ParameterError, match=r"latent_size is 99, but the latents of .* have 256 numbers"):
        run_study(parse_study(text + "latent_size = 99"), tmp_path / "b")
    with pytest.raises(ParameterError, match="there is no recording in"):
        run_study(parse_study(LATENT.replace("{recording}", str(tmp_path))), tmp_path / "c")


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, latent: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_study(latent, tmp_path / "whole", processes=1)
    written, write = 0, Path.write_bytes

    def fill_up(self: Path, data: bytes) -> int:
        nonlocal written
        written += self.parent.name == "parts"
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_up)
        with pytest.raises(OutputError, match="no space left on device; finished parts are kept"):
            run_study(latent, tmp_path / "full", processes=1)
    parts = sorted((tmp_path / "full" / "parts").iterdir())
    assert len(parts) == 2
    parts[1].write_bytes(parts[1].read_bytes()[:1000])  # as a crash of the machine leaves a file
    kept = parts[0].stat().st_mtime_ns
    started: list[int] = []
    run_study(latent, tmp_path / "full", processes=1, progress=lambda _, done, total: started.append(done))
    assert started[0] == 64
    assert kept
    assert table(tmp_path / "full") == table(whole.folder)


def test_a_part_with_a_flipped_byte_is_made_anew(
    tmp_path: Path, latent: StudyConfig, recording: Path
) -> None:
    task = next(study_tasks(latent))
    part = results.part_bytes(run_task(Job(latent.model_dump_json(exclude_unset=True), str(recording)), task))
    path = tmp_path / "part.parquet"
    path.write_bytes(part)
    assert results.part_is_whole(path, 2, 64)
    for place in range(0, len(part), 97):
        path.write_bytes(part[:place] + bytes([part[place] ^ 0x55]) + part[place + 1 :])
        assert not results.part_is_whole(path, 2, 64)
    with pytest.raises(ParameterError, match=r"is damaged: .* delete it, and the same command makes it anew"):
        results.merge(OutputFolder(tmp_path), [[path]], 2)


def test_a_damaged_recording_keeps_what_is_finished(tmp_path: Path) -> None:
    source = GaussianSource((4, 8, 8), NoisePath.stable_diffusion(10))
    made = record(source, ["a", "b"], tmp_path / "recording", batch_size=2)
    chunk = made.folder / "samples" / "c.1.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    config = parse_study(LATENT.replace("{recording}", str(made.folder)))
    for processes in (1, 2):
        with pytest.raises(ParameterError, match=r"item 1 of .* is damaged"):
            run_study(config, tmp_path / "out", processes=processes)


def test_a_killed_worker_is_one_error(latent: StudyConfig, recording: Path) -> None:
    job = Job(latent.model_dump_json(exclude_unset=True), str(recording))
    tasks = [Task(0, 64 * number, 64) for number in range(64)]
    before = set(multiprocessing.active_children())
    running = run_on_processes(job, tasks, 2)
    next(running)
    workers = list(set(multiprocessing.active_children()) - before)
    assert len(workers) == 2
    workers[0].kill()
    with pytest.raises(StudyError, match="a worker process was killed"):
        list(running)
    assert not set(multiprocessing.active_children()) - before


# A process that finishes parts slowly enough to be caught between two of them.
PROGRAM = """
import sys
from latentcast import cli
from latentcast.study.runner.folder import StudyFolder
if __name__ == "__main__":
    write = StudyFolder.write_part
    def report(self, task, data):
        write(self, task, data)
        print(task.name, flush=True)
        if task.snr == 1:
            sys.stdin.readline()
    StudyFolder.write_part = report
    sys.exit(cli.run(sys.argv[1:]))
"""


def interrupt(tmp_path: Path, study: Path, number: int) -> tuple[int, str]:
    """Send a signal to a whole process group, as a terminal does, once parts are finished."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), "study", "run", str(study), "--processes", "2"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.stdout.readline().startswith("0000"):
            pass
        if number == signal.SIGKILL:
            process.kill()  # the parent alone: its workers have to notice
        else:
            os.killpg(process.pid, number)
        process.wait(60)
        group = process.pid
        errors = process.stderr.read()
    wait_for(lambda: not group_exists(group))
    return process.returncode, errors


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_study_goes_on(
    tmp_path: Path, latent: StudyConfig, recording: Path, number: signal.Signals
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(LATENT.replace("{recording}", str(recording)).replace("[0, 5]", "[0, 5, 10]"))
    code, errors = interrupt(tmp_path, study, number)
    if number == signal.SIGINT:
        assert code == 130
        assert "the same command goes on from it." in errors
        assert "Traceback" not in errors
    else:
        assert code == -signal.SIGKILL
    parts = list((tmp_path / "out" / "parts").glob("[0-9]*.parquet"))
    assert 1 <= len(parts) < 6
    assert not (tmp_path / "out" / "episodes.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in parts}
    config = parse_study(study.read_text())
    seen: list[int] = []
    run_study(config, tmp_path / "out", processes=1, progress=lambda _, done, total: seen.append(done))
    assert seen[0] == sum(64 if path.stem.endswith("0" * 12) else 6 for path in before)
    run_study(config, tmp_path / "whole", processes=1)
    assert table(tmp_path / "out") == table(tmp_path / "whole")


def test_tasks_cover_every_episode_once() -> None:
    config = parse_study(MODEL, episodes=5000)
    assert list(study_tasks(config)) == [
        Task(snr, first, count) for snr in (0, 1) for first, count in ((0, 4096), (4096, 904))
    ]


def test_a_dead_ray_address_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "host:port"):
        out = ["--out", str(tmp_path), "--episodes", "1"]
        assert cli.run(["study", "run", "fig3-model", "--ray", address, *out]) == 2
        assert f"there is no Ray cluster at '{address}'" in capsys.readouterr().err
    # Nothing is recorded for a cluster that is not there.
    assert cli.run(["study", "run", "fig3", "--ray", "nowhere", "--out", str(tmp_path / "a" / "b")]) == 2
    assert "there is no Ray cluster at 'nowhere'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
