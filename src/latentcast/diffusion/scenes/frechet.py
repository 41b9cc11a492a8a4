"""The Frechet distance between two sets of pictures, in the features of the judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh

__all__ = ["frechet_distance"]

Features = npt.NDArray[np.float64]


def frechet_distance(a: Features, b: Features) -> float:
    """Squared 2-Wasserstein distance between the Gaussians of two samples' means and covariances.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), as in Heusel et al., "GANs Trained by a Two Time-Scale
    Update Rule" (2017), but in another network's features: a number to compare within one table, not with
    published FIDs. Small samples of one distribution are some distance apart, so it needs a floor beside it.

    Args:
        a: float64 (num, features).
        b: float64 (num, features); another number of pictures is fine.

    Returns:
        The distance, 0 or more.

    Example:
        >>> a = np.random.default_rng(0).standard_normal((500, 3))
        >>> round(frechet_distance(a, a), 6), round(frechet_distance(a, a + 2.0), 6)
        (0.0, 12.0)
    """
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (C_a C_b)^(1/2) from the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2).
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    cross = np.sqrt(np.maximum(eigvalsh(root @ second @ root), 0.0)).sum()
    gap = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(gap + np.trace(first) + np.trace(second) - 2.0 * cross, 0.0))
