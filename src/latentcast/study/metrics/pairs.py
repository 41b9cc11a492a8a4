"""Pairs of 8-bit pictures: what every picture metric takes, and in which portions."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.errors import ParameterError

__all__ = ["FloatArray", "PictureArray", "luma", "score_pairs"]

PictureArray: TypeAlias = NDArray[np.uint8]
FloatArray: TypeAlias = NDArray[np.float64]

# Intermediate results take about a hundred bytes per pixel: this holds them near 50 MB.
PIXELS_AT_ONCE = 2**19

# ITU-R BT.601, which rgb2gray of the published SSIM code's environment uses.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def score_pairs(
    score: Callable[[PictureArray, PictureArray], FloatArray],
    reference: PictureArray,
    picture: PictureArray,
    *,
    min_side: int = 1,
) -> FloatArray:
    """Check two batches of pictures and score them in portions of bounded memory.

    Args:
        score: Takes two equally long batches and gives one number per pair, which depends on that pair alone.
        reference: What the pictures should be, uint8 (n, height, width, 3).
        picture: What they are, same shape.
        min_side: Least height and width that the metric is defined for.

    Returns:
        float64 (n,).

    Raises:
        ParameterError: If the batches are not such arrays, differ in shape, or hold too small pictures.

    Example:
        >>> black = np.zeros((2, 4, 4, 3), np.uint8)
        >>> score_pairs(lambda a, b: (b - a).mean(axis=(1, 2, 3)), black, black + 3).tolist()
        [3.0, 3.0]
    """
    for name, batch in (("reference", reference), ("picture", picture)):
        if not isinstance(batch, np.ndarray):
            raise ParameterError(f"{name} is a {type(batch).__name__}; it must be a uint8 array (n, h, w, 3)")
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
            raise ParameterError(
                f"{name} is {batch.dtype} of shape {batch.shape}; it must be uint8 (n, height, width, 3)"
            )
    if reference.shape != picture.shape:
        raise ParameterError(
            f"reference has shape {reference.shape} and picture {picture.shape}; they must be the same"
        )
    count, height, width, _ = reference.shape
    if min(height, width) < min_side:
        raise ParameterError(
            f"the pictures have {height} x {width} pixels; this metric needs at least {min_side} x {min_side}"
        )
    portion = max(1, PIXELS_AT_ONCE // (height * width))
    scores = np.empty(count)
    for start in range(0, count, portion):
        chosen = slice(start, start + portion)
        scores[chosen] = score(reference[chosen], picture[chosen])
    return scores


def luma(pictures: PictureArray) -> FloatArray:
    """The luma Y' of BT.601, not rounded: 0.299 R' + 0.587 G' + 0.114 B', float64 (n, height, width).

    Example:
        >>> luma(np.full((1, 1, 1, 3), 255, np.uint8)).tolist()
        [[[255.0]]]
    """
    red, green, blue = (
        weight * pictures[..., channel].astype(np.float64) for channel, weight in enumerate(LUMA_WEIGHTS)
    )
    return red + green + blue
