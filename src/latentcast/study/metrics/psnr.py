"""Peak signal-to-noise ratio of 8-bit pictures."""

import numpy as np

from latentcast.study.metrics.pairs import FloatArray, PictureArray, score_pairs

__all__ = ["psnr"]

PEAK = 255.0
ROUNDING_MSE = 1.0 / 12.0


def psnr(reference: PictureArray, picture: PictureArray) -> FloatArray:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), over all pixels and channels.

    The error counts as at least that of rounding to 8 bits, 1/12, so equal pictures have 58.9 dB and not
    infinity, as in `Timeline.psnr_db`: a mean over episodes stays finite.

    Args:
        reference: What the pictures should be, uint8 (n, height, width, 3).
        picture: What they are, same shape.

    Returns:
        float64 (n,), higher is better; symmetric.

    Raises:
        ParameterError: If the arrays are no such pictures.

    Example:
        >>> black = np.zeros((1, 2, 2, 3), np.uint8)
        >>> psnr(black, black).round(2).tolist(), psnr(black, black + 255).tolist()
        ([58.92], [0.0])
    """
    return score_pairs(_psnr, reference, picture)


def _psnr(reference: PictureArray, picture: PictureArray) -> FloatArray:
    difference = picture.astype(np.float64) - reference.astype(np.float64)
    mse = np.mean(difference.reshape(len(difference), -1) ** 2, axis=1)
    return np.asarray(10.0 * np.log10(PEAK**2 / np.maximum(mse, ROUNDING_MSE)))
