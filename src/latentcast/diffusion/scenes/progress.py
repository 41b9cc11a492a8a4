"""How a training tells what it is about."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "StageProgress"]

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""

StageProgress = Callable[[int, int, str], None]
"""Called with (done, total, text): `functools.partial(progress, stage)` of the other."""
