"""A white page to draw figures on: text, pictures, bars and curves in one restrained style."""

from __future__ import annotations

import unicodedata
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "ACCENT",
    "FAINT",
    "INK",
    "MUTED",
    "PALE",
    "PAPER",
    "RULE",
    "WARNING",
    "Colour",
    "Page",
    "shorten",
    "thousands",
]

Colour = tuple[int, int, int]

INK: Colour = (27, 31, 36)
MUTED: Colour = (104, 112, 122)
RULE: Colour = (208, 213, 219)
PALE: Colour = (233, 236, 240)
FAINT: Colour = (246, 247, 249)
ACCENT: Colour = (45, 98, 155)
WARNING: Colour = (178, 84, 52)
PAPER: Colour = (255, 255, 255)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    # Pillow built without FreeType has one small bitmap font only; its wheels all have FreeType.
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


class Page:
    """A page of a fixed size in pixels, white at first.

    Text positions are baselines, so that lines in different sizes stand on one line.

    Args:
        width: Pixels.
        height: Pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 15,
        colour: Colour = INK,
        align: str = "left",
        strong: bool = False,
        max_width: float | None = None,
    ) -> None:
        """Write one line; with `max_width`, what is too long ends in an ellipsis."""
        font = _font(size)
        text = _drawable(text)
        if max_width is not None and font.getlength(text) > max_width:
            fitting = bisect(range(len(text)), max_width, key=lambda end: font.getlength(text[:end] + "…"))
            text = text[: max(fitting - 1, 0)].rstrip() + "…"
        anchor = {"left": "ls", "middle": "ms", "right": "rs"}[align]
        # The font has one weight; a hairline stroke in the text's colour makes the second.
        stroke = 0.35 if strong else 0.0
        self._draw.text((x, y), text, font=font, fill=colour, anchor=anchor, stroke_width=stroke)

    def text_width(self, text: str, size: int) -> float:
        """Width of a line in pixels."""
        return float(_font(size).getlength(_drawable(text)))

    def picture(
        self,
        x: int,
        y: int,
        side: int,
        picture: npt.NDArray[np.uint8],
        *,
        faded: bool = False,
        frame: Colour = RULE,
    ) -> None:
        """Place a picture (height, width, 3) in a square, keeping its proportions, with a hairline frame."""
        image = Image.fromarray(picture)
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # Whole factors keep pixels sharp; others need a good filter.
        whole = size[0] % image.width == 0 and size[1] % image.height == 0
        image = image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
        if faded:
            image = Image.blend(image, Image.new("RGB", size, PAPER), 0.82)
        left, top = x + (side - size[0]) // 2, y + (side - size[1]) // 2
        self.image.paste(image, (left, top))
        self._draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=frame)

    def bar(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle; its right and bottom edges are exclusive."""
        # What is narrower than a pixel still shows; what is lower, such as the rate in a deep fade, does not.
        if right > left and round(bottom) > round(top):
            corner = (max(round(left), round(right) - 1), round(bottom) - 1)
            self._draw.rectangle(((round(left), round(top)), corner), fill=colour)

    def hatched_bar(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A rectangle with diagonal lines, for what was begun in vain."""
        width, height = round(right) - round(left), round(bottom) - round(top)
        if width < 1 or height < 1:
            return
        tile = Image.new("RGB", (width * 4, height * 4), PAPER)
        draw = ImageDraw.Draw(tile)
        for offset in range(-height * 4, width * 4, 22):
            draw.line((offset, height * 4, offset + height * 4, 0), fill=colour, width=6)
        self.image.paste(tile.resize((width, height), Image.Resampling.BOX), (round(left), round(top)))
        self._draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), outline=colour)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour = RULE, width: int = 1) -> None:
        """Join points by straight lines."""
        self._draw.line([(round(x), round(y)) for x, y in points], fill=colour, width=width)


def shorten(value: float) -> str:
    """A number in two significant digits, without exponent where that stays readable.

    Example:
        >>> [shorten(value) for value in (1.8480, 0.1267, 0.00236, 0.000071, 3e-8, 0.0)]
        ['1.8', '0.13', '0.0024', '0.000071', '3.0e-8', '0']
    """
    if value == 0.0 or not np.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e-5:
        digits = 1 - int(np.floor(np.log10(abs(value))))
        return f"{value:.{max(digits, 0)}f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def thousands(bits: float) -> str:
    """Bits as text, such as "12.3 kbit".

    Example:
        >>> thousands(0), thousands(980), thousands(12288), thousands(262144), thousands(5e6)
        ('0 bit', '980 bit', '12.3 kbit', '262 kbit', '5.0 Mbit')
    """
    if bits < 1000:
        return f"{bits:.0f} bit"
    value, unit = (bits / 1e6, "Mbit") if bits >= 1e6 else (bits / 1e3, "kbit")
    return f"{value:.{0 if value >= 100 else 1}f} {unit}"


def _drawable(text: str) -> str:
    """The text with what the font lacks replaced: without its accent, else by a question mark."""
    return "".join(_nearest(character) for character in text)


def _nearest(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character)[:1]
    return next((choice for choice in (character, plain) if choice and _has_glyph(choice)), "?")


@lru_cache(maxsize=1024)
def _has_glyph(character: str) -> bool:
    if character.isspace():
        return character == " "
    missing = _font(20).getmask("\ufffe")
    mask = _font(20).getmask(character)
    return mask.size != missing.size or bytes(mask) != bytes(missing)
