"""Recordings: what is stored, what a kill leaves, and what is refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.source import Step, Trajectory
from latentcast.errors import LatentcastError, ModelError, OutputError, ParameterError
from latentcast.study.recording.record import RecordingProgress, item_seeds, record
from latentcast.study.recording.store import Recording

PROMPTS = tuple(f"prompt {number}" for number in range(7))
SOURCE = GaussianSource.natural((2, 4, 4), NoisePath.stable_diffusion(10))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Counting:
    """A source that notes the seeds of each batch."""

    latent_shape = SOURCE.latent_shape
    path = SOURCE.path
    name = "GaussianSource"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        self.batches.append(list(seeds))
        return SOURCE.steps(prompts, seeds)


class Interrupted(Counting):
    """One that is interrupted in its second batch."""

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        for step in super().steps(prompts, seeds):
            if len(self.batches) == 2 and step.index == 5:
                raise KeyboardInterrupt
            yield step


def test_what_is_recorded_is_what_the_source_yields(tmp_path: Path) -> None:
    recording = record(SOURCE, PROMPTS, tmp_path / "r", seed=5, batch_size=3)
    assert recording.complete
    for opened in (recording, Recording.open(tmp_path / "r")):
        assert (opened.num_items, opened.num_planned, opened.model) == (7, 7, "GaussianSource")
        assert (opened.path, opened.latent_shape) == (SOURCE.path, (2, 4, 4))
        assert (opened.prompts, opened.seeds) == (PROMPTS, item_seeds(5, 7))
        for item in (0, 3, 6):
            expected = Trajectory.record(SOURCE, PROMPTS[item], item_seeds(5, 7)[item])
            trajectory = opened.trajectory(item)
            assert (trajectory.prompt, trajectory.seed) == (PROMPTS[item], expected.seed)
            assert trajectory.path == SOURCE.path
            np.testing.assert_array_equal(trajectory.samples, expected.samples)
            np.testing.assert_array_equal(trajectory.clean_estimates, expected.clean_estimates)


def test_an_item_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS, tmp_path / "one", batch_size=1)
    for batch_size in (2, 7, 100):
        record(SOURCE, PROMPTS, tmp_path / str(batch_size), batch_size=batch_size)
        assert files(tmp_path / str(batch_size)) == files(tmp_path / "one")


def test_an_item_of_a_network_hardly_depends_on_the_batch(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_pipeline(tiny_folder, num_steps=6)
    alone = record(model, PROMPTS[:3], tmp_path / "alone", batch_size=1)
    together = record(model, PROMPTS[:3], tmp_path / "together", batch_size=3)
    assert alone.model == str(tiny_folder.resolve())
    assert alone.manifest.guidance_scale == 7.5
    for item in range(3):
        one, other = alone.trajectory(item), together.trajectory(item)
        np.testing.assert_allclose(one.samples, other.samples, rtol=1e-3, atol=2e-3)
        np.testing.assert_array_equal(one.samples[6], other.samples[6])  # the shared noise


def test_seeds_of_items() -> None:
    seeds = item_seeds(3, 1000)
    assert seeds[:10] == item_seeds(3, 10)
    assert len(set(seeds)) == 1000
    assert not set(seeds) & set(item_seeds(4, 1000))
    assert max(seeds) < 2**53
    # Of 1000 uniform numbers the mean is within four standard errors of the middle.
    assert abs(np.mean(seeds) / 2**53 - 0.5) < 4 / np.sqrt(12 * 1000)


def test_any_zarr_reader_finds_one_chunk_per_item(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS, tmp_path / "r")
    group = zarr.open_group(tmp_path / "r", mode="r")
    assert group.metadata.zarr_format == 3
    for name in ("samples", "clean_estimates"):
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert (array.shape, array.chunks, str(array.dtype)) == (
            (7, 11, 2, 4, 4),
            (1, 11, 2, 4, 4),
            "float32",
        )
        assert len(list((tmp_path / "r" / name).glob("c.*"))) == 7
    manifest: Any = group.attrs["latentcast"]
    assert manifest["prompts"] == list(PROMPTS)
    assert manifest["seeds"] == list(item_seeds(0, 7))
    assert NoisePath(signal=manifest["signal"], noise=manifest["noise"]) == SOURCE.path
    assert (manifest["format"], manifest["num_steps"], manifest["guidance_scale"]) == (1, 10, None)
    assert manifest["latentcast_version"]


def test_reading_an_item_reads_its_chunks_only(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS, tmp_path / "r")
    for name in ("samples", "clean_estimates"):
        for item in (0, 1, 2, 4, 5, 6):
            (tmp_path / "r" / name / f"c.{item}.0.0.0.0").write_bytes(b"damaged")
    assert Recording.open(tmp_path / "r").trajectory(3).prompt == "prompt 3"


# Interruptions.


def test_interrupted_recordings_are_readable_and_go_on(tmp_path: Path) -> None:
    whole = record(SOURCE, PROMPTS, tmp_path / "whole", batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        record(Interrupted(), PROMPTS, tmp_path / "r", batch_size=3)
    recording = Recording.open(tmp_path / "r")
    assert (recording.num_items, recording.num_planned, recording.complete) == (3, 7, False)
    assert recording.prompts == PROMPTS[:3]
    assert len(recording.seeds) == 3
    np.testing.assert_array_equal(recording.trajectory(2).samples, whole.trajectory(2).samples)
    for item in (3, 7, -1):
        with pytest.raises(ParameterError, match=rf"item {item} is not in .*, which holds 3 of 7 items"):
            recording.trajectory(item)
    not_yet = zarr.open_array(tmp_path / "r" / "samples", mode="r")[3]
    assert np.isnan(np.asarray(not_yet)).all()
    before = files(tmp_path / "r")
    source = Counting()
    assert record(source, PROMPTS, tmp_path / "r", batch_size=3).complete
    assert source.batches == [list(item_seeds(0, 7)[3:6]), list(item_seeds(0, 7)[6:])]
    assert recording.num_items == 7  # one that was open meanwhile sees the new items
    assert files(tmp_path / "r") == files(tmp_path / "whole")
    assert before.items() <= files(tmp_path / "r").items()
    source = Counting()
    record(source, PROMPTS, tmp_path / "r", batch_size=2)
    assert source.batches == []


def test_a_kill_inside_a_batch_ends_in_the_same_bits(tmp_path: Path) -> None:
    # A network's batch must come again as it was, but what is recorded of it is not touched.
    recording = record(SOURCE, PROMPTS, tmp_path / "r", batch_size=3)
    whole = files(tmp_path / "r")
    for name in ("samples", "clean_estimates"):
        (tmp_path / "r" / name / "c.4.0.0.0.0").unlink()
    (tmp_path / "r" / "samples" / "c.5.0.0.0.0").unlink()
    assert (recording.num_items, recording.is_recorded(3), recording.is_recorded(5)) == (4, True, False)
    kept = [tmp_path / "r" / "samples" / f"c.{item}.0.0.0.0" for item in (3, 6)]
    times = [path.stat().st_mtime_ns for path in kept]
    source = Counting()
    record(source, PROMPTS, tmp_path / "r", batch_size=3)
    assert source.batches == [list(item_seeds(0, 7)[3:6])]
    assert files(tmp_path / "r") == whole
    assert [path.stat().st_mtime_ns for path in kept] == times


# Records 40 items and is killed somewhere in the middle; each item that it calls recorded must be there.
KILLED = """
import sys, time
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.study.recording.record import record
source = GaussianSource((4, 32, 32), NoisePath.stable_diffusion(10))
record(
    source, [str(i) for i in range(40)], sys.argv[1], batch_size=4,
    progress=lambda state: print(state.num_items, flush=True),
)
"""


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    source = GaussianSource((4, 32, 32), NoisePath.stable_diffusion(10))
    prompts = [str(item) for item in range(40)]
    record(source, prompts, tmp_path / "whole", batch_size=4)
    told = 0
    for kill_after in (0, 1, 6, 13, 23, 30):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        assert process.returncode in (0, -signal.SIGKILL)
        told = max([told, int(line), *map(int, rest)])
        recording = Recording.open(tmp_path / "r")
        # The process may have finished one more item before it could tell.
        assert told <= recording.num_items
        for item in range(recording.num_items):
            assert recording.trajectory(item).prompt == str(item)
    assert record(source, prompts, tmp_path / "r", batch_size=4).complete
    assert files(tmp_path / "r") == files(tmp_path / "whole")


def test_a_kill_while_the_store_is_made(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "samples", tmp_path / "r" / "samples")
    for chunk in (tmp_path / "r" / "samples").glob("c.*"):
        chunk.unlink()
    (tmp_path / "r" / "samples" / "zarr.0123.partial").write_bytes(b"{")
    record(SOURCE, PROMPTS, tmp_path / "r")
    assert files(tmp_path / "r") == files(tmp_path / "whole")


def test_progress(tmp_path: Path) -> None:
    states: list[RecordingProgress] = []
    with pytest.raises(KeyboardInterrupt):
        record(Interrupted(), PROMPTS, tmp_path / "r", batch_size=3, progress=states.append)
    assert (states[0].num_items, states[0].share, states[0].denoiser_seconds) == (0, 0.0, 0.0)
    shares = [state.share for state in states]
    assert shares == sorted(shares)
    assert states[11].share == pytest.approx(3 / 7)  # T + 1 steps of three items, none written yet
    assert shares[-1] == pytest.approx((3 + 3 * 0.4) / 7)
    states.clear()
    record(SOURCE, PROMPTS, tmp_path / "r", batch_size=3, progress=states.append)
    assert states[0].num_items == 3
    assert states[0].share == pytest.approx(3 / 7)
    assert (states[-1].num_items, states[-1].num_planned) == (7, 7)
    assert states[-1].share == pytest.approx(1.0)
    assert states[-1].denoiser_seconds > 0.0


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"prompts": PROMPTS[:-1]}, "its number of prompts is 7, not 6"),
        ({"prompts": [*PROMPTS[:-1], "other"]}, "its prompt 6 is 'prompt 6', not 'other'"),
        ({"model": GaussianSource((2, 4, 4), SOURCE.path)}, None),
        ({"model": GaussianSource((1, 4, 4), SOURCE.path)}, r"latent shape is \(2, 4, 4\), not \(1, 4, 4\)"),
        (
            {"model": GaussianSource((2, 4, 4), NoisePath.stable_diffusion(20))},
            "its number of steps is 10, not 20",
        ),
        (
            {"model": GaussianSource((2, 4, 4), NoisePath.from_alpha_bar(np.linspace(1, 0, 11)))},
            "its noise path is",
        ),
    ],
)
def test_another_recording_is_not_gone_on_with(
    tmp_path: Path, change: dict[str, Any], message: str | None
) -> None:
    record(SOURCE, PROMPTS, tmp_path)
    before = files(tmp_path)
    arguments: dict[str, Any] = {"model": SOURCE, "prompts": PROMPTS, **change}
    if message is None:
        record(**arguments, out=tmp_path)
    else:
        with pytest.raises(
            ParameterError, match=f"holds another recording: .*{message}.*; choose another --out"
        ):
            record(**arguments, out=tmp_path)
    assert files(tmp_path) == before


def test_another_model_is_not_gone_on_with(tmp_path: Path, tiny_folder: Path) -> None:
    model = load_pipeline(tiny_folder, num_steps=6)
    record(model, ["red"], tmp_path)
    model.guidance_scale = 3.0
    with pytest.raises(ParameterError, match=r"its guidance scale is 7\.5, not 3\.0"):
        record(model, ["red"], tmp_path)
    model.name = "owner/name"
    model.folder = None
    with pytest.raises(ParameterError, match=r"its model is .*tiny, not owner/name"):
        record(model, ["red"], tmp_path)


def damage_group(folder: Path, text: str) -> None:
    (folder / "zarr.json").write_text(text)


def edit_manifest(folder: Path, **values: Any) -> None:
    group = json.loads((folder / "zarr.json").read_text())
    group["attributes"]["latentcast"].update(values)
    damage_group(folder, json.dumps(group))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: damage_group(folder, ""), r"zarr\.json cannot be read"),
        (lambda folder: damage_group(folder, '{"attributes": {"latentc'), r"zarr\.json cannot be read"),
        (lambda folder: damage_group(folder, "[1]"), r"zarr\.json cannot be read"),
        (lambda folder: damage_group(folder, '{"attributes": {}}'), "is not a recording of latentcast"),
        (lambda folder: damage_group(folder, '{"attributes": {"latentcast": {"format": 1}}}'), "lack"),
        (lambda folder: damage_group(folder, '{"attributes": {"latentcast": 3}}'), "cannot be read"),
        (
            lambda folder: edit_manifest(folder, format=2),
            "its format is 2; this version of latentcast reads 1",
        ),
        (lambda folder: edit_manifest(folder, seeds=[1]), "7 prompts and 1 seeds"),
        (lambda folder: edit_manifest(folder, prompts=None), "its metadata cannot be read"),
        (lambda folder: edit_manifest(folder, signal=[2.0], noise=[0.0]), "its metadata cannot be read"),
        (lambda folder: edit_manifest(folder, latent_shape=[1, 4, 4]), "array clean_estimates has shape"),
        (lambda folder: shutil.rmtree(folder / "samples"), "array samples cannot be read"),
        (lambda folder: (folder / "samples" / "zarr.json").write_text("{"), "array samples cannot be read"),
    ],
)
def test_damaged_metadata_are_one_error_and_touch_nothing(tmp_path: Path, damage: Any, message: str) -> None:
    record(SOURCE, PROMPTS, tmp_path)
    damage(tmp_path)
    before = files(tmp_path)
    for use in (Recording.open, lambda folder: record(SOURCE, PROMPTS, folder)):
        with pytest.raises(ParameterError, match=message):
            use(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["samples", "clean_estimates"])
@pytest.mark.parametrize("size", [0, 1, 4, 20, 200, -1])
def test_truncated_items_are_one_error(tmp_path: Path, name: str, size: int) -> None:
    record(SOURCE, PROMPTS, tmp_path)
    chunk = tmp_path / name / "c.2.0.0.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:size])
    recording = Recording.open(tmp_path)
    with pytest.raises(
        ParameterError, match=r"item 2 of .* is damaged: .*; delete .*c\.2\.0\.0\.0\.0 and give"
    ):
        recording.trajectory(2)
    assert recording.trajectory(3).prompt == "prompt 3"
    chunk.unlink()
    record(SOURCE, PROMPTS, tmp_path)
    assert chunk.read_bytes() == whole


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS[:1], tmp_path)
    chunk = tmp_path / "samples" / "c.0.0.0.0.0"
    whole = chunk.read_bytes()
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        chunk.write_bytes(damaged)
        with pytest.raises(ParameterError, match=r"item 0 of .* is damaged"):
            Recording.open(tmp_path).trajectory(0)


def test_folders_that_are_no_recording(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing", "~nobody-at-all/x"):
        with pytest.raises(ParameterError, match="there is no recording in"):
            Recording.open(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="there is no recording in"):
        Recording.open(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write to"):
        record(SOURCE, PROMPTS, tmp_path / "file" / "r")
    # Somebody's own folder that happens to have the name of an array.
    (tmp_path / "own" / "samples").mkdir(parents=True)
    (tmp_path / "own" / "samples" / "song.wav").write_bytes(b"la")
    with pytest.raises(ParameterError, match=r"no zarr\.json and so is no recording; choose another --out"):
        record(SOURCE, PROMPTS, tmp_path / "own")
    zarr.create_group(tmp_path / "other", attributes={"title": "other"})
    with pytest.raises(ParameterError, match="is not a recording of latentcast"):
        record(SOURCE, PROMPTS, tmp_path / "other")


def test_lost_metadata_do_not_cost_the_items(tmp_path: Path) -> None:
    record(SOURCE, PROMPTS, tmp_path)
    (tmp_path / "zarr.json").unlink()
    before = files(tmp_path)
    with pytest.raises(ParameterError, match="is no recording; choose another --out"):
        record(SOURCE, PROMPTS, tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("last", [0, 3, 6])
def test_a_full_disk_keeps_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    original = zarr.storage.LocalStore.set

    async def full(self: Any, key: str, value: Any) -> None:
        if key == f"c.{last}.0.0.0.0" and self.root.name == "samples":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await original(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(OutputError, match="no space left on device") as caught:
            record(SOURCE, PROMPTS, tmp_path, batch_size=2)
    assert f"cannot write item {last} " in str(caught.value)
    assert f"{last} of 7 items are recorded, and the same command goes on" in str(caught.value)
    assert Recording.open(tmp_path).num_items == last
    assert record(SOURCE, PROMPTS, tmp_path).complete


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="batch_size is 0"):
        record(SOURCE, PROMPTS, tmp_path / "r", batch_size=0)
    with pytest.raises(ParameterError, match="seed is -1"):
        record(SOURCE, PROMPTS, tmp_path / "r", seed=-1)
    with pytest.raises(ParameterError, match="the prompts are"):
        record(SOURCE, [], tmp_path / "r")
    with pytest.raises(ParameterError, match="the prompts are 'red'"):
        record(SOURCE, "red", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_prompt_that_is_not_understood_is_found_before_the_work(tmp_path: Path) -> None:
    class Particular(Counting):
        def read_prompt(self, prompt: str) -> None:
            if prompt == "prompt 5":
                raise ParameterError("no known thing in it")

    source = Particular()
    with pytest.raises(ParameterError, match="prompt 5 of 7 is not understood: no known thing in it"):
        record(source, PROMPTS, tmp_path / "r")
    assert source.batches == []
    assert not (tmp_path / "r").exists()


def test_numbers_that_are_not_finite_are_not_recorded(tmp_path: Path) -> None:
    class Diverging(Counting):
        def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
            for step in super().steps(prompts, seeds):
                if len(self.batches) == 2:
                    step.sample[1, 0, 0, 0] = np.inf
                yield step

    with pytest.raises(ModelError, match="yields numbers that are not finite for item 4, 'prompt 4'"):
        record(Diverging(), PROMPTS, tmp_path, batch_size=3)
    assert Recording.open(tmp_path).num_items == 4


def test_a_failing_source_keeps_what_is_recorded(tmp_path: Path) -> None:
    class Failing(Counting):
        def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
            if len(self.batches) == 1:
                raise ModelError("out of memory")
            return super().steps(prompts, seeds)

    with pytest.raises(LatentcastError, match="out of memory"):
        record(Failing(), PROMPTS, tmp_path, batch_size=3)
    assert Recording.open(tmp_path).num_items == 3
