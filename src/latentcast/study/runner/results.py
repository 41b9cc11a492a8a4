"""A study's tables: the part of each task, the merged table of episodes, and its summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentcast.errors import ParameterError
from latentcast.study.episodes.columns import COLUMNS, EpisodeColumns
from latentcast.study.output import OutputFolder
from latentcast.study.runner.summary import Summary

__all__ = ["SCHEMA", "merge", "part_bytes", "part_is_whole"]

DIGEST_BYTES = hashlib.sha256().digest_size

# Rows held in memory when parts are merged.
GROUP_ROWS = 1 << 17

_TYPES = {"str": pa.string(), "float64": pa.float64(), "int64": pa.int64(), "int32": pa.int32()}

SCHEMA = pa.schema(
    [
        pa.field(
            column.name,
            _TYPES[column.dtype],
            nullable=False,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in COLUMNS
    ]
)
"""Of a part and of the whole table; each field's metadata have its unit and meaning."""


def part_bytes(blocks: Sequence[EpisodeColumns]) -> bytes:
    """The result of one task: a Parquet file with a row group per policy, and the SHA-256 digest of it.

    A part may wait for days until it is merged, and Parquet itself would not notice a byte that changed.

    Example:
        >>> names = [c.name for c in COLUMNS[2:]]
        >>> block = EpisodeColumns(snr_db=3.0, policy="lookahead", values={name: [1, 2] for name in names})
        >>> part_bytes([block])[:4]
        b'PAR1'
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for block in blocks:
            writer.write_table(_table(block), row_group_size=len(block))
    data = bytes(sink.getvalue())
    return data + hashlib.sha256(data).digest()


def part_is_whole(path: Path, policies: int, episodes: int) -> bool:
    """Whether a part is there, complete and undamaged."""
    try:
        metadata = _open(path).metadata
    except (OSError, ValueError):
        return False
    return bool(metadata.num_row_groups == policies and metadata.num_rows == policies * episodes)


def merge(
    folder: OutputFolder,
    parts: Sequence[Sequence[Path]],
    policies: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Merge parts into `episodes.parquet`, by SNR, then policy in the study's order, then episode.

    Of the parts one policy's rows of one part are in memory at a time, and of the table one row group.

    Args:
        folder: Where the table goes.
        parts: Per SNR, its parts in the order of their episodes.
        policies: Number of policies.
        progress: Called with parts read and parts in all.

    Returns:
        The summary of all rows.

    Raises:
        ParameterError: If a part is damaged.
        OutputError: If the table cannot be written.
    """
    summary = Summary()
    total, done = sum(map(len, parts)), 0
    with (
        folder.writing("episodes.parquet") as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for paths in parts:
            for path in paths:
                summary.add([_read(path, policy) for policy in range(policies)])
                done += 1
                if progress is not None:
                    progress(done, total)
            for policy in range(policies):
                for group in _regroup(_read(path, policy) for path in paths):
                    writer.write_table(group, row_group_size=GROUP_ROWS)
    return summary


def _table(block: EpisodeColumns) -> Any:
    columns = [pa.array(block.column(name), SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.table(columns, schema=SCHEMA)


def _read(path: Path, policy: int) -> Any:
    try:
        return _open(path).read_row_group(policy, use_threads=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ParameterError(
            f"{path} is damaged: {reason}; delete it, and the same command makes it anew"
        ) from error


def _open(path: Path) -> Any:
    whole = path.read_bytes()
    data, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError("its content does not fit its digest")
    return pq.ParquetFile(pa.BufferReader(data))


def _regroup(tables: Iterator[Any]) -> Iterator[Any]:
    """Tables of exactly GROUP_ROWS rows, and a last shorter one, whatever the parts' sizes."""
    waiting: list[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= GROUP_ROWS:
            whole = pa.concat_tables(waiting).combine_chunks()
            yield whole.slice(0, GROUP_ROWS)
            waiting, rows = [whole.slice(GROUP_ROWS)], rows - GROUP_ROWS
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()
