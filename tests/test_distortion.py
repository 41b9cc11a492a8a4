import math

import numpy as np
import pytest

from latentcast.codec.quantizer import lloyd_max
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError
from latentcast.policy.distortion import (
    base_distortion,
    diffusion_distortion,
    quantization_distortion,
    total_distortion,
)

PATH = NoisePath.stable_diffusion(50)


def test_diffusion_distortion_is_equation_nine() -> None:
    steps = np.arange(51)
    expected = 2 * (1 - np.sqrt(PATH.alpha_bar))
    assert diffusion_distortion(PATH, steps) == pytest.approx(expected, abs=1e-14)
    assert diffusion_distortion(PATH, 0) == 0.0
    assert diffusion_distortion(PATH, 50) == pytest.approx(1.848, abs=5e-4)


@pytest.mark.parametrize("step", [1, 25, 50])
def test_diffusion_distortion_is_the_forward_process_error(step: int) -> None:
    clean, noise = np.random.default_rng(step).standard_normal((2, 100_000))
    error = (PATH.signal[step] * clean + PATH.noise[step] * noise - clean) ** 2
    expected = float(diffusion_distortion(PATH, step))
    assert error.mean() == pytest.approx(expected, abs=4 * error.std() / math.sqrt(error.size))


def test_general_paths_have_their_own_error() -> None:
    flow = NoisePath(signal=np.array([1.0, 0.5, 0.0]), noise=np.array([0.0, 0.5, 1.0]))
    assert diffusion_distortion(flow, [0, 1, 2]).tolist() == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("bits", range(1, 16))
def test_base_distortion(bits: int) -> None:
    assert base_distortion(bits) == pytest.approx(math.pi * math.sqrt(3) / 2 / 4**bits)
    assert base_distortion(bits, "lloyd-max") == lloyd_max(bits).mse


def test_sixteen_bits_are_lossless() -> None:
    assert base_distortion(16) == base_distortion(16, "lloyd-max") == 0.0
    assert quantization_distortion(PATH, 3, 20, 16) == 0.0
    assert total_distortion(PATH, 0, 20, 16) == 0.0


def test_quantization_distortion_is_equation_ten() -> None:
    steps, references = np.array([0, 10, 20]), np.array([1, 30, 49])
    variance = PATH.alpha_bar[steps] / PATH.alpha_bar[references] - 1
    for base in ("panter-dite", "lloyd-max"):
        measured = quantization_distortion(PATH, steps, references, 4, base=base)
        assert measured == pytest.approx(variance * base_distortion(4, base))


def test_first_transfer_has_unit_variance_whatever_the_noise_at_the_end() -> None:
    noiseless_end = NoisePath.from_alpha_bar([1.0, 0.5, 0.0])
    for path in (PATH, noiseless_end):
        last = path.num_steps
        assert quantization_distortion(path, [0, 1], last, 3) == pytest.approx(base_distortion(3))


def test_total_is_the_sum_and_broadcasts() -> None:
    steps, references = np.arange(5)[:, None], np.arange(10, 13)
    total = total_distortion(PATH, steps, references, 3)
    assert total.shape == (5, 3)
    expected = diffusion_distortion(PATH, 4) + quantization_distortion(PATH, 4, 12, 3)
    assert total[4, 2] == expected


@pytest.mark.parametrize(
    ("step", "reference", "bits", "message"),
    [
        (5, 5, 3, "must be below"),
        ([1, 9], [5, 5], 3, "must be below"),
        (-1, 5, 3, "step is -1"),
        (0, 51, 3, "reference_step is 51"),
        (0.5, 5, 3, "step is 0.5"),
        (0, 5, 0, "bits is 0"),
        (0, 5, 17, "bits is 17"),
    ],
)
def test_bad_arguments_are_refused(step: int, reference: int, bits: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        total_distortion(PATH, step, reference, bits)


def test_unknown_base_is_refused() -> None:
    with pytest.raises(ParameterError, match="'panter-dite' or 'lloyd-max'"):
        base_distortion(3, "shannon")  # type: ignore[arg-type]


def test_quantization_needs_a_variance_preserving_path() -> None:
    flow = NoisePath(signal=np.array([1.0, 0.5, 0.0]), noise=np.array([0.0, 0.5, 1.0]))
    with pytest.raises(ParameterError, match="at every step"):
        quantization_distortion(flow, 0, 1, 3)
