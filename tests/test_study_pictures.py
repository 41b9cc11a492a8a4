"""Studies with pictures, from a model's first prompt to the report."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from latentcast import cli
from latentcast.study.runner.load import load_study
from latentcast.study.runner.run import run_study

STUDY = """
episodes = 3
policies = ["progressive", "persistent-4", "final-only"]
metrics = ["psnr", {{ name = "flip", pixels_per_degree = 40 }}]
[trajectories]
model = "{model}"
prompts = "{prompts}"
count = 2
[link]
snr_db = [5, 20]
[scenario]
num_steps = 5
deadline_slots = 9
"""
VALIDATION = """
kind = "validation"
[trajectories]
model = "{model}"
prompts = "{prompts}"
count = 2
[scenario]
num_steps = 5
[validation]
pairs = [[5, 3], [3, 0]]
bits = [3, 8]
pictures = 1
"""


@pytest.fixture
def files(tmp_path: Path, tiny_folder: Path) -> dict[str, str]:
    (tmp_path / "prompts.txt").write_text("red\nred re\n")
    made = {}
    for name, text in (("study", STUDY), ("validation", VALIDATION)):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.format(model=tiny_folder, prompts=tmp_path / "prompts.txt"))
        made[name] = str(path)
    return made


def test_a_study_of_a_model(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "1"), "--processes", "1", "--json"]
    assert cli.run(["study", "run", files["study"], *arguments]) == 0
    reply = json.loads(capsys.readouterr().out)
    one = tmp_path / "1" / "episodes.parquet"
    table = pq.read_table(one)
    assert table.num_rows == 2 * 3 * 3
    for column in ("psnr_db", "flip"):
        assert np.isfinite(table.column(column).to_numpy()).all()
        (mean,) = (
            row["mean"]
            for row in reply["summary"]
            if (row["quantity"], row["policy"], row["snr_db"]) == (column, "final-only", 5.0)
        )
        rows = table.filter((np.array(table["policy"]) == "final-only") & (np.array(table["snr_db"]) == 5.0))
        assert mean == pytest.approx(rows.column(column).to_numpy().mean())
    assert "data:image/" in (tmp_path / "1" / "report.html").read_text()
    # The model's own calibration was used, and says how near a Gaussian code could have come.
    assert {row["policy"] for row in reply["savings"]} <= {"persistent-4", "final-only"}
    limit = table.column("limit_mse").to_numpy()
    assert (np.isfinite(limit) & (limit > 0.0)).all()
    identity = json.loads((tmp_path / "1" / "study.json").read_text())["study"]
    assert len(identity["recording"]["calibration"]) == 16
    # The recording stands beside the results; a validation of the same prompts reads it too.
    (recording,) = tmp_path.glob("recording-tiny-2-*")
    before = {path: path.stat().st_mtime_ns for path in recording.rglob("*")}
    assert cli.run(["study", "run", files["validation"], "--out", str(tmp_path / "v")]) == 0
    assert {path: path.stat().st_mtime_ns for path in recording.rglob("*")} == before
    assert pq.read_metadata(tmp_path / "v" / "fig2.parquet").num_rows > 0
    assert str(tmp_path / "v" / "fig2b.svg") in capsys.readouterr().out


@pytest.mark.slow
def test_pictures_score_the_same_on_two_processes(tmp_path: Path, files: dict[str, str]) -> None:
    config = load_study(files["study"])
    one, two = (run_study(config, tmp_path / str(n), processes=n) for n in (1, 2))
    assert one.summary == two.summary
    name = "episodes.parquet"
    assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_show_prints_a_file_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["study", "show", "fig3"]) == 0
    assert "[trajectories]" in capsys.readouterr().out
    assert cli.run(["study", "show", "fig5"]) == 2
    assert "choose fig2, fig3, fig3-model" in capsys.readouterr().err
