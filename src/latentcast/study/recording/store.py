"""Recorded trajectories on disk: a zarr v3 group with one chunk per item and array.

    FOLDER/zarr.json        group; its attribute "latentcast" is the manifest
    FOLDER/samples          float32 (item, T + 1, channels, height, width): x_t indexed by t
    FOLDER/clean_estimates  the same shape: the estimate of x_0 that came with x_t

Any zarr reader opens it; items that are not recorded yet read as NaN. Values are kept exactly. The low bits
of a latent's mantissa are noise, so lossless compression saves only 14 % on the embedded model's trajectories
(bitshuffle and zstd 3, in 3 ms an item and array; zstd 9 saves 2 % more in 25 ms). float16 would save half,
at an error of 2e-4 rms. A checksum follows the compression, so a damaged chunk is noticed.

An item is recorded once both its chunks are there. zarr renames a finished file into place, so a kill at any
moment leaves an item whole or absent.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, LatentShape, Trajectory
from latentcast.errors import OutputError, ParameterError
from latentcast.study.output import OutputFolder
from latentcast.study.recording.manifest import Manifest

__all__ = ["Recording"]

# In the order in which an item is written.
_ARRAYS = ("clean_estimates", "samples")
_ATTRIBUTE = "latentcast"


@dataclass(frozen=True, eq=False)
class Recording:
    """A folder of recorded trajectories, whole or interrupted; made by `record`, read by `Recording.open`.

    Items are counted from the first to the last before one that is missing, so item i is the same item from
    the moment that it is recorded.

    Attributes:
        folder: Where it is.
        manifest: What was asked for.

    Example:
        A recording that `latentcast record` made::

            recording = Recording.open("runs/recording")
            trajectories = [recording.trajectory(i) for i in range(recording.num_items)]
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Recording:
        """Open a recording for reading; it may be unfinished, and go on being recorded meanwhile.

        Raises:
            ParameterError: If there is none, or its metadata are damaged or of another format.
        """
        folder = Path(folder)
        try:
            folder = folder.expanduser()
            attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        except (FileNotFoundError, NotADirectoryError, RuntimeError) as error:
            raise ParameterError(
                f"there is no recording in {folder}; make one with: latentcast record"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParameterError(f"{folder / 'zarr.json'} cannot be read: {error!r}") from error
        if not isinstance(attributes, dict) or _ATTRIBUTE not in attributes:
            raise ParameterError(f"the zarr store in {folder} is not a recording of latentcast")
        try:
            recording = cls(folder, Manifest.from_dict(attributes[_ATTRIBUTE]))
        except ParameterError as error:
            raise ParameterError(f"cannot use the recording in {folder}: {error}") from error
        recording._check()
        return recording

    @classmethod
    def create(cls, folder: str | Path, manifest: Manifest) -> Recording:
        """Make a recording without items, or open the one that has this manifest, to go on with it.

        Raises:
            ParameterError: If the folder holds another recording, or one that cannot be read.
            OutputError: If the folder cannot be written to.
        """
        output = OutputFolder(folder)
        recording = cls(output.path, manifest)
        if (output.path / "zarr.json").exists():
            present = cls.open(output.path)
            difference = present.manifest.difference(manifest)
            if difference is not None:
                raise ParameterError(
                    f"{output.path} holds another recording: {difference}; choose another --out"
                )
        else:
            recording._make(output)
        for name in _ARRAYS:
            for partial in (output.path / name).glob("*.partial"):  # of a write that was killed
                partial.unlink(missing_ok=True)
        return recording

    @property
    def model(self) -> str:
        """What made the trajectories, by a name that `load_pipeline` takes."""
        return self.manifest.model

    @property
    def path(self) -> NoisePath:
        """The noise path, of T steps."""
        return self.manifest.path

    @property
    def latent_shape(self) -> LatentShape:
        """(channels, height, width)."""
        return self.manifest.latent_shape

    @property
    def num_planned(self) -> int:
        """Items of the whole recording."""
        return len(self.manifest.prompts)

    @property
    def num_items(self) -> int:
        """Items recorded so far."""
        planned = self.num_planned
        return next((item for item in range(planned) if not self.is_recorded(item)), planned)

    @property
    def complete(self) -> bool:
        """Whether every item is recorded."""
        return self.num_items == self.num_planned

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of every item recorded so far."""
        return self.manifest.prompts[: self.num_items]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every item recorded so far."""
        return self.manifest.seeds[: self.num_items]

    def is_recorded(self, item: int) -> bool:
        """Whether an item is recorded."""
        return all(self._chunk(name, item).exists() for name in _ARRAYS)

    def trajectory(self, index: int) -> Trajectory:
        """Read one item: one chunk of each array.

        Args:
            index: 0 to `num_items` - 1.

        Raises:
            ParameterError: If there is no such item yet, or it is damaged.
        """
        if not 0 <= index < self.num_planned or not self.is_recorded(index):
            raise ParameterError(
                f"item {index} is not in {self.folder}, which holds {self.num_items} "
                f"of {self.num_planned} items"
            )
        return Trajectory(
            samples=self._read("samples", index),
            clean_estimates=self._read("clean_estimates", index),
            prompt=self.manifest.prompts[index],
            seed=self.manifest.seeds[index],
            path=self.path,
        )

    def write(self, item: int, trajectory: Trajectory) -> None:
        """Record one item.

        Raises:
            OutputError: If it cannot be written; then the item is not recorded, and the others stay.
        """
        values = {"clean_estimates": trajectory.clean_estimates, "samples": trajectory.samples}
        try:
            for name in _ARRAYS:
                zarr.open_array(self.folder / name, mode="r+")[item] = values[name]
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(
                f"cannot write item {item} to {self.folder}: {reason}; {self.num_items} "
                f"of {self.num_planned} items are recorded, and the same command goes on from there"
            ) from error

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {name: zarr.open_array(self.folder / name, mode="r") for name in _ARRAYS}

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.num_planned, self.path.num_steps + 1, *self.latent_shape)

    def _make(self, output: OutputFolder) -> None:
        for name in _ARRAYS:
            # A kill before zarr.json was written leaves arrays without items.
            left = {"zarr.json", *(path.name for path in (self.folder / name).glob("*.partial"))}
            if any(path.name not in left for path in (self.folder / name).glob("*")):
                raise ParameterError(
                    f"{self.folder / name} holds files, but {self.folder} has no zarr.json and so is no "
                    "recording; choose another --out"
                )
        try:
            for name in _ARRAYS:
                zarr.create_array(
                    self.folder / name,
                    shape=self._shape,
                    chunks=(1, *self._shape[1:]),
                    dtype="float32",
                    compressors=(
                        BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=4),
                        Crc32cCodec(),
                    ),
                    # What is not recorded must not look like a latent.
                    fill_value=math.nan,
                    chunk_key_encoding={"name": "default", "separator": "."},
                    dimension_names=("item", "step", "channel", "row", "column"),
                    overwrite=True,
                )
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        # Comes last: a folder with this file is a recording, one without it is not.
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {_ATTRIBUTE: self.manifest.to_dict()},
        }
        output.write_json("zarr.json", group)

    def _check(self) -> None:
        """Whether the arrays are those of the manifest."""
        for name in _ARRAYS:
            try:
                array = zarr.open_array(self.folder / name, mode="r")
                found = (array.shape, array.chunks, str(array.dtype))
            except Exception as error:  # whatever the library raises becomes our one error
                raise ParameterError(
                    f"cannot use the recording in {self.folder}: array {name} cannot be read: {error!r}"
                ) from error
            wanted = (self._shape, (1, *self._shape[1:]), "float32")
            if found != wanted:
                raise ParameterError(
                    f"cannot use the recording in {self.folder}: array {name} has shape, chunks and type "
                    f"{found}; its metadata say {wanted}"
                )

    def _chunk(self, name: str, item: int) -> Path:
        return self.folder / name / f"c.{item}.0.0.0.0"

    def _read(self, name: str, item: int) -> FloatArray:
        try:
            values: npt.NDArray[np.float32] = np.asarray(self._arrays[name][item], np.float32)
        except Exception as error:  # a damaged chunk fails in whichever codec notices it
            raise ParameterError(
                f"item {item} of {self.folder} is damaged: {error}; delete {self._chunk(name, item)} "
                "and give the same latentcast record command to record the item anew"
            ) from error
        return values
