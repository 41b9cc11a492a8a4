"""The study of the limit end to end, on latents so small that it takes seconds."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from latentcast import cli
from latentcast.codec.progressive import apply_packet, make_packet
from latentcast.errors import PacketError, ParameterError
from latentcast.study.limit import run_limit
from latentcast.study.limits.overhead import packet_overhead_bytes
from latentcast.study.runner.load import load_study, parse_study

STUDY = """
kind = "limit"
title = "Small <limit>"
episodes = 3
[link]
snr_db = [-3, 6]
[scenario]
latent_size = 1024
num_steps = 20
deadline_slots = 26
[[cases]]
name = "white"
[[cases]]
name = "early"
deadline_slots = 12
snr_db = 0
[[cases]]
name = "few"
num_subchannels = 12
snr_db = 9
[[cases]]
name = "shaped"
source = "natural-gaussian"
snr_db = 0
"""

KEYS = {"snr_db", "limit", "paper", "ours", "gap_db", "bytes", "headers"}


@pytest.fixture(scope="module")
def reply(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("limit")
    (folder / "study.toml").write_text(STUDY)
    json_file = folder / "reply.json"
    with pytest.MonkeyPatch.context() as patch, json_file.open("w") as stdout:
        patch.setattr("sys.stdout", stdout)
        arguments = ["study", "run", str(folder / "study.toml"), "--out", str(folder / "out"), "--json"]
        assert cli.run([*arguments, "--processes", "1"]) == 0
    content: dict[str, Any] = json.loads(json_file.read_text())
    return content


def test_a_row_per_snr(reply: dict[str, Any]) -> None:
    assert [row["snr_db"] for row in reply["rows"]] == [-3.0, 6.0]
    assert [row["case"] for row in reply["other_cases"]] == ["early", "few", "shaped"]
    for row in [*reply["rows"], *reply["other_cases"]]:
        assert set(row) >= KEYS
        assert row["episodes"] == 3
        # Nobody is below the limit, and ours is nearer.
        assert 0.0 < row["limit"] < row["ours"] < row["paper"]
        assert row["gap_db"] == pytest.approx(10 * np.log10(row["ours"] / row["limit"]))
        assert row["paper_gap_db"] == pytest.approx(10 * np.log10(row["paper"] / row["limit"]))
        assert row["gap_error_db"] > 0.0
        assert row["headers"] == pytest.approx(row["packets"] * packet_overhead_bytes(1024))
        assert 0.0 < row["headers"] < row["bytes"]


def test_every_file_is_there(reply: dict[str, Any]) -> None:
    out = Path(reply["folder"])
    rows = pq.read_table(out / "limit.parquet").to_pylist()
    assert rows == [*reply["rows"], *reply["other_cases"]]
    for name in ("limit", "limit-gap"):
        for ending in ("svg", "pdf", "png"):
            assert (out / f"{name}.{ending}").stat().st_size > 1000
    assert all(Path(file).is_file() for file in reply["files"])
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["configuration"]["cases"][1]["deadline_slots"] == 12
    # The bytes of a row are those of the packets that arrived.
    ours = [
        episode
        for episode in pq.read_table(out / "cases" / "white" / "episodes.parquet").to_pylist()
        if (episode["policy"], episode["snr_db"]) == ("progressive", 6.0)
    ]
    assert rows[1]["bytes"] == pytest.approx(np.mean([episode["bits_sent"] for episode in ours]) / 8)
    # Every slot carried its packet at most: T_ul of them carried none.
    assert all(episode["transmissions"] <= 26 - episode["uplink_slots"] for episode in ours)


def test_the_page(reply: dict[str, Any]) -> None:
    text = unescape((Path(reply["folder"]) / "report.html").read_text())
    assert "Small <limit>" in text
    assert "early: white-gaussian, deadline of 12 slots, 60 sub-channels" in text
    assert f"{reply['rows'][0]['limit']:.3g}" in text


def test_it_goes_on_and_gives_the_same_on_two_processes(tmp_path: Path, reply: dict[str, Any]) -> None:
    config = parse_study(STUDY)
    stages: list[tuple[str, int, int]] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        stages.append((stage, done, total))
        if stage == "episodes, few" and done == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_limit(config, tmp_path, processes=1, progress=interrupt)
    before = (tmp_path / "cases" / "white" / "provenance.json").read_bytes()
    result = run_limit(config, tmp_path, processes=2)
    assert (tmp_path / "cases" / "white" / "provenance.json").read_bytes() == before
    assert [row.gap_db for row in result.rows] == [
        row["gap_db"] for row in [*reply["rows"], *reply["other_cases"]]
    ]
    assert ("episodes, white", 6, 6) in stages
    assert list(result.cases) == ["white", "early", "few", "shaped"]
    with pytest.raises(ParameterError, match=r"another study: configuration\.episodes is 3 there and 4 here"):
        run_limit(parse_study(STUDY, episodes=4), tmp_path)
    with pytest.raises(ParameterError, match="this is one of kind 'deadline'"):
        run_limit(load_study("fig3"), tmp_path)


def test_a_single_episode_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("[-3, 6]", "0"))
    arguments = ["study", "run", str(study), "--out", str(tmp_path / "out"), "--episodes", "1"]
    assert cli.run([*arguments, "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert "shaped: natural-gaussian, T_d 26, K 60" in shown
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["gap_error_db"] is None


def test_the_built_in_study_is_that_of_the_bar() -> None:
    config = load_study("limit")
    first, *others = map(config.of_case, config.cases)
    assert first.link is not None
    assert first.link.snr_db == tuple(float(snr_db) for snr_db in range(-6, 19, 3))
    scenario = first.scenario_at(0.0, first.scenario.latent_size or 0)
    assert (scenario.latent_size, scenario.deadline_slots, scenario.num_steps) == (16384, 60, 50)
    assert {case.scenario.deadline_slots for case in others} >= {30, 90}
    assert 12 in {case.link.num_subchannels for case in others if case.link is not None}
    assert "natural-gaussian" in {case.gaussian_model for case in others}


def test_overhead_is_what_no_coefficient_needs() -> None:
    size = 16384
    rng = np.random.default_rng(1)
    target, held = rng.standard_normal(size).astype(np.float32), np.zeros(size, np.float32)
    refined = make_packet(target, held, max_bytes=150, horizon_bits=3.0 * size)
    assert refined is not None
    overhead = packet_overhead_bytes(size)
    with pytest.raises(PacketError):
        apply_packet(refined.data[:2], held)
    # Ten bits of step, one of shape and fourteen of start are four bytes; the end loses a byte at most.
    assert 3.0 <= overhead <= 6.0
    assert apply_packet(refined.data[: int(np.ceil(overhead))], held).num_refined <= 16
