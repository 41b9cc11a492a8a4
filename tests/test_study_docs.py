"""The page on studies: its example runs, its keys are those of the configuration."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from latentcast import cli
from latentcast.study.runner.choices import CaseChoice, Link, Setting, TrajectoryChoice, ValidationChoice
from latentcast.study.runner.config import StudyConfig

PAGE = (Path(__file__).parent.parent / "docs" / "studies.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    study = tmp_path / "study.toml"
    study.write_text(example)
    out = tmp_path / "out"
    assert cli.run(["study", "run", str(study), "--out", str(out), "--processes", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert re.search(r"SNR dB +lookahead +persistent-4 +lookahead, exact base", shown.out)
    assert str(out / "report.html") in shown.out
    assert pq.read_metadata(out / "episodes.parquet").num_rows == 3 * 3 * 2000
    for name in re.findall(r"^\| `(\w+\.\w+)`(?:, `(\w+\.\w+)`)?", PAGE, flags=re.MULTILINE):
        for file in filter(None, name):
            assert (out / file).is_file(), file


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("### Top level", StudyConfig),
        ("### `[trajectories]`", TrajectoryChoice),
        ("### `[link]`", Link),
        ("### `[scenario]`", Setting),
        ("### `[validation]`", ValidationChoice),
        ("### `[[cases]]`", CaseChoice),
    ],
)
def test_every_key_is_explained(heading: str, model: type[BaseModel]) -> None:
    section = PAGE.split(f"{heading}\n")[1].split("\n#")[0]
    explained = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    tables = {"trajectories", "link", "scenario", "validation", "cases"}
    assert set(model.model_fields) - (tables if model is StudyConfig else {"device"}) == explained
