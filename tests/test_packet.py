import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.codec.packet import (
    HEADER_BYTES,
    MAX_STEP,
    Packet,
    pack,
    packet_bytes,
    reconstruction_checksum,
    unpack,
)
from latentcast.codec.refinement import Refinement, SymbolArray, encode_refinement
from latentcast.diffusion.path import NoisePath
from latentcast.errors import PacketError, ParameterError

PATH = NoisePath.stable_diffusion(50)
SAMPLE = np.array([-3.0, -0.7, -0.1, 0.2, 1.1, 2.5], np.float32)
REFERENCE = np.array([0.5, -0.5, 0.25, 0.0, 1.0, -1.0], np.float32)

GOLDEN = {
    1: "4c43110a780006000000055a046a6ba22a",
    3: "4c43110a782006000000ce26254c4c1be0a803",
    12: "4c43110a78b006000000906776eb0efe9d018bc176860b16ed",
    16: "4c43110a78f00600000080c486d5772f00c29ab966ae6632663c0041",
}


def refinement(symbols: SymbolArray, bits: int, step: int = 10, reference_step: int = 30) -> Refinement:
    return Refinement(
        step=step,
        reference_step=reference_step,
        bits=bits,
        symbols=symbols,
        reconstruction=np.zeros(symbols.shape, np.float32),
    )


def sealed(data: bytes) -> bytes:
    """The bytes with a CRC-32 that fits, so that a test reaches the checks behind it."""
    return data[:12] + zlib.crc32(data[16:], zlib.crc32(data[:12])).to_bytes(4, "little") + data[16:]


@pytest.mark.parametrize(("bits", "expected"), list(GOLDEN.items()))
def test_bytes_are_golden(bits: int, expected: str) -> None:
    made = encode_refinement(SAMPLE, REFERENCE, path=PATH, step=10, reference_step=30, bits=bits)
    assert pack(made).hex() == expected
    packet = unpack(bytes.fromhex(expected), latent_size=6)
    assert (packet.step, packet.reference_step, packet.bits) == (10, 30, bits)
    assert packet.checksum == reconstruction_checksum(made.reconstruction)
    assert np.array_equal(packet.symbols, made.symbols)


@given(st.integers(1, 16), st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(1, MAX_STEP), st.data())
def test_packets_round_trip(
    bits: int, size: int, seed: int, reference_step: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, reference_step - 1))
    limit = 0x7C00 if bits == 16 else 2**bits
    symbols = np.random.default_rng(seed).integers(0, limit, size).astype(np.uint16)
    packed = pack(refinement(symbols, bits, step, reference_step))
    assert len(packed) == packet_bytes(size, bits) == HEADER_BYTES + (size * bits + 7) // 8
    packet = unpack(packed, latent_size=size)
    assert (packet.step, packet.reference_step, packet.bits) == (step, reference_step, bits)
    assert packet.symbols.dtype == np.uint16
    assert np.array_equal(packet.symbols, symbols)


def test_symbols_are_packed_from_the_lowest_bit() -> None:
    symbols = np.array([0b101, 0b011, 0b110, 0b111], np.uint16)
    payload = pack(refinement(symbols, 3))[HEADER_BYTES:]
    assert int.from_bytes(payload, "little") == 0b111_110_011_101


def test_paper_sizes() -> None:
    assert HEADER_BYTES == 16
    assert [packet_bytes(16384, bits) - 16 for bits in (3, 4, 8, 10, 16)] == [6144, 8192, 16384, 20480, 32768]


def test_shape_and_container_do_not_matter() -> None:
    symbols = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    packed = pack(refinement(symbols, 5))
    for data in (packed, bytearray(packed), memoryview(packed)):
        assert np.array_equal(unpack(data, latent_size=24).symbols, symbols.ravel())


def test_checksum_tells_reconstructions_apart() -> None:
    latent = np.ones(100, np.float32)
    other = latent.copy()
    other[50] = np.nextafter(other[50], np.float32(2))
    assert reconstruction_checksum(latent) != reconstruction_checksum(other)
    assert reconstruction_checksum(latent.reshape(10, 10)) == reconstruction_checksum(latent)


def parsed(data: bytes, latent_size: int) -> Packet | None:
    try:
        return unpack(data, latent_size=latent_size)
    except PacketError:
        return None


def test_any_bytes_decode_or_raise_packet_error() -> None:
    rng = np.random.default_rng(0)
    packed = [pack(refinement(rng.integers(0, 2**b, 37).astype(np.uint16), b)) for b in (1, 3, 8, 12, 15)]
    accepted = 0
    for trial in range(20_000):
        if trial % 4 == 0:
            data = rng.bytes(int(rng.integers(0, 64)))
        else:
            mutable = bytearray(packed[trial % 5])
            for _ in range(int(rng.integers(1, 4))):
                mutable[int(rng.integers(len(mutable)))] ^= 1 << int(rng.integers(8))
            cut = int(rng.integers(len(mutable) + 1)) if trial % 4 == 1 else len(mutable)
            # With a fitting CRC the damage reaches everything behind it.
            data = sealed(bytes(mutable[:cut])) if trial % 4 == 2 else bytes(mutable[:cut])
        accepted += parsed(data, 37) is not None
    # Sealed damage of the payload alone is a valid packet.
    assert 0 < accepted < 5_000


def test_every_flipped_bit_and_every_truncation_is_noticed() -> None:
    packed = pack(refinement(np.arange(11, dtype=np.uint16), 5))
    for position in range(8 * len(packed)):
        mutable = bytearray(packed)
        mutable[position // 8] ^= 1 << position % 8
        assert parsed(bytes(mutable), 11) is None
    for length in range(len(packed)):
        assert parsed(packed[:length], 11) is None
    assert parsed(packed + b"\0", 11) is None


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0x58, "must start with"),
        (2, 0x21, "version 2"),
        (2, 0x12, "codec 2"),
        (3, 30, "refines step 30 to step 30"),
        (5, 0x40, "need 20"),
        (6, 7, "a latent of 7 numbers"),
        (18, 0xFF, "padding bits"),
    ],
)
def test_errors_say_what_is_wrong(offset: int, value: int, message: str) -> None:
    mutable = bytearray.fromhex(GOLDEN[3])
    mutable[offset] = value
    with pytest.raises(PacketError, match=message):
        unpack(sealed(bytes(mutable)), latent_size=6)


def test_damage_is_named() -> None:
    mutable = bytearray.fromhex(GOLDEN[3])
    mutable[-1] ^= 1
    with pytest.raises(PacketError, match="CRC-32"):
        unpack(bytes(mutable), latent_size=6)


def test_lossless_infinity_is_refused() -> None:
    data = sealed(pack(refinement(np.array([0, 0x7C00], np.uint16), 16)))
    with pytest.raises(PacketError, match="infinity or NaN"):
        unpack(data, latent_size=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_step": 1024}, "reference_step <= 1023"),
        ({"step": 30}, "step is 30"),
        ({"bits": 17}, "bits is 17"),
        ({"bits": 2}, "must stay below 4"),
        ({"symbols": np.zeros(0, np.uint16)}, "0 of uint16"),
        ({"symbols": np.zeros(3, np.int64)}, "3 of int64"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "step": 10,
        "reference_step": 30,
        "bits": 3,
        "symbols": np.array([7, 1, 0], np.uint16),
        "reconstruction": np.zeros(3, np.float32),
    }
    with pytest.raises(ParameterError, match=message):
        pack(Refinement(**{**values, **changes}))  # type: ignore[arg-type]
