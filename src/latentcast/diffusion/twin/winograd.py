"""Convolution of 3 x 3 with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3), on a CPU.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Every 4 x 4 tile of the output
follows from 6 x 6 of the input as Y = A' [(G g G') * (B' d B)] A, where the product in the middle is one of
numbers; over all channels it is 36 products of matrices. What stands before a convolution (group norm, SiLU)
and after it (a bias, a sum with something else) is done where the transforms touch the numbers anyway.

Numbers of channels must be multiples of `LANES`.
"""

# Types come to an intrinsic as arguments of which it need not look at all.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from latentcast.diffusion.twin.lanes import LANES, Lanes, silu

__all__ = ["TILE", "from_tiles", "group_scales", "to_tiles", "transformed_weights"]

FloatArray: TypeAlias = NDArray[np.float32]

TILE = 4
"""Height and width of a map must be multiples of this."""

_WINDOW = TILE + 2
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def transformed_weights(weights: FloatArray) -> FloatArray:
    """G g G', for every pair of channels.

    Args:
        weights: float32 (outputs, inputs, 3, 3).

    Returns:
        float32 (36, inputs, outputs).

    Example:
        >>> transformed_weights(np.ones((16, 8, 3, 3), np.float32)).shape
        (36, 8, 16)
    """
    rows = _G @ weights.astype(np.float64) @ _G.T
    return np.ascontiguousarray(
        rows.transpose(2, 3, 1, 0).reshape(_WINDOW**2, *weights.shape[1::-1]), np.float32
    )


def _input_side(d: Sequence[Lanes]) -> list[Lanes]:
    """B' d."""
    even, odd = d[4] - 4 * d[2], d[3] - 4 * d[1]
    near, far = d[4] - d[2], 2 * (d[3] - d[1])
    return [
        4 * d[0] - 5 * d[2] + d[4],
        even + odd,
        even - odd,
        near + far,
        near - far,
        4 * d[1] - 5 * d[3] + d[5],
    ]


def _output_side(m: Sequence[Lanes]) -> list[Lanes]:
    """A' m."""
    even, odd, even_2, odd_2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [m[0] + even + even_2, odd + 2 * odd_2, even + 4 * even_2, odd + 8 * odd_2 + m[5]]


def _places(builder: Any, first: Any, stride: Any, count: int) -> list[Any]:
    return [builder.add(first, builder.mul(stride, first.type(k))) for k in range(count)]


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return context.make_array(array_type)(context, builder, array).data


def _mapping(transform: Callable[[Sequence[Lanes]], list[Lanes]], outputs: int) -> Any:
    """Applies a transform to eight channels: reads six places, `stride` apart, and writes the results."""

    @intrinsic
    def apply(
        typing: Any,
        source: Any,
        place: Any,
        stride: Any,
        target: Any,
        to: Any,
        step: Any,
    ) -> Any:
        signature = types.void(source, types.intp, types.intp, target, types.intp, types.intp)

        def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
            read = _data(context, builder, source, args[0])
            written = _data(context, builder, target, args[3])
            inputs = [Lanes.load(builder, read, at) for at in _places(builder, args[1], args[2], _WINDOW)]
            results = transform(inputs)
            for lanes, at in zip(results, _places(builder, args[4], args[5], outputs), strict=True):
                lanes.store(written, at)
            return context.get_dummy_value()

        return signature, codegen

    return apply


@intrinsic
def _activate(
    typing: Any,
    maps: Any,
    place: Any,
    scale: Any,
    shift: Any,
    at: Any,
    target: Any,
    to: Any,
) -> Any:
    """SiLU of what a group norm makes of eight channels."""
    index = types.intp
    signature = types.void(maps, index, scale, shift, index, target, index)

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        x, s, b = (
            Lanes.load(builder, _data(context, builder, kind, array), spot)
            for kind, array, spot in (
                (maps, args[0], args[1]),
                (scale, args[2], args[4]),
                (shift, args[3], args[4]),
            )
        )
        silu(x * s + b).store(_data(context, builder, target, args[5]), args[6])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _finish(
    typing: Any, m: Any, place: Any, stride: Any, bias: Any, at_bias: Any,
    base: Any, at_base: Any, base_step: Any, target: Any, to: Any, step: Any,
) -> Any:  # fmt: skip
    """A' m + bias + base, into four neighbours."""
    index = types.intp
    signature = types.void(m, index, index, bias, index, base, index, index, target, index, index)

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        read = _data(context, builder, m, args[0])
        below = _data(context, builder, base, args[5])
        written = _data(context, builder, target, args[8])
        inputs = [Lanes.load(builder, read, at) for at in _places(builder, args[1], args[2], _WINDOW)]
        added = Lanes.load(builder, _data(context, builder, bias, args[3]), args[4])
        results = _output_side(inputs)
        from_places = _places(builder, args[6], args[7], TILE)
        to_places = _places(builder, args[9], args[10], TILE)
        sums = [
            lanes + added + Lanes.load(builder, below, at)
            for lanes, at in zip(results, from_places, strict=True)
        ]
        for lanes, at in zip(sums, to_places, strict=True):
            lanes.store(written, at)
        return context.get_dummy_value()

    return signature, codegen


_map_input = _mapping(_input_side, _WINDOW)
_map_output = _mapping(_output_side, TILE)


@numba.njit(cache=True, nogil=True, fastmath=True)
def group_scales(maps: Any, weight: Any, bias: Any, groups: int, epsilon: float) -> Any:
    """What a group norm multiplies every channel by and adds to it.

    Args:
        maps: float32 (batch, height, width, channels).
        weight: float32 (channels,).
        bias: float32 (channels,).
        groups: How many.
        epsilon: Added to the variance.

    Returns:
        Two float32 arrays (batch, channels).
    """
    batch, height, width, channels = maps.shape
    each = channels // groups
    scale = np.empty((batch, channels), np.float32)
    shift = np.empty((batch, channels), np.float32)
    row = np.empty(channels, np.float32)
    total = np.empty(channels, np.float64)
    centre = np.empty(channels, np.float32)
    for n in range(batch):
        for second in range(2):
            total[:] = 0.0
            for y in range(height):
                row[:] = np.float32(0.0)
                if second == 0:
                    for x in range(width):
                        line = maps[n, y, x]
                        for c in range(channels):
                            row[c] += line[c]
                else:
                    for x in range(width):
                        line = maps[n, y, x]
                        for c in range(channels):
                            away = line[c] - centre[c]
                            row[c] += away * away
                for c in range(channels):
                    total[c] += row[c]
            for g in range(groups):
                mean = 0.0
                for c in range(g * each, (g + 1) * each):
                    mean += total[c]
                mean /= each * height * width
                for c in range(g * each, (g + 1) * each):
                    if second == 0:
                        centre[c] = mean
                    else:
                        scale[n, c] = weight[c] / np.sqrt(mean + epsilon)
                        shift[n, c] = bias[c] - centre[c] * scale[n, c]
    return scale, shift


@numba.njit(cache=True, nogil=True)
def to_tiles(maps: Any, scale: Any, shift: Any, activate: bool, tiles: Any) -> None:
    """B' d B of every tile, after a group norm and SiLU where wanted.

    Args:
        maps: float32 (batch, height, width, channels), height and width multiples of `TILE`.
        scale: float32 (batch, channels), of the norm; looked at only with `activate`.
        shift: The same, added.
        activate: Whether norm and SiLU stand before the convolution.
        tiles: Where to: float32 (36, batch * height * width / 16, channels).
    """
    batch, height, width, channels = maps.shape
    padded = np.zeros((height + 2, width + 2, channels), np.float32)
    strip = np.empty((_WINDOW, width + 2, channels), np.float32)
    row = (width + 2) * channels
    block = tiles.shape[1] * channels
    tile = 0
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                if activate:
                    begin = ((n * height + y) * width + x) * channels
                    to = (y + 1) * row + (x + 1) * channels
                    for c in range(0, channels, LANES):
                        _activate(maps, begin + c, scale, shift, n * channels + c, padded, to + c)
                else:
                    padded[y + 1, x + 1] = maps[n, y, x]
        for top in range(0, height, TILE):
            for place in range(0, row, LANES):
                _map_input(padded, top * row + place, row, strip, place, row)
            for left in range(0, width, TILE):
                for i in range(_WINDOW):
                    begin = i * row + left * channels
                    to = i * _WINDOW * block + tile * channels
                    for c in range(0, channels, LANES):
                        _map_input(strip, begin + c, channels, tiles, to + c, block)
                tile += 1


@numba.njit(cache=True, nogil=True)
def from_tiles(tiles: Any, bias: Any, base: Any, maps: Any) -> None:
    """A' m A of every tile, with what is to be added.

    Args:
        tiles: float32 (36, batch * height * width / 16, channels).
        bias: float32 (batch, channels), added everywhere.
        base: float32 (batch, height, width, channels) to be added, or (1, 1, 1, channels) of zeros.
        maps: Where to: float32 (batch, height, width, channels).
    """
    batch, height, width, channels = maps.shape
    block = tiles.shape[1] * channels
    strip = np.empty((TILE, _WINDOW, channels), np.float32)
    across = _WINDOW * channels
    based = base.shape[1] == height and base.shape[2] == width
    tile = 0
    for n in range(batch):
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                for j in range(_WINDOW):
                    begin = j * block + tile * channels
                    for c in range(0, channels, LANES):
                        _map_output(tiles, begin + c, _WINDOW * block, strip, j * channels + c, across)
                for i in range(TILE):
                    to = ((n * height + top + i) * width + left) * channels
                    for c in range(0, channels, LANES):
                        _finish(
                            strip,
                            i * across + c,
                            channels,
                            bias,
                            n * channels + c,
                            base,
                            to + c if based else c,
                            channels if based else 0,
                            maps,
                            to + c,
                            channels,
                        )
                tile += 1
