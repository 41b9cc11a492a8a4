"""The folder of one study: what it is of, its finished parts, and whether it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentcast.errors import OutputError, ParameterError
from latentcast.study.output import OutputFolder
from latentcast.study.runner.provenance import now
from latentcast.study.runner.results import part_is_whole
from latentcast.study.runner.tasks import Task

__all__ = ["StudyFolder"]

# Differences that an error lists.
SHOWN_DIFFERENCES = 3


class StudyFolder:
    """Results of a study, from its first part to the end.

    `study.json` says what the folder is of from the beginning, `provenance.json` ends it; between the two,
    `parts` holds one file per finished task.

    Args:
        path: The folder; made if needed.
        identity: What decides the results, as plain JSON values: equal identities mean equal tables.

    Raises:
        ParameterError: If the folder holds a study of another identity.
        OutputError: If it cannot be written to.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any]) -> None:
        self.output = OutputFolder(path)
        self.path = self.output.path
        # As it would be read: tuples become lists.
        identity = json.loads(json.dumps(identity))
        state = self._state()
        if state is None:
            state = {"started": now(), "study": identity}
            self.output.write_json("study.json", state)
        differences = list(_differences("", state["study"], identity))
        if differences:
            more = len(differences) - SHOWN_DIFFERENCES
            shown = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            raise ParameterError(f"{self.path} holds another study: {shown}; choose another --out")
        self.identity = identity
        self.started = str(state["started"])
        self._parts = None if self.finished else OutputFolder(self.path / "parts")
        if self._parts is not None:
            for partial in self._parts.path.glob(".*.part"):  # of a write that was killed
                partial.unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return (self.path / "provenance.json").exists() and (self.path / "episodes.parquet").exists()

    def part(self, task: Task) -> Path:
        """Where a task's result is, or will be."""
        return self.path / "parts" / f"{task.name}.parquet"

    def has(self, task: Task, policies: int) -> bool:
        """Whether a task is done."""
        return part_is_whole(self.part(task), policies, task.episodes)

    def write_part(self, task: Task, data: bytes) -> None:
        """Keep a task's result.

        Raises:
            OutputError: If it cannot be written; the others stay.
        """
        assert self._parts is not None  # a finished study has no task left
        try:
            self._parts.write_bytes(self.part(task).name, data)
        except OutputError as error:
            raise OutputError(
                f"{error}; finished parts are kept, and the same command goes on from there"
            ) from error

    def finish(self, provenance: dict[str, Any]) -> None:
        """End the study: its tables are written, so the parts are no longer needed."""
        self.output.write_json("provenance.json", provenance)
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    def _state(self) -> dict[str, Any] | None:
        path = self.path / "study.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return {"started": state["started"], "study": dict(state["study"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParameterError(f"{path} cannot be read: {error!r}; choose another --out") from error


def _differences(name: str, there: Any, here: Any) -> Iterator[str]:
    """What differs, as "key is A there and B here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(inner, there.get(key), here.get(key))
    elif there != here:
        yield f"{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
