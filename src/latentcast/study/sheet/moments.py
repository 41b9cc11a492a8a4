"""The strip of a live delivery: what a device held at some moments of wall-clock time until its deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.study.sheet.page import ACCENT, INK, MUTED, PALE, RULE, Page, thousands

__all__ = ["Frame", "evenly", "moments_strip"]

MAX_FRAMES = 8

_MARGIN = 36
_SIDE = 160
_PITCH = _SIDE + 12
_LANE = 18


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A picture of the strip.

    Attributes:
        seconds: From when on the device held it, after the request.
        bytes: That had come until then.
        picture: uint8 (height, width, 3).
    """

    seconds: float
    bytes: int
    picture: npt.NDArray[np.uint8] = field(repr=False)


def evenly(times: Sequence[float], count: int = MAX_FRAMES) -> list[int]:
    """Which of rising times to show: nearest to evenly spaced ones, each once, the first and last among them.

    Example:
        >>> evenly([0.0, 0.1, 0.2, 0.3, 5.0, 10.0], 3)
        [0, 4, 5]
    """
    if not times:
        return []
    wanted = np.linspace(times[0], times[-1], count)
    nearest = np.abs(np.asarray(times)[:, None] - wanted).argmin(axis=0)
    return sorted({0, len(times) - 1, *nearest.tolist()})


def moments_strip(
    *,
    prompt: str,
    facts: Sequence[str],
    frames: Sequence[Frame],
    arrivals: Sequence[tuple[float, int]],
    deadline_seconds: float,
) -> Image.Image:
    """Draw the strip: pictures in order, and under them when each came, and all packets, on one time axis.

    Args:
        prompt: What was asked for.
        facts: Shown under the prompt.
        frames: At most about eight, in order; the last one was held at the deadline.
        arrivals: Seconds and bytes of every packet.
        deadline_seconds: End of the axis.

    Returns:
        An RGB picture.
    """
    # Room for a few frames even when there are fewer, so that the time axis stays readable.
    columns = max(len(frames), 5)
    right = _MARGIN + columns * _PITCH - (_PITCH - _SIDE)
    top = 116
    lane = top + _SIDE + 72
    page = Page(right + _MARGIN, lane + _LANE + 62)
    page.text(_MARGIN, 52, prompt or "(no prompt)", size=26, strong=True, max_width=right - _MARGIN)
    page.text(_MARGIN, 78, "  ·  ".join(facts), size=14, colour=MUTED, max_width=right - _MARGIN)

    def x_at(seconds: float) -> float:
        share = min(max(seconds / deadline_seconds, 0.0), 1.0)
        return _MARGIN + share * (right - _MARGIN)

    if not frames:
        page.text(_MARGIN, top + _SIDE / 2, "nothing arrived before the deadline", size=16, colour=MUTED)
    offset = (columns - len(frames)) * _PITCH // 2
    for number, frame in enumerate(frames):
        x = _MARGIN + offset + number * _PITCH
        last = number == len(frames) - 1
        page.picture(x, top, _SIDE, frame.picture, frame=INK if last else RULE)
        head = f"from {frame.seconds:.2f} s"
        page.text(x, top - 9, f"{head}, kept" if last else head, size=13, colour=INK if last else MUTED)
        page.text(x, top + _SIDE + 18, thousands(8 * frame.bytes), size=13, colour=MUTED)
        middle, place = x + _SIDE / 2, x_at(frame.seconds)
        page.line([(middle, top + _SIDE + 26), (middle, top + _SIDE + 36), (place, lane - 14), (place, lane)])
    page.bar(_MARGIN, lane, right, lane + _LANE, PALE)
    largest = max((size for _, size in arrivals), default=1)
    for seconds, size in arrivals:
        height = max(round(_LANE * size / largest), 2)
        page.bar(x_at(seconds) - 1, lane + _LANE - height, x_at(seconds) + 1, lane + _LANE, ACCENT)
    page.text(_MARGIN, lane + _LANE + 20, "request", size=13, colour=MUTED)
    end = f"deadline, {deadline_seconds:g} s"
    page.text(right, lane + _LANE + 20, end, size=13, colour=INK, align="right")
    note = "packets as they arrived; a higher bar is a longer packet"
    page.text((_MARGIN + right) / 2, lane + _LANE + 20, note, size=12, colour=MUTED, align="middle")
    return page.image
