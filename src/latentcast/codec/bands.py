"""Coefficients that the progressive codec works on: an orthonormal transform of the latent, in scan order.

Natural latents have more energy in low frequencies than in high ones, 4.6 dB of coding gain in the model
shipped here. Every channel is transformed as a whole by the orthonormal DCT-II; scan order goes by radial
frequency, with the channels side by side, so that neighbours have similar variances and the most valuable
coefficients come first. The loop is closed in coefficients: the inverse only serves to show a picture and
need not be exact.
"""

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from latentcast.errors import ParameterError

__all__ = ["Bands"]

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

MAX_BANDS = 16


class Bands:
    """The transform of one shape of latents.

    Args:
        latent_shape: (channels, height, width), each at least 1.

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

    @property
    def size(self) -> int:
        """M, coefficients of a latent."""
        return self._order.size

    @property
    def num_bands(self) -> int:
        """Bands of radial frequency."""
        return int(self.band_of[-1]) + 1

    def in_scan_order(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """What belongs to the DCT coefficients of every channel, float64 (height, width), as (M,)."""
        return np.broadcast_to(spectrum, self.latent_shape).reshape(-1)[self._order]

    def forward(self, latents: FloatArray) -> FloatArray:
        """Coefficients in scan order.

        Args:
            latents: float32 (..., channels, height, width).

        Returns:
            float32 (..., M).
        """
        spectrum = dctn(latents, axes=(-2, -1), norm="ortho")
        return np.asarray(spectrum.reshape(*latents.shape[:-3], -1)[..., self._order], np.float32)

    def inverse(self, coefficients: FloatArray) -> FloatArray:
        """Latents from coefficients, float32 (..., channels, height, width)."""
        spectrum = coefficients[..., self._place].reshape(*coefficients.shape[:-1], *self.latent_shape)
        return np.asarray(idctn(spectrum, axes=(-2, -1), norm="ortho"), np.float32)


@cache
def _scan(latent_shape: tuple[int, int, int]) -> tuple[IntArray, IntArray, IntArray]:
    """Which coefficient stands at each place, at which place each stands, and the band of each place."""
    channels, height, width = latent_shape
    rows = np.arange(height)[:, None] / height
    columns = np.arange(width)[None, :] / width
    radius = np.broadcast_to(np.hypot(rows, columns), (channels, height, width)).reshape(-1)
    order = np.argsort(radius, kind="stable")
    # Rings of equal width in frequency; a ring without a coefficient is left out.
    rings = np.floor(radius[order] / max(float(radius.max()), 1e-9) * MAX_BANDS * 0.999)
    _, band_of = np.unique(rings, return_inverse=True)
    return order.astype(np.int64), np.argsort(order).astype(np.int64), band_of.astype(np.int64)
