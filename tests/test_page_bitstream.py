"""The browser's decoder of the bitstream against the Python decoder, in Chromium."""

import base64
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page

from chromium import run, text_of
from latentcast.codec.bands import Bands
from latentcast.codec.progressive import apply_packet, make_packet
from latentcast.errors import PacketError
from test_progressive import GOLDEN, GOLDEN_STEPS

pytestmark = pytest.mark.browser

FloatArray = NDArray[np.float32]

# For every packet what is held after it, null if it is refused.
DECODE = """
  const { applyPacket, PacketError } = await import("/bitstream.js");
  const { Tables } = await import("/tables.js");
  const tables = new Tables(await (await fetch("/tables.npy")).arrayBuffer());
  return input.map(([data, held]) => {
    const before = floatsOf(held);
    let after;
    try {
      after = textOf(applyPacket(bytesOf(data), before, tables));
    } catch (error) {
      if (!(error instanceof PacketError)) throw error;
      after = null;
    }
    return textOf(before) === held ? after : "changed what was held";
  });
"""


def decode(page: Page, packets: list[tuple[bytes, FloatArray]]) -> list[bytes | None]:
    after = run(page, DECODE, [[text_of(data), text_of(held.tobytes())] for data, held in packets])
    return [None if held is None else base64.b64decode(held) for held in after]


def decode_here(packets: list[tuple[bytes, FloatArray]]) -> list[bytes | None]:
    after: list[bytes | None] = []
    for data, held in packets:
        try:
            after.append(apply_packet(data, held).held.tobytes())
        except PacketError:
            after.append(None)
    return after


def test_golden_packets_decode_alike(page: Page) -> None:
    packets = [(bytes.fromhex(data), np.zeros(size, np.float32)) for size, _, _, data, _ in GOLDEN]
    crcs = [zlib.crc32(held) for held in decode(page, packets) if held is not None]
    assert crcs == [crc for *_, crc in GOLDEN]


def test_half_steps_are_golden(page: Page) -> None:
    program = """
      const { stepUnit } = await import("/bitstream.js");
      return textOf(Float32Array.from({ length: 1024 }, (_, index) => stepUnit(index) * 64));
    """
    assert zlib.crc32(base64.b64decode(run(page, program))) == GOLDEN_STEPS


def test_packets_and_their_prefixes_decode_bit_for_bit(page: Page) -> None:
    rng = np.random.default_rng(0)
    packets: list[tuple[bytes, FloatArray]] = []
    for number in range(120):
        size = int(rng.choice([1, 2, 63, 65, 700, 1024, 8200]))
        values = rng.laplace(size=size) ** (3 if number % 2 else 1) * 10.0 ** rng.uniform(-3, 6)
        target = np.asarray(values * 2.0 ** -(np.arange(size) // 64 % 20), np.float32)
        held = rng.standard_normal(size).astype(np.float32)
        num_bytes = int(rng.integers(6, 1000))
        made = make_packet(
            target, held, max_bytes=num_bytes, horizon_bits=9 * num_bytes, start=int(rng.integers(size))
        )
        if made is not None:
            cuts = rng.integers(0, len(made.data), size=6)
            packets += [(made.data[:cut], held) for cut in (len(made.data), *cuts.tolist())]
    assert len(packets) > 600
    assert decode(page, packets) == decode_here(packets)


def test_damaged_packets_are_refused_alike(page: Page) -> None:
    rng = np.random.default_rng(1)
    held = rng.standard_normal(300).astype(np.float32)
    packets = [(rng.bytes(int(rng.integers(0, 60))), held) for _ in range(2_000)]
    expected = decode_here(packets)
    assert 20 < sum(after is None for after in expected) < len(packets)
    assert decode(page, packets) == expected


@pytest.mark.parametrize(
    "shape", [(4, 16, 16), (4, 64, 64), (16, 32, 32), (4, 96, 64), (3, 5, 7), (1, 13, 22), (1, 1, 1)]
)
def test_latents_agree_to_rounding(page: Page, shape: tuple[int, int, int]) -> None:
    bands = Bands(shape)
    coefficients = np.random.default_rng(2).standard_normal(bands.size).astype(np.float32)
    program = """
      const { Bands } = await import("/bands.js");
      return textOf(new Bands(input.shape).inverse(floatsOf(input.coefficients)));
    """
    argument = {"shape": list(shape), "coefficients": text_of(coefficients.tobytes())}
    latent = np.frombuffer(base64.b64decode(run(page, program, argument)), np.float32).reshape(shape)
    # Each of the two sums of at most 16 and 16 products loses some units in the last place of its terms.
    assert np.abs(latent - bands.inverse(coefficients)).max() < 40 * 2.0**-24 * np.abs(latent).max()
