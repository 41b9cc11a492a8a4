"""Closed-form Gaussian sources: latents whose denoiser and reverse process are exact.

The final latent x_0 is Gaussian with independent orthonormal DCT-II coefficients over height and width. For a
white source every coefficient has unit variance, and the paper's forward-process model holds to the letter; a
shaped one has the spectrum of natural latents. Nothing is learned, so every formula of the paper can be
tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, LatentShape, Step, seed_stream, shared_noise
from latentcast.errors import ParameterError

__all__ = ["NATURAL_CODING_GAIN_DB", "GaussianSource", "natural_spectrum"]

Array = npt.NDArray[np.float64]

# Ratio of arithmetic to geometric mean of the DCT variances of latents of natural pictures.
NATURAL_CODING_GAIN_DB = 4.6


@lru_cache(maxsize=16)
def _dct_matrix(size: int) -> Array:
    """Orthonormal DCT-II: row k holds c_k cos(pi k (2 i + 1) / (2 size))."""
    positions = 2 * np.arange(size) + 1
    matrix: Array = np.cos(np.pi / (2 * size) * np.arange(size)[:, None] * positions)
    matrix[0] *= np.sqrt(0.5)
    matrix *= np.sqrt(2.0 / size)
    matrix.flags.writeable = False
    return matrix


def _power_law(height: int, width: int, exponent: float) -> Array:
    row, column = np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)
    variances = (1.0 + row**2 + column**2) ** -exponent
    return np.asarray(variances / variances.mean(), np.float64)


def natural_spectrum(height: int, width: int, *, coding_gain_db: float = NATURAL_CODING_GAIN_DB) -> Array:
    """Variances of DCT coefficients that fall like those of natural latents.

    v(i, j) is proportional to (1 + i^2 + j^2)^-p, with the exponent p that gives the coding gain, which is
    10 log10 of the arithmetic over the geometric mean of v.

    Args:
        height: Rows of the latent.
        width: Columns of the latent.
        coding_gain_db: Wanted coding gain in dB, 0 for a white spectrum.

    Returns:
        float64 array (height, width) of mean 1.

    Raises:
        ParameterError: If the coding gain is negative, not finite, or cannot be reached at this size.

    Example:
        >>> v = natural_spectrum(16, 16)
        >>> round(float(10 * np.log10(v.mean()) - 10 * np.log10(v).mean()), 6)
        4.6
    """

    def gain_db(exponent: float) -> float:
        return float(-10.0 * np.log10(_power_law(height, width, exponent)).mean())

    low, high = 0.0, 8.0
    if not 0.0 <= coding_gain_db <= gain_db(high):
        raise ParameterError(
            f"coding_gain_db is {coding_gain_db}; a {height} x {width} latent takes 0 to "
            f"{gain_db(high):.1f} dB"
        )
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if gain_db(middle) < coding_gain_db else (low, middle)
    return _power_law(height, width, low)


class GaussianSource:
    """A source of Gaussian latents with the exact denoiser and the exact reverse posterior.

    With P_t = a_t^2 v + s_t^2 the variance of a coefficient of x_t, and x_t = r x_(t-1) + q eps the forward
    step (r = a_t / a_(t-1), q^2 = s_t^2 - r^2 s_(t-1)^2), each coefficient obeys

        E[x_0 | x_t] = a_t v / P_t x_t,    x_(t-1) | x_t ~ N(r P_(t-1) / P_t x_t,  P_(t-1) q^2 / P_t).

    For the white source on a variance-preserving path, P = 1 and the reverse step is sqrt(alpha_t) x_t +
    sqrt(1 - alpha_t) eps: its variance is 1 - alpha_t, more than the beta_tilde of the paper's eq. 3, which
    knows x_0. The prompt changes nothing.

    Args:
        latent_shape: (channels, height, width).
        path: Signal and noise coefficients.
        spectrum: Variances of the DCT coefficients, float64 (height, width), positive, of mean 1; None for
            white.

    Raises:
        ParameterError: If the shape or the spectrum is not as stated.

    Example:
        >>> source = GaussianSource((1, 4, 4), NoisePath.stable_diffusion(50))
        >>> [step.index for step in source.steps(["anything"], [1])][:3]
        [50, 49, 48]
    """

    def __init__(
        self, latent_shape: LatentShape, path: NoisePath, *, spectrum: npt.ArrayLike | None = None
    ) -> None:
        if len(latent_shape) != 3 or min(latent_shape) < 1:
            raise ParameterError(
                f"latent_shape is {latent_shape}; it must be (channels, height, width), each at least 1"
            )
        self._latent_shape = latent_shape
        self._path = path
        self._white = spectrum is None
        if spectrum is None:
            self._variance: Array = np.ones((1, 1))
        else:
            self._variance = np.array(spectrum, np.float64)
            if self._variance.shape != latent_shape[1:]:
                raise ParameterError(
                    f"spectrum has shape {self._variance.shape}; "
                    f"it must be (height, width) = {latent_shape[1:]}"
                )
            if not (np.all(self._variance > 0) and abs(self._variance.mean() - 1.0) < 1e-6):
                raise ParameterError("spectrum must be positive with mean 1; divide it by its mean")

    @classmethod
    def natural(
        cls, latent_shape: LatentShape, path: NoisePath, *, coding_gain_db: float = NATURAL_CODING_GAIN_DB
    ) -> GaussianSource:
        """A shaped source with the coding gain of natural latents.

        Example:
            >>> source = GaussianSource.natural((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> bool(source.mmse[10] < GaussianSource((4, 16, 16), source.path).mmse[10])
            True
        """
        _, height, width = latent_shape
        return cls(
            latent_shape, path, spectrum=natural_spectrum(height, width, coding_gain_db=coding_gain_db)
        )

    @property
    def latent_shape(self) -> LatentShape:
        """(channels, height, width) of one latent."""
        return self._latent_shape

    @property
    def path(self) -> NoisePath:
        """Signal and noise coefficients of the samples."""
        return self._path

    @property
    def spectrum(self) -> Array | None:
        """Variances of the DCT coefficients, float64 (height, width); None for a white source."""
        return None if self._white else self._variance

    @property
    def mmse(self) -> Array:
        """Mean squared error of `Step.clean_estimate` at each t, float64 (T + 1,).

        The estimate that comes with x_t was made from x_(t+1): mmse(t) = mean of v s^2 / P at t + 1. At t = T
        it is the prior variance 1.
        """
        a, s = self._path.signal[1:, None, None], self._path.noise[1:, None, None]
        v = self._variance
        error = (v * s**2 / (a**2 * v + s**2)).mean(axis=(1, 2))
        return np.append(error, 1.0)

    def denoise(self, sample: npt.ArrayLike, step: int) -> Array:
        """The exact conditional mean E[x_0 | x_t].

        Args:
            sample: x_t, any leading axes before (height, width).
            step: t, 0..T.

        Returns:
            float64 array of the sample's shape.
        """
        return self._from_spectrum(self._estimate(self._to_spectrum(np.asarray(sample, np.float64)), step))

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        """Run the exact reverse process; see `LatentSource.steps`.

        The initial noise is `shared_noise`, coloured to the marginal variance of x_T where that is not 1.

        Raises:
            ParameterError: If there are not as many prompts as seeds, or none.
        """
        if len(prompts) != len(seeds) or not seeds:
            raise ParameterError(
                f"got {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt"
            )
        return self._steps(seeds)

    def _steps(self, seeds: Sequence[int]) -> Iterator[Step]:
        rngs = [np.random.Generator(np.random.PCG64(seed_stream(seed, "sampler"))) for seed in seeds]
        a, s = self._path.signal, self._path.noise
        num_steps = self._path.num_steps
        noise = np.stack([shared_noise(seed, self._latent_shape) for seed in seeds]).astype(np.float64)
        # The run lives in the spectrum, where coefficients are independent; only what is yielded is
        # transformed.
        x = np.sqrt(self._marginal(num_steps)) * self._to_spectrum(noise)
        yield Step(num_steps, self._emit(x), np.zeros(x.shape, np.float32))
        for t in range(num_steps, 0, -1):
            estimate = self._estimate(x, t)
            r = a[t] / a[t - 1]
            q_squared = s[t] ** 2 - (r * s[t - 1]) ** 2
            after, before = self._marginal(t - 1), self._marginal(t)
            fresh = np.stack([rng.standard_normal(self._latent_shape) for rng in rngs])
            x = r * after / before * x + np.sqrt(after * q_squared / before) * fresh
            yield Step(t - 1, self._emit(x), self._emit(estimate))

    def _marginal(self, step: int) -> Array:
        """P_t, the variance of each coefficient of x_t."""
        variance: Array = self._path.signal[step] ** 2 * self._variance + self._path.noise[step] ** 2
        return variance

    def _estimate(self, spectrum: Array, step: int) -> Array:
        estimate: Array = self._path.signal[step] * self._variance / self._marginal(step) * spectrum
        return estimate

    def _to_spectrum(self, x: Array) -> Array:
        if self._white:
            return x
        return _dct_matrix(x.shape[-2]) @ x @ _dct_matrix(x.shape[-1]).T

    def _from_spectrum(self, x: Array) -> Array:
        if self._white:
            return x
        return _dct_matrix(x.shape[-2]).T @ x @ _dct_matrix(x.shape[-1])

    def _emit(self, spectrum: Array) -> FloatArray:
        return np.ascontiguousarray(self._from_spectrum(spectrum), np.float32)
