"""Mahimahi's traces of measured cellular links.

A trace is a text file with one time in milliseconds per line, not falling. Each line is an opportunity to
deliver one packet of 1500 bytes; several lines with the same time are several opportunities. After the last
time the trace begins again (Netravali et al., Mahimahi, USENIX ATC 2015).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentcast.errors import ParameterError
from latentcast.live.link.schedule import MAX_SLOT_MS, RateSchedule

__all__ = ["OPPORTUNITY_BITS", "read_trace"]

OPPORTUNITY_BITS = 1500 * 8
MAX_TRACE_BYTES = 1 << 27
MAX_TRACE_MS = 86_400_000


def read_trace(file: str | Path, *, slot_ms: float = 30.0) -> RateSchedule:
    r"""Read a Mahimahi trace as the mean rate in each slot.

    Within a slot the bits flow evenly instead of in lumps of 1500 bytes, so that small packets see the rate
    too. The time t counts to the millisecond that ends at t, as in Mahimahi, where the first is 1; a trace
    lasts until its last time.

    Args:
        file: the trace.
        slot_ms: length of a slot, at least 1; a trace that is no multiple of it gets slots a little shorter.

    Returns:
        The schedule.

    Raises:
        ParameterError: if the file cannot be read, is empty, or a line is no time or earlier than the one
            before.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name) / "link.trace"
        >>> _ = file.write_text("10\n20\n20\n30\n")
        >>> schedule = read_trace(file, slot_ms=10.0)
        >>> schedule.rates_bits_per_second.round().tolist()
        [1200000.0, 2400000.0, 1200000.0]
        >>> folder.cleanup()
    """
    if (
        isinstance(slot_ms, bool)
        or not isinstance(slot_ms, (int, float))
        or not 1.0 <= slot_ms <= MAX_SLOT_MS
    ):
        raise ParameterError(f"slot_ms is {slot_ms!r}; for a trace it must be 1..{MAX_SLOT_MS:g}")
    path = Path(file)
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise ParameterError(f"the trace {path} is larger than {MAX_TRACE_BYTES >> 20} MB")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ParameterError(f"cannot read the trace {path}: {error.strerror or error}") from None
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        # Only plain digits: int() would take "1_0" and "+1", too.
        if not text.isdigit() or len(text) > 9 or not 0 <= int(text) <= MAX_TRACE_MS:
            raise ParameterError(
                f"{path}, line {number} is {text[:40].decode('utf-8', 'replace')!r}; "
                f"it must be a time in whole milliseconds, 0..{MAX_TRACE_MS}"
            )
        if times and int(text) < times[-1]:
            raise ParameterError(
                f"{path}, line {number} is {int(text)} after {times[-1]}; times must not fall"
            )
        times.append(int(text))
    if not times or times[-1] == 0:
        raise ParameterError(f"the trace {path} holds no time after 0; it needs one delivery per line")
    num_slots = max(round(times[-1] / slot_ms), 1)
    slot_seconds = times[-1] / num_slots / 1000.0
    ends = np.maximum(times, 1)  # a delivery at 0 belongs to the first millisecond
    slots = np.minimum(((ends - 1) * num_slots) // times[-1], num_slots - 1)
    counts = np.bincount(slots, minlength=num_slots)
    return RateSchedule(
        slot_seconds=slot_seconds,
        rates_bits_per_second=counts * OPPORTUNITY_BITS / slot_seconds,
        label=f"trace {path.name}",
    )
