"""Pictures side by side on one sheet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["picture_sheet"]


def picture_sheet(pictures: npt.NDArray[np.uint8], columns: int, gap: int = 4) -> Image.Image:
    """Lay (num, H, W, 3) pictures out in rows, with white between them."""
    height, width = pictures.shape[1:3]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(
            Image.fromarray(picture), ((i % columns) * (width + gap), (i // columns) * (height + gap))
        )
    return sheet
