import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latentcast.codec.predictor import paper_prediction
from latentcast.codec.quantizer import lloyd_max
from latentcast.codec.refinement import (
    FloatArray,
    Refinement,
    SymbolArray,
    decode_refinement,
    encode_refinement,
)
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

PATH = NoisePath.stable_diffusion(50)

# CRC-32 of the device's levels as little-endian float32, for 1..12 bits: decoders depend on every bit of
# them.
GOLDEN_LEVELS = [
    0xB0E931AD,
    0x83315482,
    0xB6E8C985,
    0x614955BF,
    0x71199149,
    0x4FE2DCE0,
    0xDFA7DA61,
    0x91EAE56C,
    0xCC34E70A,
    0xDF81AB51,
    0xEF9E415D,
    0x201C781C,
]


def encode(
    sample: FloatArray, reference: FloatArray, step: int = 10, reference_step: int = 30, bits: int = 3
) -> Refinement:
    return encode_refinement(
        sample, reference, path=PATH, step=step, reference_step=reference_step, bits=bits
    )


def decode(
    symbols: SymbolArray, reference: FloatArray, step: int = 10, reference_step: int = 30, bits: int = 3
) -> FloatArray:
    return decode_refinement(
        symbols, reference, path=PATH, step=step, reference_step=reference_step, bits=bits
    )


def normal(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "crc"), list(enumerate(GOLDEN_LEVELS, start=1)))
def test_device_levels_are_golden(bits: int, crc: int) -> None:
    symbols = np.arange(2**bits, dtype=np.uint16)
    levels = decode(symbols, np.zeros(symbols.size, np.float32), reference_step=50, bits=bits)
    assert zlib.crc32(levels.astype("<f4").tobytes()) == crc
    assert levels == pytest.approx(lloyd_max(bits).levels, abs=2.0**-21)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(1, 16),
    st.integers(0, 49),
    st.data(),
)
def test_device_reconstructs_what_the_server_expects(
    sample: FloatArray, bits: int, step: int, data: st.DataObject
) -> None:
    reference_step = data.draw(st.integers(step + 1, 50))
    reference = normal(*sample.shape, seed=1)
    refinement = encode(sample, reference, step, reference_step, bits)
    assert refinement.symbols.dtype == np.uint16
    assert refinement.symbols.shape == refinement.reconstruction.shape == sample.shape
    assert refinement.reconstruction.dtype == np.float32
    assert refinement.reconstruction.flags.c_contiguous
    if bits < 16:
        assert refinement.symbols.max() < 2**bits
    decoded = decode(refinement.symbols, reference, step, reference_step, bits)
    assert decoded.tobytes() == refinement.reconstruction.tobytes()


@pytest.mark.parametrize("bits", range(1, 16))
def test_cells_are_those_of_a_search(bits: int) -> None:
    thresholds = lloyd_max(bits).thresholds.astype(np.float32)
    # Both neighbours of every threshold, the thresholds themselves, a dense sweep, and outliers.
    near = np.concatenate([np.nextafter(thresholds, np.float32(sign * 9)) for sign in (-1, 1)])
    extremes = np.array([-3e38, -8.0, 8.0, 3e38, -1e-40, 0.0, 1e-40], np.float32)
    values = np.concatenate((near, thresholds, normal(20_000) * 2, extremes))
    refinement = encode(values, np.zeros_like(values), 10, 50, bits)
    assert np.array_equal(refinement.symbols, np.searchsorted(thresholds, values, side="right"))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 10, 12])
@pytest.mark.parametrize("reference_step", [30, 50])
def test_error_is_the_models(bits: int, reference_step: int) -> None:
    # A refinement that is standard normal once standardised, as eq. 7 has it.
    prediction = paper_prediction(PATH, 10, reference_step)
    reference, standardised = normal(2, 4, 100, 100, seed=3), normal(2, 4, 100, 100, seed=4)
    sample = np.float32(prediction.gain) * reference + np.float32(prediction.scale) * standardised
    error = (encode(sample, reference, 10, reference_step, bits).reconstruction - sample) ** 2
    expected = prediction.scale**2 * lloyd_max(bits).mse
    assert error.mean() == pytest.approx(expected, abs=5 * error.std() / np.sqrt(error.size) + 1e-12)


def test_reconstruction_is_the_written_arithmetic() -> None:
    reference, sample = normal(64, seed=1), normal(64, seed=2)
    refinement = encode(sample, reference)
    prediction = paper_prediction(PATH, 10, 30)
    levels = (np.rint(lloyd_max(3).levels * 2**20) / 2**20).astype(np.float32)
    scaled = levels[refinement.symbols] * np.float32(prediction.scale)
    expected = scaled + reference * np.float32(prediction.gain)
    assert refinement.reconstruction.tobytes() == expected.tobytes()


def test_sixteen_bits_are_the_sample_as_float16() -> None:
    sample, reference = normal(3, 4, 5, 5), normal(3, 4, 5, 5, seed=1)
    refinement = encode(sample, reference, bits=16)
    assert np.array_equal(refinement.reconstruction, sample.astype(np.float16).astype(np.float32))
    assert np.array_equal(refinement.symbols, sample.astype(np.float16).view(np.uint16))


def test_batch_items_are_independent() -> None:
    sample, reference = normal(5, 4, 8, 8), normal(5, 4, 8, 8, seed=1)
    whole = encode(sample, reference, bits=4)
    for i in range(5):
        single = encode(sample[i : i + 1], reference[i : i + 1], bits=4)
        assert np.array_equal(single.symbols, whole.symbols[i : i + 1])
        assert np.array_equal(single.reconstruction, whole.reconstruction[i : i + 1])


def test_arguments_are_left_alone_and_order_does_not_matter() -> None:
    sample, reference = normal(4, 6).T, normal(4, 6, seed=1).T
    copies = sample.copy(), reference.copy()
    refinement = encode(sample, reference)
    assert np.array_equal(sample, copies[0])
    assert np.array_equal(reference, copies[1])
    assert np.array_equal(refinement.symbols, encode(*copies).symbols)
    assert np.array_equal(encode(sample.astype(np.float64), reference).symbols, refinement.symbols)


def test_closed_loop_does_not_add_up_errors() -> None:
    # Each refinement starts from the device's own latent, so only the last quantisation error remains.
    rng = np.random.default_rng(7)
    clean = rng.standard_normal(20_000)
    sample, held, reference_step = clean, np.zeros_like(clean).astype(np.float32), 50
    for step in (40, 30, 20, 10, 0):
        noise = rng.standard_normal(clean.size)
        sample = PATH.signal[step] * clean + PATH.noise[step] * noise
        held = encode(sample.astype(np.float32), held, step, reference_step, 8).reconstruction
        reference_step = step
    error = np.mean((held - clean) ** 2)
    assert error < 10 * paper_prediction(PATH, 0, 10).scale ** 2 * lloyd_max(8).mse


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.array([np.nan, 0.0]), "sample holds NaN or infinity"),
        (np.array([np.inf, 0.0]), "sample holds NaN or infinity"),
        (np.array([1e300, 0.0]), "sample holds NaN or infinity"),
        (np.zeros(3), "must be the same"),
        (np.zeros(0), "at least one number"),
        (np.array(["a", "b"]), "not an array of numbers"),
    ],
)
def test_bad_samples_are_refused(sample: FloatArray, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        encode(sample, np.zeros(2, np.float32))


def test_bad_references_are_refused() -> None:
    with pytest.raises(ParameterError, match="reference holds NaN"):
        encode(normal(2), np.array([np.nan, 0.0], np.float32))
    with pytest.raises(ParameterError, match="overflows float32"):
        encode(normal(2), np.array([3e38, 0.0], np.float32), 0, 49)


def test_float16_overflow_is_refused() -> None:
    assert encode(np.array([65504.0], np.float32), normal(1), bits=16).reconstruction == 65504.0
    with pytest.raises(ParameterError, match="float16 ends at 65504"):
        encode(np.array([65520.0], np.float32), normal(1), bits=16)


@pytest.mark.parametrize("bits", [0, 17, 3.0, True])
def test_bad_bits_are_refused(bits: int) -> None:
    with pytest.raises(ParameterError, match="bits is"):
        encode(normal(2), normal(2), bits=bits)


def test_steps_must_fall() -> None:
    with pytest.raises(ParameterError, match="step is 30 and reference_step 30"):
        encode(normal(2), normal(2), 30, 30)


@pytest.mark.parametrize(
    ("symbols", "bits", "message"),
    [
        (np.array([0, 8], np.uint16), 3, "must stay below 8"),
        (np.array([0, 1], np.int64), 3, "must be uint16"),
        (np.array([0, 1, 2], np.uint16), 3, "make them the same"),
        (np.array([0, 0x7C00], np.uint16), 16, "infinity or NaN"),
        (np.array([0, 0xFE00], np.uint16), 16, "infinity or NaN"),
    ],
)
def test_bad_symbols_are_refused(symbols: SymbolArray, bits: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        decode(symbols, normal(2), bits=bits)
