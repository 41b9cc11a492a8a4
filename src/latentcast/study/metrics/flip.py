"""LDR-FLIP: the error that an observer sees when two pictures alternate in place.

Andersson, Nilsson, Akenine-Möller, Oskarsson, Åström and Fairchild, "FLIP: A Difference Evaluator for
Alternating Images", 2020. Every filter is separable or a sum of separable ones.
"""

import math

import numpy as np
from scipy.ndimage import correlate1d

from latentcast.errors import ParameterError
from latentcast.study.metrics.pairs import FloatArray, PictureArray, score_pairs

__all__ = ["PAPER_PIXELS_PER_DEGREE", "flip", "flip_map"]

PAPER_PIXELS_PER_DEGREE = 3840.0 * math.pi / 180.0
"""A monitor of 3840 pixels seen from as far as it is wide: 67.02."""

# The filters' reach grows with it.
MAX_PIXELS_PER_DEGREE = 10_000.0

# Linear sRGB to CIE XYZ; its white, the illuminant D65, is what (1, 1, 1) becomes.
XYZ_OF_RGB = np.array(
    [
        [10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794],
        [2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897],
        [1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382],
    ]
)
# Both between linear sRGB and XYZ divided by white.
RELATIVE_OF_RGB = XYZ_OF_RGB / XYZ_OF_RGB.sum(axis=1, keepdims=True)
RGB_OF_RELATIVE = np.linalg.inv(RELATIVE_OF_RGB)

# Contrast sensitivity: (a, b) of each Gaussian of a channel, in degrees (Table 1 of the paper).
SENSITIVITIES = (
    ((1.0, 0.0047),),
    ((1.0, 0.0053),),
    ((34.1, 0.04), (13.5, 0.025)),
)
WIDEST = 0.04

FEATURE_WIDTH_DEGREES = 0.082
COLOUR_EXPONENT = 0.7
FEATURE_EXPONENT = 0.5
# Differences up to 0.4 of the largest take 0.95 of the range.
KNEE_SHARE = 0.4
KNEE_ERROR = 0.95


def flip(
    reference: PictureArray, picture: PictureArray, *, pixels_per_degree: float = PAPER_PIXELS_PER_DEGREE
) -> FloatArray:
    """Mean LDR-FLIP error of sRGB pictures.

    Args:
        reference: What the pictures should be, uint8 (n, height, width, 3).
        picture: What they are, same shape.
        pixels_per_degree: Pixels per degree of the observer's visual angle, 1..10000.

    Returns:
        float64 (n,), 0..1, lower is better, 0 for equal pictures; symmetric.

    Raises:
        ParameterError: If the arrays are no such pictures, or pixels_per_degree is out of range.

    Example:
        >>> black = np.zeros((1, 8, 8, 3), np.uint8)
        >>> flip(black, black).tolist(), flip(black, black + 255).round(3).tolist()
        ([0.0], [0.967])
    """
    ppd = _checked(pixels_per_degree)

    def mean_error(reference: PictureArray, picture: PictureArray) -> FloatArray:
        errors = _errors(reference, picture, ppd)
        return np.asarray(errors.reshape(len(errors), -1).mean(axis=1))

    return score_pairs(mean_error, reference, picture)


def flip_map(
    reference: PictureArray, picture: PictureArray, *, pixels_per_degree: float = PAPER_PIXELS_PER_DEGREE
) -> FloatArray:
    """LDR-FLIP error of one pair, pixel by pixel.

    Args:
        reference: What the picture should be, uint8 (height, width, 3).
        picture: What it is, same shape.
        pixels_per_degree: As for `flip`.

    Returns:
        float64 (height, width), 0..1.

    Raises:
        ParameterError: As `flip`.

    Example:
        >>> black = np.zeros((8, 8, 3), np.uint8)
        >>> flip_map(black, black).max()
        np.float64(0.0)
    """
    maps: list[FloatArray] = []

    def keep(reference: PictureArray, picture: PictureArray) -> FloatArray:
        maps.append(_errors(reference, picture, _checked(pixels_per_degree)))
        return np.zeros(1)

    score_pairs(keep, np.asarray(reference)[None], np.asarray(picture)[None])
    return maps[0][0]


def _checked(pixels_per_degree: float) -> float:
    number = isinstance(pixels_per_degree, (int, float)) and not isinstance(pixels_per_degree, bool)
    if not number or not 1.0 <= pixels_per_degree <= MAX_PIXELS_PER_DEGREE:
        raise ParameterError(
            f"pixels_per_degree is {pixels_per_degree!r}; it must be a number, 1..{MAX_PIXELS_PER_DEGREE:g}"
        )
    return float(pixels_per_degree)


def _errors(reference: PictureArray, picture: PictureArray, ppd: float) -> FloatArray:
    """The final error Delta E = Delta E_c^(1 - Delta E_f), shape (n, height, width)."""
    wanted, shown = _opponent(reference), _opponent(picture)
    colour = _colour_error(_perceived(wanted, ppd), _perceived(shown, ppd))
    return np.asarray(colour ** (1.0 - _feature_error(wanted[0], shown[0], ppd)))


def _opponent(pictures: PictureArray) -> FloatArray:
    """From sRGB to the linear opponent space YyCxCz, channels first: (3, n, height, width)."""
    codes = np.arange(256) / 255.0
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    x, y, z = _transformed(RELATIVE_OF_RGB, np.moveaxis(linear[pictures], -1, 0))
    return np.stack((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)))


def _perceived(opponent: FloatArray, ppd: float) -> FloatArray:
    """What remains after the eye's contrast sensitivity, in Hunt-adjusted L*a*b*, channels first."""
    reach = math.ceil(3.0 * math.sqrt(WIDEST / (2.0 * math.pi**2)) * ppd)
    degrees = np.arange(-reach, reach + 1) / ppd
    luminance, red_green, blue_yellow = (
        _filtered(channel, terms, degrees) for channel, terms in zip(opponent, SENSITIVITIES, strict=True)
    )
    y = (luminance + 16.0) / 116.0
    rgb = _transformed(RGB_OF_RELATIVE, np.stack((y + red_green / 500.0, y, y - blue_yellow / 200.0)))
    return _hunt_adjusted_lab(np.clip(rgb, 0.0, 1.0))


def _filtered(channel: FloatArray, terms: tuple[tuple[float, float], ...], degrees: FloatArray) -> FloatArray:
    """(n, height, width) filtered by sum_i a_i sqrt(pi / b_i) exp(-pi^2 r^2 / b_i), scaled to the sum 1."""
    total, sums = 0.0, np.zeros_like(channel)
    for a, b in terms:
        kernel = np.exp(-(math.pi**2) * degrees**2 / b)
        height = a * math.sqrt(math.pi / b)
        sums += height * _separable(channel, kernel, kernel)
        total += height * float(kernel.sum()) ** 2
    return sums / total


def _hunt_adjusted_lab(linear: FloatArray) -> FloatArray:
    relative = _transformed(RELATIVE_OF_RGB, linear)
    bend = 6.0 / 29.0
    x, y, z = np.where(relative > bend**3, np.cbrt(relative), relative / (3.0 * bend**2) + 4.0 / 29.0)
    lightness = 116.0 * y - 16.0
    return np.stack((lightness, 5.0 * lightness * (x - y), 2.0 * lightness * (y - z)))


def _hyab(first: FloatArray, second: FloatArray) -> FloatArray:
    difference = first - second
    return np.asarray(np.abs(difference[0]) + np.hypot(difference[1], difference[2]))


def _colour_error(wanted: FloatArray, shown: FloatArray) -> FloatArray:
    """HyAB distance to the power q_c, spread over 0..1 with a knee (Section 4.1 of the paper)."""
    green, blue = (_hunt_adjusted_lab(np.array(colour)) for colour in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    largest = float(_hyab(green, blue)) ** COLOUR_EXPONENT
    knee = KNEE_SHARE * largest
    distance = _hyab(wanted, shown) ** COLOUR_EXPONENT
    above = KNEE_ERROR + (distance - knee) / (largest - knee) * (1.0 - KNEE_ERROR)
    return np.where(distance < knee, KNEE_ERROR / knee * distance, above)


def _feature_error(wanted: FloatArray, shown: FloatArray, ppd: float) -> FloatArray:
    """Difference of edges or of points in the luminance, whichever is larger (Section 4.2 of the paper)."""
    deviation = 0.5 * FEATURE_WIDTH_DEGREES * ppd
    reach = math.ceil(3.0 * deviation)
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    gaussian = np.exp(-(x**2) / (2.0 * deviation**2))
    differences = []
    for kernel in (-x * gaussian, ((x / deviation) ** 2 - 1.0) * gaussian):
        # Positive weights sum to 1, negative ones to -1.
        balanced = np.where(
            kernel > 0.0, kernel / kernel[kernel > 0.0].sum(), kernel / -kernel[kernel < 0.0].sum()
        )
        strengths = [
            np.hypot(_separable(y, balanced, gaussian), _separable(y, gaussian, balanced))
            for y in ((wanted + 16.0) / 116.0, (shown + 16.0) / 116.0)
        ]
        differences.append(np.abs(strengths[0] - strengths[1]) / gaussian.sum())
    return np.asarray((np.maximum(*differences) / math.sqrt(2.0)) ** FEATURE_EXPONENT)


def _separable(channel: FloatArray, across: FloatArray, down: FloatArray) -> FloatArray:
    """Correlate (n, height, width) with down x across; the border's pixels are repeated outside."""
    return np.asarray(correlate1d(correlate1d(channel, down, axis=1, mode="nearest"), across, mode="nearest"))


def _transformed(matrix: FloatArray, channels: FloatArray) -> FloatArray:
    """A 3 x 3 matrix on (3, ...), element-wise so that no pixel depends on how many there are."""
    first, second, third = channels
    return np.stack([row[0] * first + row[1] * second + row[2] * third for row in matrix])
