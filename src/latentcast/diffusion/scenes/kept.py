"""Arrays that take minutes to make, kept in a file from block to block for a run that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latentcast.errors import ModelError, PausedError

__all__ = ["kept_array"]


def kept_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    make: Callable[[int, int], npt.ArrayLike],
    *,
    block: int,
    progress: Callable[[int, int], None],
    enough: int | None = None,
    stop_at: float | None = None,
) -> npt.NDArray[Any]:
    """Make an array block by block into a file, or go on where an interrupted run stopped.

    Args:
        path: of the NumPy file, which is there once the array is whole.
        shape: of the whole array.
        dtype: of its elements.
        make: called with (start, stop), returns the items from start to before stop.
        block: items made at a time.
        progress: called with (done, total) after each block.
        enough: items after which to stop for now; all where None.
        stop_at: time.monotonic() at which to pause.

    Returns:
        The items that were asked for, read-only and mapped.

    Raises:
        ModelError: if the file, or what an interrupted run left of it, is of something else.
        PausedError: when the time is over.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     squares = kept_array(
        ...         Path(folder) / "squares.npy",
        ...         (5,),
        ...         np.int64,
        ...         lambda start, stop: np.arange(start, stop) ** 2,
        ...         block=2,
        ...         progress=lambda done, total: None,
        ...     )
        ...     squares.tolist()
        [0, 1, 4, 9, 16]
    """
    total = shape[0]
    wanted = total if enough is None else min(enough, total)
    partial, done_file = path.with_suffix(".partial.npy"), path.with_suffix(".done")
    if path.exists():
        return _mapped(path, shape, dtype)[:wanted]
    done = int(done_file.read_text()) if done_file.exists() and partial.exists() else 0
    if done == 0:
        np.lib.format.open_memmap(partial, "w+", dtype=np.dtype(dtype), shape=shape).flush()
    items = _mapped(partial, shape, dtype, "r+")
    while done < wanted:
        stop = min(done + block, total)
        items[done:stop] = make(done, stop)
        # A kill leaves the old number or the new one.
        marked = done_file.with_suffix(".done.part")
        marked.write_text(str(stop))
        marked.replace(done_file)
        done = stop
        progress(min(done, wanted), wanted)
        if stop_at is not None and time.monotonic() >= stop_at:
            raise PausedError(f"{path.name} has {done} of {total} items; the same command goes on from there")
    items.flush()
    if done < total:
        return _mapped(partial, shape, dtype)[:wanted]
    partial.replace(path)
    done_file.unlink(missing_ok=True)
    return _mapped(path, shape, dtype)


def _mapped(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, mode: Literal["r", "r+"] = "r"
) -> np.memmap[Any, np.dtype[Any]]:
    """The file's items, if they are what is looked for."""
    try:
        items = np.lib.format.open_memmap(path, mode)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; remove it, and it is made anew") from error
    if items.shape != shape or items.dtype != np.dtype(dtype):
        raise ModelError(
            f"{path} is {items.dtype} of shape {items.shape}, not {np.dtype(dtype)} of {shape}; "
            "remove it, and it is made anew"
        )
    return items
