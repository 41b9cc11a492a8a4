"""Figures: their sizes, what is drawn, and files that are whole or not there."""

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from latentcast.delivery.deliver import deliver
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import FloatArray, Trajectory
from latentcast.errors import OutputError, ParameterError
from latentcast.policy.catalog import SCHEME_NAMES, make_policy
from latentcast.scenario import Scenario
from latentcast.study.output import OutputFolder
from latentcast.study.sheet.comparison import Comparison, compare
from latentcast.study.sheet.filmstrip import comparison_sheet, filmstrip
from latentcast.study.sheet.page import ACCENT, INK, Page

SIZE = 256


def scenario_for(snr_db: float, deadline_slots: int) -> Scenario:
    return Scenario.for_latent(SIZE, snr_db=snr_db, deadline_slots=deadline_slots)


def trajectory_of(prompt: str) -> Trajectory:
    return Trajectory.record(GaussianSource((4, 8, 8), scenario_for(3, 60).path), prompt, seed=0)


def decode(latents: FloatArray) -> npt.NDArray[np.uint8]:
    levels = np.clip(128 + 40 * latents[:, :3].transpose(0, 2, 3, 1), 0, 255).astype(np.uint8)
    return levels.repeat(4, axis=1).repeat(4, axis=2)


def comparison_at(snr_db: float, deadline_slots: int, prompt: str = "words") -> Comparison:
    return compare(trajectory_of(prompt), scenario_for(snr_db, deadline_slots))


@pytest.mark.parametrize(
    ("snr_db", "deadline_slots", "prompt"),
    [
        (3.0, 60, "a red sphere"),
        (30.0, 60, ""),
        (-30.0, 60, "x" * 2000),
        (3.0, 3, "é 圆 \u200b [bold]"),
        (12.0, 200, "nothing\tplain\n"),
    ],
)
def test_sheets_are_drawn_in_every_situation(snr_db: float, deadline_slots: int, prompt: str) -> None:
    comparison = comparison_at(snr_db, deadline_slots, prompt)
    sheet = comparison_sheet(comparison, decode)
    columns = min(8, deadline_slots)
    assert sheet.mode == "RGB"
    assert sheet.width == 36 + 176 + columns * 172 - 12 + 40 + 160 + 36
    for timeline in comparison.timelines:
        strip = filmstrip(timeline, decode)
        assert 900 < strip.width <= 1900
        # Nothing runs into the outer margin.
        for image in (strip, sheet):
            pixels = np.asarray(image)
            edges = (pixels[:12], pixels[-8:], pixels[:, :12], pixels[:, -12:])
            assert all((edge == 255).all() for edge in edges)


def test_a_slot_in_a_deep_fade_has_no_column() -> None:
    scenario = scenario_for(6.0, 60)
    rates = np.full(60, 100.0)
    rates[10:20] = 0.1
    policy = make_policy("lookahead", scenario)
    strip = filmstrip(deliver(trajectory_of("words"), scenario, policy, rates_bits=rates), decode)
    assert strip.width > 900
    page = Page(20, 20)
    page.bar(5, 9.9, 8, 10, INK)
    assert (np.asarray(page.image) == 255).all()
    page.bar(5, 9, 5.1, 10, INK)
    assert (np.asarray(page.image) != 255).any(axis=2).sum() == 1


def test_pictures_are_where_the_columns_say() -> None:
    comparison = comparison_at(12.0, 60)
    sheet = np.asarray(comparison_sheet(comparison, decode))
    left, top, row_height = 36 + 176, 232, 160 + 76
    for row, timeline in enumerate(comparison.timelines):
        y = top + row * row_height
        final = decode(timeline.final_latent[None])[0].repeat(5, axis=0).repeat(5, axis=1)
        x = left + 8 * 172 - 12 + 40
        assert np.array_equal(sheet[y : y + 160, x : x + 160], final)
        held = timeline.held_after(60)
        if held.slot:
            shown = decode(held.latent[None])[0].repeat(5, axis=0).repeat(5, axis=1)
            x = left + 7 * 172
            assert np.array_equal(sheet[y : y + 160, x : x + 160], shown)


def test_each_latent_is_decoded_once() -> None:
    comparison = comparison_at(6.0, 60)
    counts: list[int] = []

    def counting(latents: FloatArray) -> npt.NDArray[np.uint8]:
        counts.append(len(latents))
        return decode(latents)

    comparison_sheet(comparison, counting)
    # The noise and x_0 are common to all rows.
    shown = {
        timeline.held_after(60 * column // 8).latent.tobytes()
        for timeline in comparison.timelines
        for column in range(1, 9)
    }
    assert counts == [len(shown | {comparison.timelines[0].final_latent.tobytes()})]


def test_the_winner_stands_out() -> None:
    comparison = comparison_at(6.0, 60)
    errors = [timeline.latent_mse for timeline in comparison.timelines]
    best = int(np.argmin(errors))
    sheet = np.asarray(comparison_sheet(comparison, decode))
    for row in range(len(errors)):
        label = sheet[232 + row * 236 : 232 + row * 236 + 20, 36:200].reshape(-1, 3)
        assert (label == ACCENT).all(axis=1).any() == (row == best)
        assert (label == INK).all(axis=1).any() == (row != best)


def test_comparison_shares_channel_and_trajectory() -> None:
    comparison = comparison_at(6.0, 60)
    assert [timeline.policy for timeline in comparison.timelines] == list(SCHEME_NAMES)
    record = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert set(record) == {"prompt", "model", "seed", "scenario", "uplink_slots", "rates_bits", "policies"}
    assert len(record["rates_bits"]) == 60
    for timeline, own in zip(comparison.timelines, record["policies"], strict=True):
        assert np.array_equal(timeline.rates_bits, record["rates_bits"])
        assert own["policy"] == timeline.policy
        assert own["latent_mse"] == timeline.latent_mse
    alone = deliver(
        trajectory_of("words"), scenario_for(6.0, 60), make_policy("lookahead", scenario_for(6.0, 60))
    )
    assert alone.to_dict()["transmissions"] == record["policies"][1]["transmissions"]
    with pytest.raises(ParameterError, match="no policy to compare"):
        compare(trajectory_of(""), scenario_for(6.0, 60), policies=())


def test_long_text_ends_in_an_ellipsis() -> None:
    short, cut = Page(200, 40), Page(200, 40)
    short.text(10, 30, "word word", size=20, max_width=150)
    cut.text(10, 30, "word " * 50, size=20, max_width=150)
    inked = np.asarray(cut.image).min(axis=(0, 2)) < 255
    assert inked[100:160].any()
    assert not inked[161:].any()
    assert not np.array_equal(np.asarray(short.image), np.asarray(cut.image))


# Files.


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path / "a" / "b")
    assert list(folder.path.iterdir()) == []
    path = folder.write_picture("p.png", Image.new("RGB", (3, 2), (1, 2, 3)))
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.size == (3, 2)
    before = folder.write_json("t.json", {"x": 1.5}).read_bytes()

    def interrupted(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write_json("t.json", {"x": 2.5})
    monkeypatch.undo()
    assert (folder.path / "t.json").read_bytes() == before
    assert sorted(item.name for item in folder.path.iterdir()) == ["p.png", "t.json"]


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        OutputFolder(tmp_path).write_json("t.json", {"x": float("nan")})


@pytest.mark.parametrize("name", ["file/below", "nul\0byte"])
def test_unwritable_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        OutputFolder(tmp_path / name)


def test_folder_that_goes_away(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "gone")
    folder.path.rmdir()
    with pytest.raises(OutputError, match=r"cannot write .*t\.json: no such file"):
        folder.write_json("t.json", {})
