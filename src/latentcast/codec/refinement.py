"""Refinements: encode and decode on arrays (Section III-B of the paper).

Server and device must hold the same latent to the last bit, because every refinement builds on the one
before. So the device's arithmetic is fixed: float32, element-wise, in the written order, with codebook levels
that are whole multiples of 2^-20; and the encoder gets its reconstruction by calling the decoder.
"""

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.codec.predictor import Prediction, paper_prediction
from latentcast.codec.quantizer import LOSSLESS_BITS, lloyd_max
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

__all__ = ["Refinement", "decode_refinement", "encode_refinement"]

FloatArray: TypeAlias = NDArray[np.float32]
SymbolArray: TypeAlias = NDArray[np.uint16]

# float32 holds multiples of 2^-20 below 16 exactly; the outermost level of 15 bits is 6.93. On this grid
# rounding differences between mathematical libraries, 1e-12 up to 10 bits, do not reach the device.
LEVEL_GRID = 2.0**20

# The search for a cell starts from a table over this range, beyond all thresholds.
TABLE_REACH = 8.0

FLOAT16_MAX = 65504.0
FLOAT16_EXPONENT = 0x7C00


@dataclass(frozen=True, kw_only=True, eq=False)
class Refinement:
    """One encoded refinement.

    Attributes:
        step: t, the step that it describes.
        reference_step: t_p, the step that it builds on.
        bits: b, bits per dimension.
        symbols: uint16, the latent's shape; indices of Lloyd-Max cells, or for 16 bits the float16 patterns
            of x_t.
        reconstruction: x_hat_t, float32, the latent's shape; exactly what the device will hold.
    """

    step: int
    reference_step: int
    bits: int
    symbols: SymbolArray
    reconstruction: FloatArray


def encode_refinement(
    sample: ArrayLike, reference: ArrayLike, *, path: NoisePath, step: int, reference_step: int, bits: int
) -> Refinement:
    """Quantise sample x_t against the device's latent (eqs. 4-7).

    z = (x_t - gain x_hat_tp) / scale is quantised by the Lloyd-Max quantiser of N(0, 1), with
    `paper_prediction`'s gain and scale. The loop is closed: x_hat_tp is the device's reconstruction. At 16
    bits x_t itself is sent as float16.

    Args:
        sample: x_t, shape (..., C, H, W) or any other; taken as float32.
        reference: x_hat_tp, the device's latent, same shape; of no effect for reference_step T and for 16
            bits.
        path: a variance-preserving noise path.
        step: t.
        reference_step: t_p > t.
        bits: b, 1..15, or 16 for float16.

    Returns:
        The refinement, with the reconstruction that the device will hold.

    Raises:
        ParameterError: if steps or bits are out of range, the shapes differ, an array is empty or not finite,
            or a value exceeds float16 at 16 bits.

    Example:
        >>> path = NoisePath.stable_diffusion(50)
        >>> sample, noise = np.array([0.1, -2.0], np.float32), np.zeros(2, np.float32)
        >>> refinement = encode_refinement(sample, noise, path=path, step=10, reference_step=50, bits=3)
        >>> refinement.symbols.tolist(), refinement.reconstruction.round(3).tolist()
        ([4, 0], [0.24500000476837158, -2.1519999504089355])
    """
    prediction = paper_prediction(path, step, reference_step)
    bits = _checked_bits(bits)
    target = _latent("sample", sample)
    base = _latent("reference", reference)
    if target.shape != base.shape:
        raise ParameterError(
            f"sample has shape {target.shape} and reference {base.shape}; they must be the same"
        )
    if bits == LOSSLESS_BITS:
        if np.abs(target).max() > FLOAT16_MAX:
            raise ParameterError(f"sample reaches {np.abs(target).max():g}; float16 ends at {FLOAT16_MAX:g}")
        symbols: SymbolArray = target.astype(np.float16).view(np.uint16)
    else:
        with np.errstate(over="ignore"):
            standardised = (target - _predicted(base, prediction)) / np.float32(prediction.scale)
        symbols = _quantize(standardised, bits)
    reconstruction = _decode(symbols, base, prediction, bits)
    return Refinement(
        step=int(step),
        reference_step=int(reference_step),
        bits=bits,
        symbols=symbols,
        reconstruction=reconstruction,
    )


def decode_refinement(
    symbols: ArrayLike, reference: ArrayLike, *, path: NoisePath, step: int, reference_step: int, bits: int
) -> FloatArray:
    """The device's new latent, x_hat_t = gain x_hat_tp + scale z_hat (eq. 5), bit-exact on every device.

    Args:
        symbols: uint16, the latent's shape, as in `Refinement`.
        reference: x_hat_tp, the device's latent, same shape.
        path: a variance-preserving noise path.
        step: t.
        reference_step: t_p > t.
        bits: b, 1..16.

    Returns:
        x_hat_t, float32, C-contiguous, the latent's shape.

    Raises:
        ParameterError: if steps or bits are out of range, the shapes differ, an array is empty, the reference
            is not finite, a symbol is 2^bits or more, or a float16 pattern is not a finite number.

    Example:
        >>> path = NoisePath.stable_diffusion(50)
        >>> symbols = np.array([4, 0], np.uint16)
        >>> latent = decode_refinement(symbols, np.zeros(2), path=path, step=10, reference_step=50, bits=3)
        >>> latent.round(3).tolist()
        [0.24500000476837158, -2.1519999504089355]
    """
    prediction = paper_prediction(path, step, reference_step)
    bits = _checked_bits(bits)
    base = _latent("reference", reference)
    received = np.ascontiguousarray(symbols)
    if received.dtype != np.uint16:
        raise ParameterError(f"symbols have dtype {received.dtype}; they must be uint16")
    if received.shape != base.shape:
        raise ParameterError(
            f"symbols have shape {received.shape} and reference {base.shape}; make them the same"
        )
    if bits == LOSSLESS_BITS:
        if np.any(received & FLOAT16_EXPONENT == FLOAT16_EXPONENT):
            raise ParameterError(
                "symbols hold float16 patterns of infinity or NaN; every pattern must be finite"
            )
    elif received.max() >> bits:
        raise ParameterError(
            f"symbols reach {received.max()}; with {bits} bits they must stay below {1 << bits}"
        )
    return _decode(received, base, prediction, bits)


def _decode(symbols: SymbolArray, base: FloatArray, prediction: Prediction, bits: int) -> FloatArray:
    if bits == LOSSLESS_BITS:
        return symbols.view(np.float16).astype(np.float32)
    decoded = _codebook(bits).levels[symbols]
    decoded *= np.float32(prediction.scale)
    if prediction.gain != 0.0:
        with np.errstate(over="ignore"):
            decoded += _predicted(base, prediction)
        if not np.isfinite(decoded).all():
            raise ParameterError(
                f"reference reaches {np.abs(base).max():g}; the refined latent overflows float32"
            )
    return decoded


def _predicted(base: FloatArray, prediction: Prediction) -> FloatArray:
    # A gain of 0 would turn -x into -0, which is another bit pattern.
    if prediction.gain == 0.0:
        return np.zeros_like(base)
    return base * np.float32(prediction.gain)


@dataclass(frozen=True, eq=False)
class _Codebook:
    levels: FloatArray
    thresholds: FloatArray  # with +inf appended, which no value passes
    cells: SymbolArray  # cell at the lower end of every bucket
    buckets_per_unit: np.float32


@cache
def _codebook(bits: int) -> _Codebook:
    """Device levels, and a bucket table that replaces the binary search for a cell.

    Buckets are so narrow that none holds two thresholds: the cell at a bucket's lower end is right or one too
    low.
    """
    quantizer = lloyd_max(bits)
    levels = (np.rint(quantizer.levels * LEVEL_GRID) / LEVEL_GRID).astype(np.float32)
    thresholds = quantizer.thresholds.astype(np.float32)
    per_unit = 1
    while thresholds.size > 1 and float(np.diff(thresholds).min()) * per_unit < 2.0:
        per_unit *= 2
    # _quantize rounds positions up to 16, by up to 2^-21 of a unit: a bucket starts that much earlier.
    lower_ends = np.arange(int(2 * TABLE_REACH) * per_unit + 1) / per_unit - TABLE_REACH - 2.0**-20
    cells = np.searchsorted(thresholds, lower_ends, side="right").astype(np.uint16)
    return _Codebook(
        levels=levels,
        thresholds=np.append(thresholds, np.float32(np.inf)),
        cells=cells,
        buckets_per_unit=np.float32(per_unit),
    )


def _quantize(values: FloatArray, bits: int) -> SymbolArray:
    """Index of the cell that holds each value; an infinite value belongs to the outermost cell."""
    book = _codebook(bits)
    position = np.clip(values, np.float32(-TABLE_REACH), np.float32(TABLE_REACH))
    position += np.float32(TABLE_REACH)
    position *= book.buckets_per_unit
    symbols: SymbolArray = book.cells[position.astype(np.int32)]
    symbols += values >= book.thresholds[symbols]
    return symbols


def _checked_bits(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= LOSSLESS_BITS:
        raise ParameterError(f"bits is {bits!r}; it must be a whole number, 1..{LOSSLESS_BITS}")
    return int(bits)


def _latent(name: str, values: ArrayLike) -> FloatArray:
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} is not an array of numbers; it must be a float32 latent") from None
    if array.size == 0:
        raise ParameterError(f"{name} has shape {array.shape}; a latent needs at least one number")
    if not np.isfinite(array).all():
        raise ParameterError(f"{name} holds NaN or infinity; every number of a latent must be finite")
    return array
