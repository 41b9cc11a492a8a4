import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentcast.codec.entropy import entropy_model
from latentcast.codec.progressive import (
    MAX_INNOVATION,
    MIN_CLASS,
    Refined,
    apply_packet,
    group_size,
    make_packet,
    step_size,
)
from latentcast.errors import PacketError, ParameterError

FloatArray = NDArray[np.float32]

SHAPES = ("gaussian", "laplacian", "cauchy", "sparse", "zero", "constant", "bands")


def draw(shape: str, size: int, scale: float, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: rng.standard_normal(size),
        "laplacian": lambda: rng.laplace(size=size),
        "cauchy": lambda: np.clip(rng.standard_cauchy(size), -1e4, 1e4),
        "sparse": lambda: rng.standard_normal(size) * (rng.random(size) < 0.05),
        "zero": lambda: np.zeros(size),
        "constant": lambda: np.ones(size),
        "bands": lambda: rng.standard_normal(size) * np.exp(-np.arange(size) / (0.2 * size)),
    }
    return np.asarray(makers[shape]() * scale, np.float32)


def packet(target: FloatArray, max_bytes: int, **options: object) -> Refined:
    made = make_packet(
        target,
        np.zeros_like(target),
        **{"max_bytes": max_bytes, "horizon_bits": 8.0 * max_bytes, **options},  # type: ignore[arg-type]
    )
    assert made is not None
    return made


@settings(max_examples=150)
@given(
    st.sampled_from(SHAPES),
    st.one_of(st.integers(1, 300), st.integers(1, 20_000)),
    st.floats(-6, 3),
    st.integers(4, 4_000),
    st.floats(0.2, 8.0),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_server_and_device_hold_the_same(
    shape: str, size: int, exponent: float, max_bytes: int, horizon: float, final: bool, seed: int
) -> None:
    target = draw(shape, size, 10.0**exponent, seed)
    server, device, start = np.zeros(size, np.float32), np.zeros(size, np.float32), seed % size
    before = np.mean(np.square(target, dtype=float))
    for _ in range(3):
        made = make_packet(
            target,
            server,
            max_bytes=max_bytes,
            horizon_bits=8 * max_bytes * horizon,
            start=start,
            final=final,
        )
        if made is None:
            break
        assert 0 < len(made.data) <= max_bytes
        decoded = apply_packet(made.data, device)
        assert decoded.held.tobytes() == made.held.tobytes()
        assert (decoded.next_start, decoded.num_refined) == (made.next_start, made.num_refined)
        assert 0 < made.num_refined <= size
        error = np.mean(np.square(made.held - target, dtype=float))
        # Never worse, but for the quantiser's noise.
        assert error <= before + step_of(made.data) ** 2
        server, device, start, before = made.held, decoded.held, made.next_start, error
    if shape == "zero":
        assert not server.any()


def assert_prefix(part: Refined, whole: Refined, held: FloatArray, target: FloatArray) -> None:
    changed = part.held != held
    assert np.array_equal(part.held[changed], whole.held[changed])
    assert part.num_refined <= whole.num_refined
    # What a number that is refined may be wrong by: two half steps, more where zero was cheaper.
    step = step_of(whole.data)
    assert np.all(np.abs(part.held - target)[changed] <= np.abs(held - target)[changed] + 2.01 * step)


def step_of(data: bytes) -> float:
    # The first ten bits of a range coder that began at 2^32 - 1 are the value of a division.
    return float(step_size(min(int.from_bytes(data[:4], "big") // (0xFFFFFFFF >> 10), 1023)))


@pytest.mark.parametrize(
    ("shape", "size", "scale", "max_bytes"),
    [
        ("gaussian", 1_024, 1.0, 300),
        ("laplacian", 1_000, 0.01, 500),
        ("bands", 4_096, 10.0, 400),
        ("cauchy", 333, 1.0, 120),
        ("gaussian", 16, 100.0, 40),
        ("constant", 1, 0.7, 12),
    ],
)
def test_every_prefix_decodes_to_a_prefix(shape: str, size: int, scale: float, max_bytes: int) -> None:
    target, held = draw(shape, size, scale, 1), np.zeros(size, np.float32)
    whole = packet(target, max_bytes, start=size // 3, final=True)
    refined, error = 0, float(np.square(target, dtype=float).sum())
    after = held
    for cut in range(len(whole.data) + 1):
        try:
            part = apply_packet(whole.data[:cut], held)
        except PacketError:
            assert refined == 0
            continue
        assert_prefix(part, whole, held, target)
        assert part.num_refined >= refined
        # What one more byte changes, it does not change again.
        assert np.array_equal(part.held[after != held], after[after != held])
        now = float(np.square(part.held - target, dtype=float).sum())
        assert now <= error + 4.1 * (part.num_refined - refined) * step_of(whole.data) ** 2
        refined, error, after = part.num_refined, now, part.held
    assert refined == whole.num_refined
    assert after.tobytes() == whole.held.tobytes()


@settings(max_examples=60)
@given(
    st.sampled_from(SHAPES[:4]),
    st.integers(1, 5_000),
    st.integers(8, 900),
    st.data(),
    st.integers(0, 2**32 - 1),
)
def test_random_prefixes(shape: str, size: int, max_bytes: int, data: st.DataObject, seed: int) -> None:
    target, held = draw(shape, size, 1.0, seed), draw("gaussian", size, 0.3, seed + 1)
    made = make_packet(target, held, max_bytes=max_bytes, horizon_bits=8 * max_bytes, start=seed % size)
    if made is None:
        return
    # Fewer than five bytes may end in the header.
    cuts = sorted(data.draw(st.lists(st.integers(min(5, len(made.data)), len(made.data)), max_size=10)))
    refined = 0
    for cut in cuts:
        part = apply_packet(made.data[:cut], held)
        assert_prefix(part, made, held, target)
        assert part.num_refined >= refined
        refined = part.num_refined


def try_damaged(trials: int, seed: int) -> int:
    """How many of so many damaged packets were refused; whatever else happens is an error."""
    rng = np.random.default_rng(seed)
    sizes = (1, 5, 64, 700, 3_000)
    held = [draw("gaussian", size, 1.0, size) for size in sizes]
    made = [packet(draw("cauchy", size, 2.0, size), 20 + size // 4, final=True).data for size in sizes]
    copies = [values.copy() for values in held]
    refused = 0
    for trial in range(trials):
        which = int(rng.integers(len(sizes)))
        if trial % 4 == 0:
            data = rng.bytes(int(rng.integers(0, 80)))
        elif trial % 4 == 1:
            data = bytes([255 * (trial // 4 % 2)]) * int(rng.integers(0, 8)) + rng.bytes(30)
        else:
            mutable = bytearray(made[which])
            for _ in range(int(rng.integers(1, 4))):
                mutable[int(rng.integers(len(mutable)))] ^= 1 << int(rng.integers(8))
            data = bytes(mutable[: int(rng.integers(len(mutable) + 1))] if trial % 4 == 2 else mutable)
        try:
            refined = apply_packet(data, held[which])
        except PacketError:
            refused += 1
        else:
            assert np.isfinite(refined.held).all()
            assert 0 <= refined.next_start < sizes[which]
            assert 0 <= refined.num_refined <= sizes[which]
    for values, copy in zip(held, copies, strict=True):
        assert np.array_equal(values, copy)
    return refused


def test_any_bytes_decode_or_raise_packet_error() -> None:
    assert 1_000 < try_damaged(20_000, 0) < 19_000


@pytest.mark.slow
def test_a_million_damaged_packets() -> None:
    assert 50_000 < try_damaged(1_000_000, 1) < 950_000


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\x12\x34"])
def test_headers_may_be_missing(data: bytes) -> None:
    with pytest.raises(PacketError, match=f"{len(data)} bytes is shorter than its header"):
        apply_packet(data, np.zeros(16384, np.float32))


def test_a_start_behind_the_end_is_refused() -> None:
    with pytest.raises(PacketError, match="no encoder writes"):
        apply_packet(b"\xff" * 8, np.zeros(1_000, np.float32))


def exact(size: int) -> FloatArray:
    """Numbers that every machine draws alike: a linear congruential generator, two of them subtracted."""
    states = np.empty(2 * size, np.uint64)
    state = 1
    for i in range(2 * size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        states[i] = state >> 40
    uniform = states.astype(np.float32) / np.float32(2**24)
    return uniform[::2] - uniform[1::2]


# Size, bytes, start; the packet and the CRC-32 of what the device holds
# after it, as little-endian float32. Decoders depend on every bit. `python tests/test_progressive.py` prints
# them anew; do so only when the format changes.
GOLDEN = [
    (1, 8, 0, "ffccd13f4de1", 0x47B192D8),
    (20, 16, 7, "4e072a84d548b586aa4f68280b294da2", 0x920515C9),
    (64, 24, 10, "37850a2f73d65c1c11a5dfacc420bafe35c6ae890f20dc5a", 0x457DD39A),
    (
        1000,
        120,
        999,
        "2a9f37cc703dde5aa54f41b20f5f86cf826e727cf4f28528bf144239faf1773a3581f2065750510830769390e99459c71ddba964ef3649ffb8800540ba6906a28da7336a20e76676b0a0d6c3482be2b90b69311fd096fafcdaeb72a676536ac2b2cd7becf20bd1b4cc78f4813a98f77ab87b2f5e94204340",
        0x343B4425,
    ),
    (
        16384,
        64,
        5000,
        "288dbf5c15d910a77915fc30a70766dccdd7df3340ef6cb119cf698700687efdc5fe42ab94a08036776b47519411b7b4486af07d15e47c489060c73bed40686e",
        0x6AEAE82B,
    ),
]


@pytest.mark.parametrize(("size", "max_bytes", "start", "expected", "crc"), GOLDEN)
def test_packets_are_golden(size: int, max_bytes: int, start: int, expected: str, crc: int) -> None:
    made = packet(exact(size), max_bytes, start=start)
    assert made.data.hex() == expected
    held = apply_packet(bytes.fromhex(expected), np.zeros(size, np.float32)).held
    assert zlib.crc32(held.astype("<f4").tobytes()) == crc


def test_half_steps_are_golden() -> None:
    steps = np.array([step_size(index) for index in range(1024)], np.float32)
    assert zlib.crc32(steps.astype("<f4").tobytes()) == GOLDEN_STEPS
    assert steps == pytest.approx(2.0 ** (4 - np.arange(1024) / 32), rel=2.0**-23)
    assert steps[::32].tolist() == [2.0 ** (4 - octave) for octave in range(32)]


GOLDEN_STEPS = 0x24180BD5


@pytest.mark.parametrize(("bits_per_number", "size"), [(1, 16384), (3, 16384), (6, 4096)])
def test_bytes_are_the_ideal_code_length(bits_per_number: float, size: int) -> None:
    target = draw("gaussian", size, 1.0, 3)
    made = packet(target, int(bits_per_number * size / 8), final=True)
    assert made.complete
    model = entropy_model(0)
    bits = 8 * len(made.data) / made.num_refined
    step = step_of(made.data)
    number = np.interp(np.log2(1 / step) * 4 + 4, np.arange(108), model.rate_bits)
    # Classes cost 3 bits a group; the rates of a sample deviate by its spread.
    assert bits == pytest.approx(number + 3 / group_size(size), rel=0.01 + 5 / np.sqrt(size), abs=24 / size)


def test_unfinished_groups_go_on() -> None:
    target = draw("gaussian", 16384, 1.0, 5)
    held, start, left, refined = np.zeros_like(target), 0, 16384 * 2.0, 0
    while left > 0:
        made = make_packet(target, held, max_bytes=min(700, int(left) // 8), horizon_bits=left, start=start)
        if made is None:
            break
        held, start, left = made.held, made.next_start, left - 8 * len(made.data)
        refined += made.num_refined
    # Everything once, but for what the forecast of the rate is off by: 1 %.
    assert refined == pytest.approx(16384, rel=0.01)
    # 2 bits a number, 0.7 dB above the rate-distortion function; what is left has variance 1.
    expected = 2.0**-4 * 10**0.07 * refined / 16384 + (1 - refined / 16384)
    assert np.mean((held - target) ** 2) == pytest.approx(expected, rel=5 * np.sqrt(2 / 16384))


@pytest.mark.parametrize("shape", ["gaussian", "laplacian", "bands", "sparse"])
def test_a_final_packet_holds_everything(shape: str) -> None:
    target = draw(shape, 8_192, 1.0, 9)
    made = packet(target, 1_500, final=True, horizon_bits=100.0)
    assert made.complete
    # The next finer step does not fit, so nearly all bytes are used.
    assert len(made.data) > 0.95 * 1_500


def test_nothing_to_refine_needs_no_packet() -> None:
    target = draw("gaussian", 500, 1.0, 2)
    assert make_packet(target, target.copy(), max_bytes=100, horizon_bits=800) is None
    for max_bytes in (0, 1, 2, 3):
        assert make_packet(target, np.zeros_like(target), max_bytes=max_bytes, horizon_bits=800) is None


def test_groups() -> None:
    assert [group_size(size) for size in (1, 8_191, 8_192, 10**6)] == [64, 64, 128, 128]
    assert entropy_model(0).rate_bits[MIN_CLASS] == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_targets_are_refused(value: float) -> None:
    target = np.array([0.0, value], np.float32)
    with pytest.raises(ParameterError, match=r"both must be finite, at most 2\.68435e\+08 apart"):
        make_packet(target, np.zeros(2, np.float32), max_bytes=100, horizon_bits=800)


def test_the_farthest_target_is_reached() -> None:
    target = np.array([MAX_INNOVATION, -MAX_INNOVATION, 1.0] * 50, np.float32)
    held, start = np.zeros_like(target), 0
    for _ in range(20):
        made = make_packet(target, held, max_bytes=400, horizon_bits=3_200, start=start)
        if made is None:
            break
        held, start = made.held, made.next_start
    assert np.abs(held - target).max() < 1e-3 * MAX_INNOVATION


@pytest.mark.parametrize(
    ("target", "held", "options", "message"),
    [
        (np.zeros(3, np.float32), np.zeros(2, np.float32), {}, "one axis and length"),
        (np.zeros(2), np.zeros(2, np.float32), {}, "target is float64"),
        (np.zeros(2, np.float32), np.zeros(2), {}, "held is float64"),
        (np.zeros(0, np.float32), np.zeros(0, np.float32), {}, "at least one number"),
        (np.zeros(2, np.float32), np.zeros(2, np.float32), {"start": 2}, r"0 \.\. 1"),
    ],
)
def test_bad_arguments_are_refused(
    target: FloatArray, held: FloatArray, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        make_packet(target, held, max_bytes=100, horizon_bits=800, **options)


if __name__ == "__main__":
    for size, max_bytes, start in ((1, 8, 0), (20, 16, 7), (64, 24, 10), (1000, 120, 999), (16384, 64, 5000)):
        made = packet(exact(size), max_bytes, start=start)
        crc = zlib.crc32(made.held.astype("<f4").tobytes())
        print(f'    ({size}, {max_bytes}, {start}, "{made.data.hex()}", 0x{crc:08X}),')
    steps = np.array([step_size(index) for index in range(1024)], "<f4")
    print(f"GOLDEN_STEPS = 0x{zlib.crc32(steps.tobytes()):08X}")
