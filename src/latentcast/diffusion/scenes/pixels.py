"""Pictures as arrays, and as what networks take and give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["to_network", "to_pictures"]


def to_network(pictures: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """uint8 (batch, H, W, 3) to float32 (batch, 3, H, W) in -1..1, channels last in memory."""
    tensor = torch.tensor(np.ascontiguousarray(pictures), device=device)
    return (
        tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)
    )


def to_pictures(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Float (batch, 3, H, W) in -1..1, clipped, to uint8 (batch, H, W, 3)."""
    scaled = tensor.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
