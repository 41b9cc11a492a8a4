"""Prompts from a file or from the embedded model's own generator.

A text file has one prompt per line. A CSV or Parquet file has a column `prompt`; where it also has scores of
unsafe content under DiffusionDB's names, rows with a high score are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from latentcast.diffusion.scenes.held_out import NUM_HELD_OUT, held_out_prompts
from latentcast.errors import ParameterError

__all__ = ["HELD_OUT", "NSFW_COLUMNS", "NSFW_LIMIT", "read_prompts"]

HELD_OUT = "held-out"

# DiffusionDB's columns: the score of the picture, 2.0 where Stable Diffusion blurred it, and of the prompt.
NSFW_COLUMNS = ("image_nsfw", "prompt_nsfw")

# Otherwise both are probabilities, and DiffusionDB's authors leave the limit to the reader.
NSFW_LIMIT = 0.5

_BATCH_ROWS = 4096


def read_prompts(source: str | Path, *, count: int | None = None, keep_nsfw: bool = False) -> tuple[str, ...]:
    """Read prompts in the order of the file.

    White space around a prompt is removed, blank ones are skipped, and of equal ones the first is kept: items
    of a study should differ, and DiffusionDB repeats a prompt for each picture that was made of it.

    Args:
        source: A file whose name ends in .txt, .csv or .parquet, in UTF-8; or "held-out".
        count: Take so many from the beginning; None for all, of "held-out" 500.
        keep_nsfw: Keep rows whatever their scores. Otherwise a row stays if each score that the table has
            is below 0.5; a missing score does not count as low.

    Returns:
        At least one prompt, all different.

    Raises:
        ParameterError: If the file cannot be read, is of another kind, not UTF-8, without a column `prompt`,
            or has no prompt left, or fewer than `count`.

    Example:
        >>> read_prompts("held-out", count=2)[1]
        'a green sphere on a wooden floor at night'
    """
    if count is not None and count < 1:
        raise ParameterError(f"the number of prompts is {count}; it must be at least 1")
    if source == HELD_OUT:
        return held_out_prompts(NUM_HELD_OUT if count is None else count)
    path = Path(source)
    try:
        reader = _READERS[path.suffix.lower()]
    except KeyError:
        raise ParameterError(
            f"cannot read prompts from {str(source)!r}; give {HELD_OUT!r}, or a file whose name ends in "
            f"{', '.join(_READERS)}"
        ) from None
    try:
        path = path.expanduser()
        prompts = tuple(islice(_distinct(reader(path, keep_nsfw)), count))
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (OSError, RuntimeError) as error:  # the latter where a home directory is unknown
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(f"cannot read the prompts in {path}: {reason}") from error
    if not prompts:
        raise ParameterError(f"{path} holds no prompt{_HINTS.get(path.suffix.lower(), '')}")
    if count is not None and len(prompts) < count:
        raise ParameterError(f"{path} holds {len(prompts)} different prompts, not {count}; ask for fewer")
    return prompts


def _distinct(lines: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for line in lines:
        prompt = line.strip()
        if prompt and prompt not in seen:
            seen.add(prompt)
            yield prompt


def _text_lines(path: Path, _keep_nsfw: bool) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:  # with or without a byte order mark
        yield from file


def _csv_rows(path: Path, keep_nsfw: bool) -> Iterator[str]:
    pyarrow = _pyarrow()
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    try:
        with csv.open_csv(path, parse_options=parse) as table:
            columns = _columns(table.schema.names, path, keep_nsfw)
        types = {name: pyarrow.float64() if name in NSFW_COLUMNS else pyarrow.string() for name in columns}
        convert = csv.ConvertOptions(include_columns=columns, column_types=types)
        with csv.open_csv(path, parse_options=parse, convert_options=convert) as table:
            yield from _rows(table, columns)
    except pyarrow.ArrowInvalid as error:
        raise _unreadable(path, error) from error


def _parquet_rows(path: Path, keep_nsfw: bool) -> Iterator[str]:
    pyarrow = _pyarrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = _columns(table.schema_arrow.names, path, keep_nsfw)
            _check_types(table.schema_arrow, columns, path)
            yield from _rows(table.iter_batches(_BATCH_ROWS, columns=columns), columns)
    except pyarrow.ArrowInvalid as error:
        raise _unreadable(path, error) from error


def _columns(names: list[str], path: Path, keep_nsfw: bool) -> list[str]:
    """The columns to read: the prompt, and the scores that the table has."""
    if names.count("prompt") != 1:
        raise ParameterError(
            f"{path} has {names.count('prompt') or 'no'} columns named 'prompt'; it needs one. "
            f"Its columns: {', '.join(names)[:200] or 'none'}"
        )
    return ["prompt", *(name for name in NSFW_COLUMNS if name in names and not keep_nsfw)]


def _check_types(schema: Any, columns: list[str], path: Path) -> None:
    from pyarrow import types

    for name in columns:
        kind = schema.field(name).type
        is_text = types.is_string(kind) or types.is_large_string(kind)
        if not (types.is_floating(kind) if name in NSFW_COLUMNS else is_text):
            wanted = "floating-point" if name in NSFW_COLUMNS else "string"
            raise ParameterError(f"column {name!r} of {path} is of type {kind}; it must be {wanted}")


def _rows(batches: Iterable[Any], columns: list[str]) -> Iterator[str]:
    for batch in batches:
        prompts, *scores = (batch.column(name).to_pylist() for name in columns)
        for prompt, *row in zip(prompts, *scores, strict=True):
            # A missing score, None or not a number, is not below the limit either.
            if prompt is not None and all(score is not None and score < NSFW_LIMIT for score in row):
                yield prompt


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ParameterError(
            "tables of prompts need the package pyarrow; install it with: pip install 'latentcast[study]'"
        ) from error
    return pyarrow


def _unreadable(path: Path, error: Exception) -> ParameterError:
    return ParameterError(f"cannot read the prompts in {path}: {' '.join(str(error).split())[:200]}")


_READERS = {".txt": _text_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}

_FILTERED = f", or none with scores below {NSFW_LIMIT}; --keep-nsfw keeps all"
_HINTS = {".txt": "; write one per line", ".csv": _FILTERED, ".parquet": _FILTERED}
