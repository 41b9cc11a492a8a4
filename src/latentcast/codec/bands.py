"""Coefficients that the progressive codec works on: an orthonormal transform of the latent, in scan order.

Natural latents have more energy in low frequencies than in high ones, 2.4 dB of coding gain by the DCT in
the model shipped here (`latentcast model fit`), but what is left to refine late is local: edges and small
objects. So rows and columns are transformed in blocks by the orthonormal DCT-II, and the blocks' means once
more across the blocks. Scan order goes by radial frequency, with neighbours of similar variance and the most
valuable coefficients first. The loop is closed in coefficients: the inverse only serves to show a picture and
need not be exact.
"""

from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from latentcast.errors import ParameterError

__all__ = ["Bands"]

FloatArray: TypeAlias = NDArray[np.float32]
DoubleArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

MAX_BANDS = 16
BLOCK = 4


class Bands:
    """The transform of one shape of latents.

    Args:
        latent_shape: (channels, height, width), each at least 1.

    Attributes:
        latent_shape: as given.
        band_of: band of radial frequency of each coefficient, int64 (M,), rising from 0.

    Raises:
        ParameterError: if the shape is not as stated.

    Example:
        >>> bands = Bands((4, 16, 16))
        >>> latent = np.random.default_rng(0).standard_normal((4, 16, 16)).astype(np.float32)
        >>> bool(np.allclose(bands.inverse(bands.forward(latent)), latent, atol=1e-5))
        True
    """

    def __init__(self, latent_shape: tuple[int, int, int]) -> None:
        if len(latent_shape) != 3 or min(latent_shape) < 1:
            raise ParameterError(
                f"latent_shape is {latent_shape}; it must be (channels, height, width), each at least 1"
            )
        self.latent_shape = latent_shape
        self._order, self._place, self.band_of = _scan(latent_shape)
        _, height, width = latent_shape
        self._rows, self._columns = _axis(height).matrix, _axis(width).matrix

    @property
    def size(self) -> int:
        """M, coefficients of a latent."""
        return self._order.size

    @property
    def num_bands(self) -> int:
        """Bands of radial frequency."""
        return int(self.band_of[-1]) + 1

    def in_scan_order(self, spectrum: DoubleArray) -> DoubleArray:
        """Variances of the coefficients of a source whose DCT coefficients are independent.

        Args:
            spectrum: variances of the DCT coefficients of every channel, float64 (..., height, width).

        Returns:
            float64 (..., M).
        """
        rows, columns = (
            (matrix.astype(np.float64) @ dct(np.eye(len(matrix)), axis=0, norm="ortho").T) ** 2
            for matrix in (self._rows, self._columns)
        )
        variances = (rows @ spectrum @ columns.T)[..., None, :, :]
        leading = spectrum.shape[:-2]
        everywhere = np.broadcast_to(variances, (*leading, *self.latent_shape))
        ordered: DoubleArray = everywhere.reshape(*leading, -1)[..., self._order]
        return ordered

    def forward(self, latents: FloatArray) -> FloatArray:
        """Coefficients in scan order.

        Args:
            latents: float32 (..., channels, height, width).

        Returns:
            float32 (..., M).
        """
        spectrum = self._rows @ latents @ self._columns.T
        # `take` is several times quicker than an index here.
        return np.asarray(spectrum.reshape(*latents.shape[:-3], -1).take(self._order, axis=-1), np.float32)

    def inverse(self, coefficients: FloatArray) -> FloatArray:
        """Latents from coefficients, float32 (..., channels, height, width)."""
        spectrum = coefficients.take(self._place, axis=-1).reshape(
            *coefficients.shape[:-1], *self.latent_shape
        )
        return np.asarray(self._rows.T @ spectrum @ self._columns, np.float32)


class _Axis(NamedTuple):
    matrix: FloatArray  # orthonormal, a row for each coefficient
    frequency: IntArray  # of each coefficient, in 12 * num_blocks-ths of a half cycle per place
    num_blocks: int


@cache
def _axis(length: int) -> _Axis:
    """The transform of rows or columns of that length; the last block may be shorter."""
    matrix, frequency = np.zeros((length, length)), np.zeros(length, np.int64)
    starts = list(range(0, length, BLOCK))
    for start in starts:
        size = min(BLOCK, length - start)
        block = slice(start, start + size)
        matrix[block, block] = dct(np.eye(size), axis=0, norm="ortho")
        frequency[block] = np.arange(size) * (12 // size) * len(starts)
    matrix[starts] = dct(matrix[starts], axis=0, norm="ortho")
    frequency[starts] = np.arange(len(starts)) * 3
    return _Axis(matrix.astype(np.float32), frequency, len(starts))


@cache
def _scan(latent_shape: tuple[int, int, int]) -> tuple[IntArray, IntArray, IntArray]:
    """Which coefficient stands at each place, at which place each stands, and the band of each place."""
    _, height, width = latent_shape
    rows, columns = _axis(height), _axis(width)
    # Whole numbers, so that every device puts equal frequencies into the same order.
    square = (rows.frequency[:, None] * columns.num_blocks) ** 2 + (columns.frequency * rows.num_blocks) ** 2
    square = np.broadcast_to(square, latent_shape).reshape(-1)
    order = np.argsort(square, kind="stable")
    radius = np.sqrt(square)
    # Rings of equal width in frequency; a ring without a coefficient is left out.
    rings = np.floor(radius[order] / max(float(radius.max()), 1e-9) * MAX_BANDS * 0.999)
    _, band_of = np.unique(rings, return_inverse=True)
    return order.astype(np.int64), np.argsort(order).astype(np.int64), band_of.astype(np.int64)
