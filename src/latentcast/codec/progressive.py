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
    EntropyModel,
    entropy_model,
    scale_class,
)
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

STEP_BITS = 10
STEPS_PER_OCTAVE = 32
TOP_EXPONENT = 4
NUM_STEPS = 1 << STEP_BITS
_CLASS_BITS = 2.5
_SLACK = 1.15


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


def group_size(latent_size: int) -> int:
    """Coefficients in a group: small ones follow the statistics, large ones cost less to describe.

    Example:
        >>> group_size(16384), group_size(1024)
        (128, 64)
    """
    return 64 if latent_size < 8192 else 128


def step_size(index: int) -> np.float32:
    """Half step number `index`, 2^(4 - index / 32).

    Example:
        >>> float(step_size(128)), float(step_size(1023)) < 4e-9
        (1.0, True)
    """
    octave, part = divmod(index, STEPS_PER_OCTAVE)
    # Only the fraction is rounded: powers of two are exact.
    return np.float32(
        np.float32(2.0 ** (-part / STEPS_PER_OCTAVE)) * np.float32(2.0 ** (TOP_EXPONENT - octave))
    )


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
    pieces = _Pieces.of(innovation, start)
    shape = pieces.shape()
    bits = (8 * max_bytes if final else horizon_bits) - sum(_header_bits(held.size))
    index = pieces.step_for(entropy_model(shape), bits, min_class)
    best: Refined | None = None
    tried: set[int] = set()
    while 0 <= index <= pieces.finest_step() and index not in tried:
        tried.add(index)
        refined = _encode(pieces, held, index, shape, max_bytes, min_class)
        if refined is None:
            break
        if refined.complete or best is None:
            best = refined
        if not final:
            break
        # Finer while all fits, coarser until it does.
        index += 1 if refined.complete else -1
    return best


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


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The innovation as a ring of groups from a start, the first and last of which may be parts of one."""

    values: FloatArray  # from the start
    start: int
    edges: NDArray[np.int64]
    energy: NDArray[np.float64]  # mean square of each group

    @classmethod
    def of(cls, innovation: FloatArray, start: int) -> "_Pieces":
        size, group = innovation.size, group_size(innovation.size)
        bounds = np.append(np.arange(0, size, group), size)
        places = np.unique(np.concatenate(([0, size], (bounds - start) % size)))
        values = np.roll(innovation, -start)
        squares = np.square(values, dtype=np.float64)
        energy = np.add.reduceat(squares, places[:-1]) / np.diff(places)
        return cls(values=values, start=start, edges=places.astype(np.int64), energy=energy)

    def shape(self) -> int:
        """Which tables fit the values, scaled by their groups, better."""
        deviation = np.repeat(np.sqrt(self.energy), np.diff(self.edges))
        scaled = np.abs(self.values[deviation > 0]) / deviation[deviation > 0]
        # Mean magnitude over deviation is 0.798 for Gaussian numbers and 0.707 for Laplacian ones.
        return int(scaled.size > 0 and float(scaled.mean()) < 0.755)

    def classes(self, index: int) -> NDArray[np.int32]:
        return scale_class(np.sqrt(self.energy) / float(step_size(index)))

    def choose(self, index: int, model: EntropyModel, max_bytes: int, min_class: int) -> NDArray[np.bool_]:
        """The groups with the most energy of those worth refining, somewhat more than a packet holds.

        Energies are told apart by octaves, and groups within one follow each other: a jump costs six bits. What
        is left of a group that the last packet began comes first.
        """
        classes = self.classes(index)
        worth = np.flatnonzero((classes >= min_class) & (classes <= MAX_CLASS))
        octaves = np.floor(np.log2(self.energy.max() / np.maximum(self.energy[worth], 1e-300)))
        if self.start % group_size(self.values.size):
            octaves[worth == 0] = -1.0
        by_energy = worth[np.argsort(octaves, kind="stable")]
        bits = np.cumsum(model.rate_bits[classes[by_energy]] * np.diff(self.edges)[by_energy])
        count = 2 + int(np.searchsorted(bits, 8 * max_bytes * _SLACK))
        chosen = np.zeros(classes.size, bool)
        chosen[by_energy[:count]] = True
        return chosen

    def finest_step(self) -> int:
        """The finest step at which no group lies above the highest class."""
        octave = float(np.log2(max(np.sqrt(self.energy.max()), 2.0**-40)))
        index = (TOP_EXPONENT - octave) * STEPS_PER_OCTAVE
        return int(np.clip(index + (MAX_CLASS - 4) * STEPS_PER_OCTAVE / CLASSES_PER_OCTAVE, 0, NUM_STEPS - 1))

    def step_for(self, model: EntropyModel, bits: float, min_class: int) -> int:
        """The coarsest step whose refinements take at least that many bits, of all steps the finest."""
        sizes = np.diff(self.edges)
        octaves = CLASSES_PER_OCTAVE * np.log2(np.maximum(np.sqrt(self.energy), 2.0**-40))
        low, high = -1, self.finest_step()
        while high - low > 1:
            middle = (low + high) // 2
            # As scale_class, of all groups at once.
            number = np.rint(octaves - CLASSES_PER_OCTAVE * np.log2(float(step_size(middle)))) + 4
            worth = number >= min_class
            rate = model.rate_bits[np.clip(number, 0, MAX_CLASS).astype(np.int64)]
            if np.sum((rate * sizes + _CLASS_BITS)[worth]) >= bits:
                high = middle
            else:
                low = middle
        return high


def _encode(
    pieces: _Pieces, held: FloatArray, index: int, shape: int, max_bytes: int, min_class: int
) -> Refined | None:
    chosen = pieces.choose(index, entropy_model(shape), max_bytes, min_class)
    if not chosen.any():
        return None
    if not chosen[0]:
        # A packet begins with a group that it refines, a whole one where it does not go on with another's.
        begin = int(pieces.start + pieces.edges[np.argmax(chosen)]) % held.size
        pieces = _Pieces.of(np.roll(pieces.values, pieces.start), begin)
        chosen = pieces.choose(index, entropy_model(shape), max_bytes, min_class)
        chosen[0] = True
    model = entropy_model(shape)
    classes = np.where(chosen, np.maximum(pieces.classes(index), 0), -1)
    per_value = np.repeat(classes, np.diff(pieces.edges))
    values = pieces.values[per_value >= 0] / step_size(index)
    k, _ = search(
        values,
        per_value[per_value >= 0],
        model.cost_bits,
        model.offset,
        PRICE,
        BASE_CLASSES,
        CLASSES_PER_OCTAVE,
    )
    out = np.zeros(max_bytes, np.uint8)
    length = encode_symbols(
        np.array([index, shape, pieces.start], np.int64),
        np.array(_header_bits(held.size), np.int64),
        pieces.edges,
        classes.astype(np.int64),
        k,
        model.cumulative,
        CLASSES_PER_OCTAVE,
        out,
    )
    refined = apply_packet(out[:length].tobytes(), held)
    if refined.num_refined == 0:
        return None
    return replace(refined, complete=refined.num_refined == values.size)


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
