"""What training asks of a decoded picture: to be near the original, above all where edges are."""

from __future__ import annotations

import torch

__all__ = ["fidelity_loss"]

# Errors below which a picture is as good as perfect, squared and of differences.
_PERFECT, _PERFECT_DIFFERENCE = 1e-4, 1e-2
_SHARPNESS_WEIGHT = 0.25


def fidelity_loss(error: torch.Tensor) -> torch.Tensor:
    """Logarithms of the squared error, which is PSNR but for its sign, and of differences', for sharp edges.

    By the logarithm a picture counts the less, the worse it can be shown from what is known of it.

    Args:
        error: of pictures whose range is 1, float (batch, 3, height, width).

    Returns:
        Float, a scalar.

    Example:
        >>> worse, better = torch.full((2, 3, 8, 8), 0.1), torch.full((2, 3, 8, 8), 0.05)
        >>> bool(fidelity_loss(worse) > fidelity_loss(better))
        True
    """
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    squared = error.square().mean((1, 2, 3))
    differences = across.abs().mean((1, 2, 3)) + down.abs().mean((1, 2, 3))
    loss: torch.Tensor = (
        torch.log(squared + _PERFECT) + _SHARPNESS_WEIGHT * torch.log(differences + _PERFECT_DIFFERENCE)
    ).mean()
    return loss
