"""A training loss and its picture, drawn with Pillow alone so that training needs no plotting package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["LossCurve"]

_SIZE = (640, 320)
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 16, 624, 284
_INK, _GRID, _LINE, _FAINT = "#222222", "#dddddd", "#12264f", "#b9c3d9"
# Updates that one point of the smooth line, and the progress line, average over.
_WINDOW = 50


class LossCurve:
    """The loss of every update; part of a checkpoint like weights are.

    Example:
        >>> curve = LossCurve()
        >>> for update in range(100):
        ...     curve.add(1.0 / (1 + update))
        >>> round(curve.recent(), 4), curve.picture().size
        (0.0138, (640, 320))
    """

    def __init__(self) -> None:
        self._losses: list[float] = []

    def add(self, loss: float) -> None:
        """Note the loss of the next update."""
        self._losses.append(loss)

    def recent(self) -> float:
        """Mean over the last updates."""
        return float(np.mean(self._losses[-_WINDOW:])) if self._losses else math.nan

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._losses = list(state["losses"])

    def picture(self) -> Image.Image:
        """Every update's loss faintly, their running mean clearly.

        The scale is logarithmic, but linear for a loss that is a logarithm itself and falls below 0.
        """
        image = Image.new("RGB", _SIZE, "white")
        draw = ImageDraw.Draw(image)
        losses = np.asarray(self._losses, np.float64)
        if losses.size < 2:
            return image
        logarithmic = bool(losses.min() > 0.0)
        heights = np.log10(losses) if logarithmic else losses
        low, high = float(np.quantile(heights, 0.001)), float(np.quantile(heights, 0.999))
        low, high = low - 0.02, max(high, low + 0.1)
        for value in _ticks(10.0**low, 10.0**high) if logarithmic else _even_ticks(low, high):
            y = _y(math.log10(value) if logarithmic else value, low, high)
            draw.line([(_LEFT, y), (_RIGHT, y)], fill=_GRID)
            draw.text((_LEFT - 8, y), f"{value:g}", fill=_INK, anchor="rm")
        for share in (0.0, 0.5, 1.0):
            x = _LEFT + share * (_RIGHT - _LEFT)
            draw.text((x, _BOTTOM + 8), f"{round(share * losses.size)}", fill=_INK, anchor="mt")
        draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 24), "updates", fill=_INK, anchor="mt")
        _polyline(draw, heights, 0.0, low, high, _FAINT, 1)
        window = min(_WINDOW, losses.size)
        smooth = np.convolve(losses, np.full(window, 1.0 / window), mode="valid")
        smooth = np.log10(smooth) if logarithmic else smooth
        _polyline(draw, smooth, (window - 1) / losses.size, low, high, _LINE, 2)
        draw.rectangle([(_LEFT, _TOP), (_RIGHT, _BOTTOM)], outline=_INK)
        return image


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in the range; even ones where it is too narrow for two of those."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1.0, 2.0, 5.0) if low <= m * 10.0**p <= high]
    return ticks if len(ticks) > 1 else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, three to eight of them within the range."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3.0))
    step = max(m * power for m in (1.0, 2.0, 5.0) if m * power <= (high - low) / 3.0)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _y(value: float, low: float, high: float) -> float:
    return _BOTTOM - (min(max(value, low), high) - low) / (high - low) * (_BOTTOM - _TOP)


def _polyline(
    draw: ImageDraw.ImageDraw,
    values: npt.NDArray[np.float64],
    start: float,
    low: float,
    high: float,
    colour: str,
    width: int,
) -> None:
    """Values spread evenly from a share of the width to its end."""
    x = _LEFT + (start + (1.0 - start) * np.linspace(0.0, 1.0, len(values))) * (_RIGHT - _LEFT)
    points = [(float(a), _y(float(b), low, high)) for a, b in zip(x, values, strict=True)]
    draw.line(points, fill=colour, width=width)
