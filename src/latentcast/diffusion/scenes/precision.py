"""How a machine computes: bfloat16 where it has it, float32 where it only imitates it; compiled on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["autocast", "autocast_on_gpu", "compiled", "has_fast_bfloat16"]


def has_fast_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 matrices are faster than of float32 ones.

    A CPU needs instructions for them (AMX, or AVX-512 with BF16); without, every number is widened first.

    Args:
        device: "cpu" or "cuda".
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def autocast(device: str) -> torch.autocast:
    """The context in which a training step computes its forward pass."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))


def autocast_on_gpu(device: str) -> torch.autocast:
    """The same for the autoencoder, whose many pixels and few channels a CPU computes in float32 as fast."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda" and has_fast_bfloat16(device))


def compiled(module: torch.nn.Module, device: str) -> Callable[..., Any]:
    """The module's forward pass for training: compiled on a GPU, as it is on a CPU.

    What the compiler cannot take runs as it is. On a CPU it is no choice: in bfloat16 its backward pass loses
    the gradient of all that lies below the UNet's upsampler (PyTorch 2.13; in float32 it is right).
    """
    if torch.device(device).type != "cuda":
        return module
    torch._dynamo.config.suppress_errors = True
    return torch.compile(module)
