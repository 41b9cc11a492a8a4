"""The one sentence about a key or name that nobody knows: what, where, and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ["unknown_key"]


def unknown_key(key: str, where: str, known: Sequence[str]) -> str:
    """Say that a key is unknown.

    Args:
        key: As it was written.
        where: The table that it stands in, such as "[link]"; empty if that is clear.
        known: The keys that exist there.

    Example:
        >>> unknown_key("snr_bd", "[link]", ["snr_db", "snr_reference"])
        "unknown key 'snr_bd' in [link]; did you mean 'snr_db'?"
        >>> unknown_key("colour", "", ["name"])
        "unknown key 'colour'; the keys are name"
    """
    place = f" in {where}" if where else ""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known) or 'none'}"
    return f"unknown key {key!r}{place}; {hint}"
