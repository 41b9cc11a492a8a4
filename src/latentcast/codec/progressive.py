"""The progressive codec: packets of any length, each refining what matters most of what the device holds.

The device holds coefficients z, all zero at first. The server has a target y, its best estimate of the final
latent in the same coefficients, and codes parts of the innovation y - z: coefficients lie in scan order in
groups, a packet refines the groups with the most energy by trellis-coded quantisation with one step for all
(reverse waterfilling: what is refined ends with the same error), and the range coder writes them until the
packet is full. The scale of every group is written, not modelled, so that the device needs no knowledge of
the generator and whatever the statistics are, the code fits them.

The loop is closed: the server applies its own packets as the device does. All that the device computes is
integer arithmetic, one multiplication and one addition in float32 per coefficient.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.entropy import (
    BASE_CLASSES,
    CLASSES_PER_OCTAVE,
    MAX_CLASS,
    NUM_SHAPES,
    PRICE,
    entropy_model,
)
from latentcast.codec.innovation import NUM_STEPS, Innovation, group_size, step_size
from latentcast.codec.range_coder import CLASS_BITS, DAMAGED, HEADER_MISSING, decode_symbols, encode_symbols
from latentcast.codec.trellis import OFFSET_UNIT, search
from latentcast.errors import PacketError, ParameterError

__all__ = [
    "FINAL_MIN_CLASS",
    "MIN_CLASS",
    "Refined",
    "apply_packet",
    "group_size",
    "make_packet",
    "step_size",
]

FloatArray: TypeAlias = NDArray[np.float32]

MIN_CLASS = 4
"""Least scale class that is worth refining: about 0.95 bits per number; below, bits buy too little."""

FINAL_MIN_CLASS = 3
"""The same for x_0 itself, which later packets will not change."""

MAX_INNOVATION = 2.0**28
"""Largest |target - held| that the format reaches: the coarsest step at about the highest scale class."""

STEP_BITS = (NUM_STEPS - 1).bit_length()


@dataclass(frozen=True, eq=False, kw_only=True)
class Refined:
    """A packet, and where it leads.

    Attributes:
        data: the packet.
        held: what the device holds after it, float32 (M,).
        next_start: the coefficient after the last one that was read, where the next packet may go on.
        num_refined: coefficients that it carries.
        complete: whether all that was meant to be refined fitted in.
    """

    data: bytes
    held: FloatArray
    next_start: int
    num_refined: int
    complete: bool


def make_packet(
    target: FloatArray,
    held: FloatArray,
    *,
    max_bytes: int,
    horizon_bits: float,
    start: int = 0,
    final: bool = False,
    min_class: int = MIN_CLASS,
) -> Refined | None:
    """Code as much of target - held as a packet holds.

    The step is chosen such that refining every group that is worth it, in this packet and in those to come
    until the horizon, takes `horizon_bits`; the groups with the most energy come into this packet.

    Args:
        target: y, float32 (M,).
        held: z, float32 (M,).
        max_bytes: length of the packet.
        horizon_bits: bits until the pass ends, this packet's included; of no account if it is final.
        start: where the last packet ended (`next_start`); an unfinished group goes on from there.
        final: no other packet follows: try steps until all that should be refined fits.
        min_class: least scale class that is refined.

    Returns:
        The packet; None where nothing is worth a packet, or it is too short for anything.

    Raises:
        ParameterError: if the arrays do not fit, hold NaN or infinity, or lie farther apart than
            `MAX_INNOVATION`; or if the start is no coefficient.

    Example:
        >>> target = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
        >>> refined = make_packet(target, np.zeros_like(target), max_bytes=256, horizon_bits=2048)
        >>> len(refined.data), bool(np.mean((refined.held - target) ** 2) < 0.4)
        (256, True)
    """
    _check_held(held)
    if target.shape != held.shape or target.dtype != np.float32:
        raise ParameterError(
            f"target is {target.dtype} {target.shape} and held {held.dtype} {held.shape}; "
            "both must be float32 arrays of one axis and length"
        )
    if not 0 <= start < held.size:
        raise ParameterError(f"start is {start}; the coefficients are 0 .. {held.size - 1}")
    with np.errstate(invalid="ignore", over="ignore"):
        innovation = target - held
    farthest = float(np.abs(innovation).max())
    if not farthest <= MAX_INNOVATION:
        raise ParameterError(
            f"target and held are {farthest:g} apart; both must be finite, at most {MAX_INNOVATION:g} apart"
        )
    if 8 * max_bytes < sum(_header_bits(held.size)) + CLASS_BITS:
        return None
    ring = Innovation.seen_from(start, innovation)
    bits = (8 * max_bytes if final else horizon_bits) - sum(_header_bits(held.size))
    index, finest = ring.step_for(entropy_model(ring.shape), bits, min_class), ring.finest_step()
    index = max(0, index - 1) if final else index  # the entropy model says a little too few bits
    best: tuple[bytes, bool] | None = None
    tried: set[int] = set()
    while 0 <= index <= finest and index not in tried:
        tried.add(index)
        made = _encode(ring, index, max_bytes, min_class)
        if made is None:
            break
        data, complete = made
        if complete or best is None:
            best = made
        if not final or (complete and 8 * (max_bytes - len(data)) < ring.bits_to_next_step(index, min_class)):
            break
        # Finer while all fits, coarser until it does.
        index += 1 if complete else -1
    if best is None:
        return None
    data, complete = best
    refined = apply_packet(data, held)
    return replace(refined, complete=complete) if refined.num_refined > 0 else None


def apply_packet(data: bytes | bytearray | memoryview, held: FloatArray) -> Refined:
    """What the device holds after a packet, or after the part of it that arrived.

    Args:
        data: a packet, or any first part of one.
        held: what the device holds, float32 (M,).

    Returns:
        The result; `complete` tells nothing here.

    Raises:
        PacketError: if the bytes are not a packet. The device keeps what it holds.
        ParameterError: if `held` is not a float32 array of one axis.

    Example:
        >>> target = np.linspace(-2, 2, 64, dtype=np.float32)
        >>> refined = make_packet(target, np.zeros(64, np.float32), max_bytes=40, horizon_bits=320)
        >>> bool(np.all(apply_packet(refined.data, np.zeros(64, np.float32)).held == refined.held))
        True
    """
    _check_held(held)
    content = np.frombuffer(bytes(data), np.uint8)
    after = held.copy()
    refined, reached, start, status = decode_symbols(
        content,
        np.array(_header_bits(held.size), np.int64),
        after,
        group_size(held.size),
        MAX_CLASS,
        *_tables(),
        CLASSES_PER_OCTAVE,
        _sixty_fourths(),
    )
    if status == HEADER_MISSING:
        raise PacketError(f"a packet of {content.size} bytes is shorter than its header")
    if status == DAMAGED or not np.isfinite(after).all():
        raise PacketError("a packet describes what no encoder writes; it was damaged on its way")
    return Refined(
        data=bytes(data),
        held=after,
        next_start=(start + reached) % held.size,
        num_refined=refined,
        complete=True,
    )


def _encode(innovation: Innovation, index: int, max_bytes: int, min_class: int) -> tuple[bytes, bool] | None:
    """The packet at one step, and whether all that was meant to be refined fitted in."""
    shape = innovation.shape
    model = entropy_model(shape)
    classes = innovation.refined(index, model, max_bytes, min_class)
    if classes.max() < 0:
        return None
    if classes[0] < 0:
        # A packet begins with a group that it refines, a whole one where it does not go on with another's.
        size = innovation.values.size
        begin = int(innovation.start + innovation.edges[np.argmax(classes >= 0)]) % size
        innovation = Innovation.seen_from(begin, innovation.values)
        classes = innovation.refined(index, model, max_bytes, min_class)
        classes[0] = max(0, innovation.classes(index)[0])
    values, per_value = innovation.scaled(index, classes)
    k, _ = search(values, per_value, model.cost_bits, model.offset, PRICE, BASE_CLASSES, CLASSES_PER_OCTAVE)
    out = np.zeros(max_bytes, np.uint8)
    length = encode_symbols(
        np.array([index, shape, innovation.start], np.int64),
        np.array(_header_bits(innovation.values.size), np.int64),
        innovation.edges,
        classes,
        k,
        model.cumulative,
        CLASSES_PER_OCTAVE,
        out,
    )
    return out[:length].tobytes(), length <= max_bytes


def _check_held(held: FloatArray) -> None:
    if held.dtype != np.float32 or held.ndim != 1 or held.size == 0:
        raise ParameterError(
            f"held is {held.dtype} {held.shape}; it must be float32, of one axis, with at least one number"
        )


def _header_bits(latent_size: int) -> tuple[int, int, int]:
    """Bits of step, shape and start."""
    return STEP_BITS, (NUM_SHAPES - 1).bit_length(), max(1, (latent_size - 1).bit_length())


@cache
def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cumulative frequencies and reconstruction offsets of all shapes."""
    models = [entropy_model(shape) for shape in range(NUM_SHAPES)]
    return np.stack([m.cumulative for m in models]), np.stack([m.offset_units for m in models])


@cache
def _sixty_fourths() -> FloatArray:
    """A 64th of every half step; exact, since 64 is a power of two."""
    return np.array([step_size(index) for index in range(NUM_STEPS)], np.float32) / np.float32(OFFSET_UNIT)
