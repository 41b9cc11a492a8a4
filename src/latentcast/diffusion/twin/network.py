"""A U-Net's twin that computes the same with fewer multiplications and passes over memory, on a CPU.

Residual blocks run as two convolutions by `winograd`, with their norms, activations and sums inside; other
3 x 3 convolutions by the same; gated feed-forwards with the gate in one pass. The twin shares its weights
with the U-Net, which stays as it is. Whatever does not fit is left as it was, so any U-Net may come.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

from latentcast.diffusion.twin.lanes import LANES
from latentcast.diffusion.twin.winograd import (
    TILE,
    from_tiles,
    group_scales,
    to_tiles,
    transformed_weights,
)

__all__ = ["quick_twin"]

# Transformed, weights take four times their memory; where that is more than this, in bytes, they stay.
_LARGEST_WEIGHTS = 64 * 2**20

# Tiles of a product of matrices: more of them would not stay in the cache.
_TILES_AT_ONCE = 256

_NOTHING = torch.empty((0, 0)).numpy()


def quick_twin(unet: Any) -> Any:
    """The same network, faster.

    Args:
        unet: A diffusers U-Net in float32 on the CPU.

    Returns:
        A network that is called in the same way and shares the weights. Its outputs differ by float32's
        rounding, some ten times as much as those of two orders of summation do.
    """
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    twin = copy.deepcopy(unet, shared)
    _quicken(twin)
    return twin


def _quicken(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ResnetBlock2D) and _is_plain(child):
            setattr(module, name, _QuickBlock(child))
        elif isinstance(child, nn.Conv2d) and _is_transformable(child):
            setattr(module, name, _QuickConvolution(child))
        elif isinstance(child, nn.Conv2d) and _is_pointwise(child):
            setattr(module, name, _QuickPointwise(child))
        elif isinstance(child, GEGLU):
            setattr(module, name, _QuickGate(child))
        else:
            _quicken(child)


def _is_transformable(convolution: nn.Module) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.padding == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.bias is not None
        and convolution.in_channels % LANES == convolution.out_channels % LANES == 0
        and 4 * convolution.weight.numel() * 4 <= _LARGEST_WEIGHTS
    )


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    return (
        convolution.kernel_size == convolution.stride == (1, 1)
        and convolution.padding == (0, 0)
        and convolution.groups == 1
    )


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        _is_transformable(block.conv1)
        and _is_transformable(block.conv2)
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and block.output_scale_factor == 1.0
    )


class _QuickBlock(nn.Module):
    """A residual block; only its data move, once for each convolution."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.block = block
        if block.conv_shortcut is not None and _is_pointwise(block.conv_shortcut):
            block.conv_shortcut = _QuickPointwise(block.conv_shortcut)
        self._first = _weights(block.conv1)
        self._second = _weights(block.conv2)

    def forward(self, maps: torch.Tensor, embedding: torch.Tensor | None, *_: Any, **__: Any) -> torch.Tensor:
        block = self.block
        if not _in_tiles(maps):
            plain: torch.Tensor = block(maps, embedding)
            return plain
        inner = block.conv1.bias.expand(len(maps), -1)
        if block.time_emb_proj is not None and embedding is not None:
            if not block.skip_time_act:
                embedding = F.silu(embedding)
            inner = inner + block.time_emb_proj(embedding)
        hidden = _convolved(maps, block.norm1, self._first, inner)
        straight = maps if block.conv_shortcut is None else block.conv_shortcut(maps)
        outer = block.conv2.bias.expand(len(maps), -1)
        return _convolved(hidden, block.norm2, self._second, outer, straight)


class _QuickConvolution(nn.Module):
    """A 3 x 3 convolution on its own."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self._transformed = _weights(convolution)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        convolution = self.convolution
        if not _in_tiles(maps):
            plain: torch.Tensor = convolution(maps)
            return plain
        assert convolution.bias is not None
        return _convolved(maps, None, self._transformed, convolution.bias.expand(len(maps), -1))


class _QuickPointwise(nn.Module):
    """A 1 x 1 convolution: a product of matrices, where channels are the last axis in memory."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight.flatten(1)
        return F.linear(maps.permute(0, 2, 3, 1), weight, self.convolution.bias).permute(0, 3, 1, 2)


class _QuickGate(nn.Module):
    """a * gelu(b), without copies in between."""

    def __init__(self, gate: GEGLU) -> None:
        super().__init__()
        self.proj = gate.proj

    def forward(self, tokens: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)


def _weights(convolution: nn.Conv2d) -> torch.Tensor:
    return torch.from_numpy(transformed_weights(convolution.weight.detach().contiguous().numpy()))


def _in_tiles(maps: torch.Tensor) -> bool:
    return maps.shape[2] % TILE == maps.shape[3] % TILE == 0


def _convolved(
    maps: torch.Tensor,
    norm: nn.GroupNorm | None,
    weights: torch.Tensor,
    bias: torch.Tensor,
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """Norm, SiLU, convolution, bias and sum; maps in, maps out, (batch, channels, height, width)."""
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    batch, height, width, inputs = pixels.shape
    outputs = weights.shape[2]
    biases = bias.contiguous().numpy()
    below = (
        torch.zeros((1, 1, 1, outputs)) if base is None else base.permute(0, 2, 3, 1).contiguous()
    ).numpy()
    result = torch.empty((batch, height, width, outputs))
    scale = shift = _NOTHING
    if norm is not None:
        scale, shift = group_scales(
            pixels.numpy(), norm.weight.numpy(), norm.bias.numpy(), norm.num_groups, norm.eps
        )
    each = height * width // TILE**2
    step = max(1, _TILES_AT_ONCE // each)
    for first in range(0, batch, step):
        part = slice(first, min(first + step, batch))
        tiles = (part.stop - part.start) * each
        transformed = _scratch("in", len(weights), tiles, inputs)
        products = _scratch("out", len(weights), tiles, outputs)
        to_tiles(pixels[part].numpy(), scale[part], shift[part], norm is not None, transformed.numpy())
        torch.bmm(transformed, weights, out=products)
        from_tiles(
            products.numpy(),
            biases[part],
            below if base is None else below[part],
            result[part].numpy(),
        )
    return result.permute(0, 3, 1, 2)


_buffers = threading.local()


def _scratch(name: str, *shape: int) -> torch.Tensor:
    """Memory of this thread; fresh one would have to be zeroed by the system at every call."""
    size = shape[0] * shape[1] * shape[2]
    kept: torch.Tensor | None = getattr(_buffers, name, None)
    if kept is None or kept.numel() < size:
        kept = torch.empty(size)
        setattr(_buffers, name, kept)
    return kept[:size].view(shape)
