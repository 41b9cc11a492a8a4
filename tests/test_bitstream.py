"""A second decoder, written from docs/bitstream.md alone, in plain Python."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import latentcast.codec
from latentcast.codec.bands import Bands
from latentcast.codec.packet import pack
from latentcast.codec.progressive import MAX_INNOVATION, apply_packet, make_packet, step_size
from latentcast.codec.refinement import encode_refinement
from latentcast.diffusion.path import NoisePath
from latentcast.errors import PacketError

FloatArray = NDArray[np.float32]

DOCUMENT = Path(__file__).parents[1] / "docs" / "bitstream.md"

STORED = (Path(latentcast.codec.__file__).parent / "tables.npy").read_bytes()[128:]
TABLES = np.frombuffer(STORED, "<u2").reshape(2, 3, 20, 2, 24).astype(int).tolist()
NEXT_STATE = [[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]]
FIRST_COUNTS = [400, 300, 300, 180, 180, 100, 100, 60, 60, 30, 30, 20, 20, 10, 10, 10]


class UndeterminedError(Exception):
    """The bytes do not tell the next symbol."""


class DamagedError(Exception):
    """No encoder writes this."""


class Coder:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0
        self.code, self.unknown, self.width = 0, 0, 1
        for _ in range(4):
            self.take()
        self.width = 0xFFFFFFFF
        self.trace: list[str] = []

    def take(self) -> None:
        self.code, self.unknown, self.width = self.code * 256, self.unknown * 256, self.width * 256
        if self.place < len(self.data):
            self.code += self.data[self.place]
        else:
            self.unknown += 255
        self.place += 1

    def accept(self, below: int, frequency: int, unit: int) -> None:
        self.code -= unit * below
        self.width = unit * frequency
        if self.code >= self.width:
            raise DamagedError
        while self.width < 1 << 24:
            self.take()

    def symbol(self, frequencies: list[int], name: str = "") -> int:
        """The symbol whose share both ends of what the code value may be lie in."""
        unit = self.width // sum(frequencies)
        highest = min(self.code + self.unknown, self.width - 1)
        below = 0
        for symbol, frequency in enumerate(frequencies):
            last = symbol == len(frequencies) - 1
            if last or self.code < unit * (below + frequency):
                break
            below += frequency
        if not last and highest >= unit * (below + frequency):
            raise UndeterminedError
        self.accept(below, frequency, unit)
        self.trace.append(f"{name} {symbol}")
        return symbol

    def plain(self, bits: int, name: str = "") -> int:
        value = 0
        while bits > 0:
            part = min(bits, 12)
            bits -= part
            value = value << part | self.plain_part(part, name)
        return value

    def plain_part(self, bits: int, name: str) -> int:
        unit = self.width >> bits
        end = (1 << bits) - 1
        value = min(self.code // unit, end)
        if value != min(min(self.code + self.unknown, self.width - 1) // unit, end):
            raise UndeterminedError
        self.accept(value, 1, unit)
        self.trace.append(f"{name} {value}")
        return value


def decode(data: bytes, held: FloatArray) -> tuple[FloatArray, list[str]]:
    """What the device holds after a packet, and the symbols in it."""
    size, held, coder = held.size, held.copy(), Coder(data)
    index = coder.plain(10, "step")
    shape = coder.plain(1, "shape")
    start = coder.plain(max(1, (size - 1).bit_length()), "start")
    if start >= size:
        raise DamagedError
    unit = np.float32(step_size(index)) / np.float32(64)
    group = 64 if size < 8192 else 128
    chance, before, counts, last_class, state, low = [2048, 3072], 1, FIRST_COUNTS.copy(), -1, 0, 0
    try:
        while low < size:
            place = (start + low) % size
            high = min(low + group - place % group, low + size - place, size)
            if low > 0:
                flag = 1 - coder.symbol([chance[before], 4096 - chance[before]], "not refined")
                if flag:
                    chance[before] += (4064 - chance[before]) >> 4
                else:
                    chance[before] -= (chance[before] - 32) >> 4
                before = flag
                if not flag:
                    low = high
                    continue
            change = 15
            if last_class >= 0:
                change = coder.symbol(counts, "change")
                counts[change] += 24
                if sum(counts) > 3800:
                    counts = [(count + 1) >> 1 for count in counts]
            if change == 15:
                number = coder.plain(7, "class")
            else:
                number = last_class + (change // 2 if change % 2 == 0 else -(change + 1) // 2)
            if not 0 <= number <= 107:
                raise DamagedError
            last_class = number
            shift = max(0, (number - 16) // 4)
            row = number - 4 * shift
            for position in range(low, high):
                quantizer = state % 2
                symbol = magnitude = coder.symbol(TABLES[shape][0][row][quantizer], "magnitude")
                if symbol == 23:
                    digits = 0
                    while coder.plain(1, "digit"):
                        digits += 1
                        if digits == 9:
                            raise DamagedError
                    magnitude = 22 + (1 << digits) + coder.plain(digits, "rest")
                if shift > 0 and magnitude == 0:
                    magnitude = coder.plain(shift - 1, "low bits") if quantizer == 0 else 0
                elif shift > 0:
                    lift = (1 << (shift - 1)) if quantizer == 0 else (1 << shift) - 1
                    magnitude = (magnitude << shift) + coder.plain(shift, "low bits") - lift
                if magnitude > 0:
                    sign = coder.plain(1, "negative")
                    point = (2 * magnitude - quantizer) * 64
                    if shift == 0:
                        point -= TABLES[shape][1][row][quantizer][symbol]
                    where = (start + position) % size
                    held[where] += np.float32(-point if sign else point) * unit
                state = NEXT_STATE[state][magnitude % 2]
            low = high
    except UndeterminedError:
        pass
    return held, coder.trace


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2, 63, 65, 700, 8_200]),
    st.integers(6, 1_000),
    st.floats(-3, 6),
    st.booleans(),
    st.data(),
)
def test_the_document_describes_the_packets(
    size: int, max_bytes: int, exponent: float, laplacian: bool, data: st.DataObject
) -> None:
    rng = np.random.default_rng(size + max_bytes)
    values = rng.laplace(size=size) ** (3 if laplacian else 1)
    values = values * 10.0**exponent * 2.0 ** -(np.arange(size) // 64 % 20)
    target = np.asarray(np.clip(values, -MAX_INNOVATION / 2, MAX_INNOVATION / 2), np.float32)
    held = rng.standard_normal(size).astype(np.float32)
    made = make_packet(target, held, max_bytes=max_bytes, horizon_bits=9 * max_bytes, start=size // 3)
    if made is None:
        return
    assert decode(made.data, held)[0].tobytes() == made.held.tobytes()
    part = made.data[: data.draw(st.integers(min(5, len(made.data)), len(made.data)))]
    assert decode(part, held)[0].tobytes() == apply_packet(part, held).held.tobytes()


def test_damaged_packets_are_refused_alike() -> None:
    rng = np.random.default_rng(0)
    held = rng.standard_normal(300).astype(np.float32)
    for _ in range(1_000):
        data = rng.bytes(int(rng.integers(0, 60)))
        try:
            expected = apply_packet(data, held).held
        except PacketError:
            with pytest.raises((DamagedError, UndeterminedError)):
                decode(data, held)
        else:
            assert decode(data, held)[0].tobytes() == expected.tobytes()


def test_the_worked_example() -> None:
    target = np.array([3.0, -1.25, 0.5, 40.0], np.float32)
    made = make_packet(target, np.zeros(4, np.float32), max_bytes=8, horizon_bits=64, start=1, final=True)
    assert made is not None
    held, trace = decode(made.data, np.zeros(4, np.float32))
    text = DOCUMENT.read_text()
    assert f"`{made.data.hex()}`" in text
    assert f"`{', '.join(str(value) for value in held.tolist())}`" in text
    assert all(f"| {symbol.rsplit(' ', 1)[0]} | {symbol.rsplit(' ', 1)[1]} |" in text for symbol in trace)


def test_the_tables_are_those_of_the_document() -> None:
    assert f"{zlib.crc32(STORED):08x}" in DOCUMENT.read_text()
    assert all(sum(row) == 2**15 for shape in TABLES for rows in shape[0] for row in rows)


def dct(size: int, k: int, j: int) -> float:
    return math.sqrt((1 if k == 0 else 2) / size) * math.cos(math.pi * (2 * j + 1) * k / (2 * size))


def transform(length: int) -> tuple[list[list[float]], list[int], int]:
    """The matrix of rows or columns, the frequency of each of its rows, and the number of blocks."""
    blocks = math.ceil(length / 4)
    matrix, frequency = [[0.0] * length for _ in range(length)], [0] * length
    for block in range(blocks):
        size = min(4, length - 4 * block)
        for k in range(1, size):
            frequency[4 * block + k] = k * (12 // size) * blocks
            matrix[4 * block + k][4 * block : 4 * block + size] = [dct(size, k, j) for j in range(size)]
        frequency[4 * block] = 3 * block
        for i in range(blocks):
            mean = [dct(blocks, i, block) * dct(size, 0, j) for j in range(size)]
            matrix[4 * i][4 * block : 4 * block + size] = mean
    return matrix, frequency, blocks


def latent_of(held: FloatArray, shape: tuple[int, int, int]) -> tuple[FloatArray, list[tuple[int, ...]]]:
    """The latent of what is held, and (channel, row, column) of every coefficient in scan order."""
    (rows, f_h, b_h), (columns, f_w, b_w) = transform(shape[1]), transform(shape[2])
    order: list[tuple[int, ...]] = sorted(
        np.ndindex(shape), key=lambda cuv: ((f_h[cuv[1]] * b_w) ** 2 + (f_w[cuv[2]] * b_h) ** 2, cuv)
    )
    coefficients = np.zeros(shape)
    for value, place in zip(held, order, strict=True):
        coefficients[place] = value
    latent = np.einsum("uy,vx,cuv->cyx", np.array(rows), np.array(columns), coefficients)
    return latent.astype(np.float32), order


@pytest.mark.parametrize("shape", [(4, 16, 16), (2, 12, 20), (3, 5, 7), (1, 13, 22), (2, 1, 3), (1, 1, 1)])
def test_the_document_describes_the_latent(shape: tuple[int, int, int]) -> None:
    held = np.random.default_rng(0).standard_normal(math.prod(shape)).astype(np.float32)
    expected = Bands(shape).inverse(held)
    # Each of two sums of at most 22 products loses some units in the last place of its terms.
    atol = 44 * 2.0**-24 * float(np.abs(held).max())
    np.testing.assert_allclose(latent_of(held, shape)[0], expected, rtol=0, atol=atol)


def test_the_example_of_a_latent() -> None:
    latent, order = latent_of(np.arange(18, 0, -1, dtype=np.float32), (1, 3, 6))
    text = DOCUMENT.read_text()
    assert f"`{' '.join(str(place[1:]) for place in order)}`" in text
    assert f"`{' '.join(f'{value:.3f}' for value in latent[0, 0])}`" in text


def test_the_packet_of_a_final_latent() -> None:
    latent = np.array([[[1.5, -2.0]]], np.float32)
    refinement = encode_refinement(
        latent,
        np.zeros_like(latent),
        path=NoisePath.stable_diffusion(50),
        step=0,
        reference_step=50,
        bits=16,
    )
    data = pack(refinement)
    assert f"`{data.hex()}`" in DOCUMENT.read_text()
    magic, kind, steps, size, checksum, crc = struct.unpack("<2sB3sIHI", data[:16])
    word = int.from_bytes(steps, "little")
    assert (magic, kind, word & 1023, word >> 10 & 1023, (word >> 20) + 1) == (b"LC", 0x11, 0, 50, 16)
    assert size == latent.size
    assert crc == zlib.crc32(data[:12] + data[16:])
    numbers = np.frombuffer(data[16:], "<f2").astype("<f4").reshape(latent.shape)
    np.testing.assert_array_equal(numbers, latent)
    assert checksum == zlib.crc32(numbers.tobytes()) & 0xFFFF


if __name__ == "__main__":
    target = np.array([3.0, -1.25, 0.5, 40.0], np.float32)
    made = make_packet(target, np.zeros(4, np.float32), max_bytes=8, horizon_bits=64, start=1, final=True)
    assert made is not None
    print(made.data.hex(), *decode(made.data, np.zeros(4, np.float32)), sep="\n")
