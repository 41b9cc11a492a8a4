"""A folder for results, in which no file is ever half-written."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from latentcast.errors import OutputError

__all__ = ["OutputFolder"]


class OutputFolder:
    r"""Writes files through a temporary name, so that an interrupted run leaves the old file or none.

    The folder is made, and tried, when the object is made: before a long computation, not after it.

    Args:
        path: The folder; its parents are made too.

    Raises:
        OutputError: If it cannot be made or written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     written = OutputFolder(Path(parent) / "run").write_json("a.json", {"x": 1})
        ...     written.name, written.read_text()
        ('a.json', '{\n  "x": 1\n}\n')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path = self.path.expanduser()
            self.path.mkdir(parents=True, exist_ok=True)
            trial = self._temporary("trial")
            trial.touch()
            trial.unlink()
        except (OSError, RuntimeError, ValueError) as error:
            raise OutputError(
                f"cannot write to {self.path}: {_reason(error)}; choose another --out"
            ) from error

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file at once, or not at all.

        Raises:
            OutputError: If it cannot be written.
        """
        with self.writing(name) as temporary:
            temporary.write_bytes(data)
        return self.path / name

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a temporary path to write to; it becomes the file when the block ends without an error.

        Raises:
            OutputError: If the block fails to write.
        """
        target, temporary = self.path / name, self._temporary(name)
        try:
            yield temporary
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {_reason(error)}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def write_json(self, name: str, value: dict[str, Any]) -> Path:
        """Write plain values as JSON."""
        return self.write_bytes(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def write_picture(self, name: str, picture: Image.Image) -> Path:
        """Write a picture as PNG."""
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return self.write_bytes(name, buffer.getvalue())

    def _temporary(self, name: str) -> Path:
        return self.path / f".{name}.{os.getpid()}.part"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower().rstrip(".")
