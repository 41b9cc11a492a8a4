"""Packets: one refinement as bytes.

All fields are little-endian. The header takes 16 bytes:

| offset | bytes | field |
| --- | --- | --- |
| 0 | 2 | magic "LC" |
| 2 | 1 | version (high four bits, 1) and codec (low four bits, 1: the paper's fixed-rate codec) |
| 3 | 3 | step t (10 bits, lowest), reference step t_p (10 bits), bits per dimension minus 1 (4 bits) |
| 6 | 4 | latent size M |
| 10 | 2 | checksum of the reconstruction: low half of the CRC-32 of x_hat_t as little-endian float32 |
| 12 | 4 | CRC-32 of everything before it and of the payload |

The payload is ceil(M b / 8) bytes: symbol i occupies bits i b .. (i + 1) b - 1, bit 0 of a byte is its
lowest, and the bits after the last symbol are 0. The CRC-32 protects the bytes on their way; the 16-bit
checksum tells a device whose arithmetic differs that its latent has drifted from the server's, with certainty
1 - 2^-16 per packet.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.codec.refinement import FLOAT16_EXPONENT, Refinement
from latentcast.errors import PacketError, ParameterError

__all__ = [
    "HEADER_BYTES",
    "MAX_LATENT_SIZE",
    "MAX_STEP",
    "Packet",
    "pack",
    "packet_bytes",
    "reconstruction_checksum",
    "unpack",
]

SymbolArray: TypeAlias = NDArray[np.uint16]

MAGIC = b"LC"
VERSION = 1
PAPER_CODEC = 1

FIELDS = struct.Struct("<2sB3sIH")
CRC = struct.Struct("<I")
HEADER_BYTES = FIELDS.size + CRC.size

STEP_BITS = 10
MAX_STEP = (1 << STEP_BITS) - 1
MAX_LATENT_SIZE = 2**32 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Packet:
    """What a packet carries.

    Attributes:
        step: t, the step that the refinement describes.
        reference_step: t_p > t, the step that it builds on.
        bits: b, bits per dimension, 1..16.
        symbols: uint16, shape (M,), the latent's numbers in C order.
        checksum: `reconstruction_checksum` of what the device must hold after it.
    """

    step: int
    reference_step: int
    bits: int
    symbols: SymbolArray
    checksum: int


def packet_bytes(latent_size: int, bits: int) -> int:
    """Length of a packet in bytes, header included: 16 + ceil(M b / 8).

    Example:
        >>> packet_bytes(16384, 3)
        6160
    """
    return HEADER_BYTES + _payload_bytes(latent_size, bits)


def reconstruction_checksum(reconstruction: NDArray[np.float32]) -> int:
    """Low 16 bits of the CRC-32 of a float32 latent's bytes, little-endian and in C order.

    Example:
        >>> reconstruction_checksum(np.zeros(4, np.float32))
        19285
    """
    latent = np.ascontiguousarray(reconstruction, dtype="<f4")
    return zlib.crc32(latent.data.cast("B")) & 0xFFFF


def pack(refinement: Refinement) -> bytes:
    """The bytes of a refinement of one latent.

    Args:
        refinement: what `encode_refinement` made of one latent, not of a batch.

    Raises:
        ParameterError: if the latent or a step is too large for the format, or a symbol does not fit its
            bits.

    Example:
        >>> refinement = Refinement(
        ...     step=10,
        ...     reference_step=50,
        ...     bits=3,
        ...     symbols=np.array([4, 0, 7], np.uint16),
        ...     reconstruction=np.zeros(3, np.float32),
        ... )
        >>> pack(refinement)[-2:].hex()  # the payload; the header stands before it
        'c401'
    """
    step, reference_step, bits = int(refinement.step), int(refinement.reference_step), int(refinement.bits)
    symbols = np.ascontiguousarray(refinement.symbols).reshape(-1)
    if not 0 <= step < reference_step <= MAX_STEP:
        raise ParameterError(
            f"step is {step} and reference_step {reference_step}; "
            f"a packet needs 0 <= step < reference_step <= {MAX_STEP}"
        )
    if not 1 <= bits <= LOSSLESS_BITS:
        raise ParameterError(f"bits is {bits}; a packet needs 1..{LOSSLESS_BITS}")
    if symbols.dtype != np.uint16 or not 1 <= symbols.size <= MAX_LATENT_SIZE:
        raise ParameterError(
            f"symbols are {symbols.size} of {symbols.dtype}; a packet needs 1..{MAX_LATENT_SIZE} of uint16"
        )
    if int(symbols.max()) >> bits:
        raise ParameterError(
            f"symbols reach {symbols.max()}; with {bits} bits they must stay below {1 << bits}"
        )
    word = step | reference_step << STEP_BITS | (bits - 1) << 2 * STEP_BITS
    fields = FIELDS.pack(
        MAGIC,
        VERSION << 4 | PAPER_CODEC,
        word.to_bytes(3, "little"),
        symbols.size,
        reconstruction_checksum(refinement.reconstruction),
    )
    payload = _pack_symbols(symbols, bits)
    return fields + CRC.pack(zlib.crc32(payload, zlib.crc32(fields))) + payload


def unpack(data: bytes | bytearray | memoryview, *, latent_size: int) -> Packet:
    """The packet that the bytes are; any bytes give a packet or a PacketError, nothing else.

    Args:
        data: one whole packet.
        latent_size: M of the latent that the device holds.

    Raises:
        PacketError: if the bytes are not a valid packet for a latent of this size.

    Example:
        >>> unpack(b"LC", latent_size=4)
        Traceback (most recent call last):
        ...
        latentcast.errors.PacketError: a packet of 2 bytes is shorter than its header of 16
    """
    data = bytes(data)
    if len(data) < HEADER_BYTES:
        raise PacketError(f"a packet of {len(data)} bytes is shorter than its header of {HEADER_BYTES}")
    magic, kind, word_bytes, size, checksum = FIELDS.unpack_from(data)
    if magic != MAGIC:
        raise PacketError(f"a packet starts with {magic!r}; it must start with {MAGIC!r}")
    if kind >> 4 != VERSION:
        raise PacketError(f"a packet has version {kind >> 4}; this receiver reads version {VERSION}")
    if kind & 15 != PAPER_CODEC:
        raise PacketError(f"a packet has codec {kind & 15}; this receiver knows codec {PAPER_CODEC}")
    if size != latent_size:
        raise PacketError(f"a packet describes a latent of {size} numbers; the device holds {latent_size}")
    word = int.from_bytes(word_bytes, "little")
    step, reference_step = word & MAX_STEP, word >> STEP_BITS & MAX_STEP
    bits = (word >> 2 * STEP_BITS) + 1
    if step >= reference_step:
        raise PacketError(f"a packet refines step {reference_step} to step {step}; steps must fall")
    if len(data) != packet_bytes(size, bits):
        raise PacketError(
            f"a packet of {len(data)} bytes; {size} numbers at {bits} bits need {packet_bytes(size, bits)}"
        )
    payload = data[HEADER_BYTES:]
    (crc,) = CRC.unpack_from(data, FIELDS.size)
    if crc != zlib.crc32(payload, zlib.crc32(data[: FIELDS.size])):
        raise PacketError("a packet's CRC-32 does not match its content; it was damaged on its way")
    used = size * bits % 8
    if used and payload[-1] >> used:
        raise PacketError("a packet's padding bits are not 0")
    symbols = _unpack_symbols(payload, size, bits)
    if bits == LOSSLESS_BITS and np.any(symbols & FLOAT16_EXPONENT == FLOAT16_EXPONENT):
        raise PacketError("a lossless packet holds infinity or NaN; every number must be finite")
    return Packet(step=step, reference_step=reference_step, bits=bits, symbols=symbols, checksum=checksum)


def _payload_bytes(latent_size: int, bits: int) -> int:
    return -(-latent_size * bits // 8)


def _pack_symbols(symbols: SymbolArray, bits: int) -> bytes:
    if bits == 16:
        return symbols.astype("<u2", copy=False).tobytes()
    if bits == 8:
        return symbols.astype(np.uint8).tobytes()
    octets = symbols.astype("<u2", copy=False).view(np.uint8).reshape(-1, 2)
    digits = np.unpackbits(octets, axis=1, count=bits, bitorder="little")
    return np.packbits(digits, bitorder="little").tobytes()


def _unpack_symbols(payload: bytes, latent_size: int, bits: int) -> SymbolArray:
    if bits == 16:
        return np.frombuffer(payload, dtype="<u2").astype(np.uint16)
    if bits == 8:
        return np.frombuffer(payload, dtype=np.uint8).astype(np.uint16)
    stream = np.frombuffer(payload, dtype=np.uint8)
    digits = np.unpackbits(stream, count=latent_size * bits, bitorder="little").reshape(-1, bits)
    octets = np.zeros((latent_size, 2), dtype=np.uint8)
    packed = np.packbits(digits, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return octets.view("<u2").reshape(-1).astype(np.uint16)
