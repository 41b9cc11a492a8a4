"""Latents as a device holds them: coarse, because few bits came, or early, because generation went on.

Coding is modelled by the test channel that attains a Gaussian's rate-distortion function, coefficient by
coefficient of the DCT (Cover and Thomas, "Elements of Information Theory", 13.3.3): coefficients of variance
below the water level are lost, and the others are their own best estimates with an error of the level. A real
entropy-coded quantiser leaves the same picture at a somewhat higher rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn, idctn

__all__ = ["EarlyEstimates", "LatentSpectrum"]

Latents = npt.NDArray[np.float32]

_AXES = (-2, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSpectrum:
    """Variances of the DCT coefficients of a model's final latents.

    Attributes:
        variances: float64 (channels, height, width), positive.
    """

    variances: npt.NDArray[np.float64]

    @classmethod
    def of(cls, latents: Latents) -> LatentSpectrum:
        """Measure it on float32 (num, channels, height, width) latents."""
        power = np.mean(np.square(dctn(latents.astype(np.float64), axes=_AXES, norm="ortho")), axis=0)
        return cls(variances=np.maximum(power, 1e-6))

    def coded(
        self, latents: Latents, water_level: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> Latents:
        """What a device would hold of latents after ideal coding.

        Args:
            latents: float32 (batch, channels, height, width).
            water_level: of reverse waterfilling, the error of every coefficient that is worth bits; float64
                (batch,).
            rng: of the coding noise.

        Returns:
            float32, shape of latents.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> latents = rng.standard_normal((500, 1, 4, 4)).astype(np.float32)
            >>> spectrum = LatentSpectrum(variances=np.ones((1, 4, 4)))
            >>> held = spectrum.coded(latents, np.full(500, 0.1), rng)
            >>> bool(abs(np.mean((held - latents) ** 2) - 0.1) < 0.01)
            True
        """
        error = np.minimum(water_level[:, None, None, None], self.variances)
        kept = 1.0 - error / self.variances
        coefficients = dctn(latents.astype(np.float64), axes=_AXES, norm="ortho")
        noise = rng.standard_normal(latents.shape) * np.sqrt(error * kept)
        held: Latents = idctn(kept * coefficients + noise, axes=_AXES, norm="ortho").astype(np.float32)
        return held


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlyEstimates:
    """Final latents of generated pictures, and what was known of them at every step.

    Attributes:
        final: x_0, float32 (num, channels, height, width).
        estimates: the clean estimates that came with x_t for t = 0..T-1, each step's shrunk so that it is
            nearest to x_0 in the mean; float32 (num, T, channels, height, width).
    """

    final: Latents
    estimates: Latents

    @classmethod
    def of(cls, final: Latents, estimates: Latents) -> EarlyEstimates:
        """From a model's own estimates, which overshoot early on where the prompt guides them."""
        numerator = np.einsum("ntchw,nchw->t", estimates, final)
        gain = numerator / np.maximum(np.einsum("ntchw,ntchw->t", estimates, estimates), 1e-9)
        return cls(final=final, estimates=(estimates * gain[:, None, None, None]).astype(np.float32))
