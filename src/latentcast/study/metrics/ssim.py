"""Structural similarity, at one scale (SSIM) and at several (MS-SSIM).

SSIM is that of Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
structural similarity", 2004; MS-SSIM that of Wang, Simoncelli and Bovik, "Multiscale structural similarity
for image quality assessment", 2003. Both are defined on grey pictures, and so is their published code;
colour pictures are compared by their luma.
"""

import numpy as np
from scipy.ndimage import correlate1d

from latentcast.study.metrics.pairs import FloatArray, PictureArray, luma, score_pairs

__all__ = ["ms_ssim", "num_scales", "ssim"]

WINDOW = 11
SIGMA = 1.5
C1 = (0.01 * 255.0) ** 2
C2 = (0.03 * 255.0) ** 2

# As published; their sum is 1.0001.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim(reference: PictureArray, picture: PictureArray) -> FloatArray:
    """Mean structural similarity of the luma (Wang et al. 2004).

    An 11 x 11 Gaussian window of standard deviation 1.5, K1 = 0.01, K2 = 0.03, L = 255, population moments;
    the mean over all positions at which the window lies inside the picture. As published, the picture is not
    downsampled first, whatever its size.

    Args:
        reference: What the pictures should be, uint8 (n, height, width, 3), at least 11 x 11.
        picture: What they are, same shape.

    Returns:
        float64 (n,), higher is better, 1 for equal pictures; symmetric.

    Raises:
        ParameterError: If the arrays are no such pictures.

    Example:
        >>> grey = np.full((1, 16, 16, 3), 128, np.uint8)
        >>> ssim(grey, grey).tolist(), ssim(grey, grey + 64).round(3).tolist()
        ([1.0], [0.923])
    """
    return score_pairs(_ssim, reference, picture, min_side=WINDOW)


def ms_ssim(reference: PictureArray, picture: PictureArray) -> FloatArray:
    """Multi-scale structural similarity of the luma (Wang et al. 2003).

    Contrast and structure at every scale, luminance at the coarsest, each mean to the power of its published
    weight; from scale to scale the mean of 2 x 2 pixels, with the last row or column repeated where their
    number is odd. Five scales need sides of 161 and more. A smaller picture gets as many as leave it 11
    pixels (`num_scales`: four from 81, so at 128 x 128), with the weights of these rescaled to the sum of
    all five; such values compare only with values of as many scales. A negative mean, which has no real
    power, counts as 0.

    Args:
        reference: What the pictures should be, uint8 (n, height, width, 3), at least 11 x 11.
        picture: What they are, same shape.

    Returns:
        float64 (n,), higher is better, 1 for equal pictures; symmetric.

    Raises:
        ParameterError: If the arrays are no such pictures.

    Example:
        >>> grey = np.full((1, 128, 128, 3), 128, np.uint8)
        >>> ms_ssim(grey, grey).tolist(), ms_ssim(grey, grey + 64).round(3).tolist()
        ([1.0], [0.978])
    """
    return score_pairs(_ms_ssim, reference, picture, min_side=WINDOW)


def num_scales(height: int, width: int) -> int:
    """Scales of `ms_ssim` for pictures of this size: while the window fits, five at most.

    Example:
        >>> [num_scales(side, side) for side in (512, 161, 128, 80)]
        [5, 5, 4, 3]
    """
    side, scales = min(height, width), 1
    while scales < len(SCALE_WEIGHTS) and (side := -(-side // 2)) >= WINDOW:
        scales += 1
    return scales


def _ssim(reference: PictureArray, picture: PictureArray) -> FloatArray:
    luminance, structure = _similarities(luma(reference), luma(picture))
    return _mean(luminance * structure)


def _ms_ssim(reference: PictureArray, picture: PictureArray) -> FloatArray:
    x, y = luma(reference), luma(picture)
    weights = np.array(SCALE_WEIGHTS[: num_scales(*x.shape[1:])])
    weights *= sum(SCALE_WEIGHTS) / weights.sum()
    product = np.ones(len(x))
    for scale, weight in enumerate(weights.tolist(), start=1):
        luminance, structure = _similarities(x, y)
        last = scale == weights.size
        mean = _mean(luminance * structure if last else structure)
        product *= np.maximum(mean, 0.0) ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return product


def _similarities(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Luminance term and contrast-structure term, wherever the window lies inside the picture."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    square_x, square_y, product = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    variance_x, variance_y = _windowed(x * x) - square_x, _windowed(y * y) - square_y
    covariance = _windowed(x * y) - product
    luminance = (2.0 * product + C1) / (square_x + square_y + C1)
    structure = (2.0 * covariance + C2) / (variance_x + variance_y + C2)
    return luminance, structure


def _windowed(x: FloatArray) -> FloatArray:
    """Gaussian-weighted means, shape (n, height - 10, width - 10)."""
    reach = WINDOW // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    kernel /= kernel.sum()
    rows = correlate1d(x, kernel, axis=1)[:, reach : x.shape[1] - reach]
    return np.asarray(correlate1d(rows, kernel, axis=2)[:, :, reach : x.shape[2] - reach])


def _halved(x: FloatArray) -> FloatArray:
    _, height, width = x.shape
    even = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return 0.25 * (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2])


def _mean(maps: FloatArray) -> FloatArray:
    return np.asarray(maps.reshape(len(maps), -1).mean(axis=1))
