import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.diffusion.path import NoisePath, stable_diffusion_training_steps
from latentcast.errors import ParameterError


def test_fifty_steps_have_the_published_values() -> None:
    path = NoisePath.stable_diffusion(50)
    assert path.num_steps == 50
    assert path.alpha_bar[[0, 1, 25, 50]] == pytest.approx([1.0, 0.998296, 0.302296, 0.005776], abs=1e-6)


def test_grid_is_leading_with_offset_one() -> None:
    assert stable_diffusion_training_steps(50).tolist() == [-1, *range(1, 982, 20)]
    assert stable_diffusion_training_steps(30)[-1] == 33 * 29 + 1
    assert stable_diffusion_training_steps(1000).tolist() == list(range(-1, 1000))


@given(st.integers(1, 1000))
def test_any_number_of_steps_follows_the_training_schedule(num_steps: int) -> None:
    path = NoisePath.stable_diffusion(num_steps)
    alpha_bar = 1.0
    products = []
    for i in range(1000):
        alpha_bar *= 1.0 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        products.append(alpha_bar)
    expected = [1.0, *(products[i] for i in stable_diffusion_training_steps(num_steps)[1:])]
    assert path.alpha_bar == pytest.approx(expected, rel=1e-11)
    assert path.signal**2 + path.noise**2 == pytest.approx(1.0)
    assert path.is_variance_preserving


def test_general_paths_are_accepted() -> None:
    exploding = NoisePath(signal=np.ones(3), noise=np.array([0.0, 1.0, 10.0]))
    assert exploding.alpha_bar == pytest.approx([1.0, 1 / 2, 1 / 101])
    assert not exploding.is_variance_preserving
    flow = NoisePath(signal=np.array([1.0, 0.5, 0.0]), noise=np.array([0.0, 0.5, 1.0]))
    assert flow.alpha_bar.tolist() == [1.0, 0.5, 0.0]


def test_paths_are_values() -> None:
    path = NoisePath.stable_diffusion(10)
    same = NoisePath(signal=path.signal, noise=path.noise)
    assert path == same
    assert hash(path) == hash(same)
    assert path != NoisePath.stable_diffusion(11)
    assert path != "path"
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(ValueError, match="read-only"):
        path.signal[0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        path.alpha_bar[0] = 2.0


def test_a_path_does_not_alias_its_arguments() -> None:
    signal = np.array([1.0, 0.8])
    path = NoisePath(signal=signal, noise=np.array([0.0, 0.6]))
    signal[1] = 0.0
    assert path.signal[1] == 0.8


@pytest.mark.parametrize(
    ("signal", "noise", "message"),
    [
        ([1.0, 0.8], [0.0, 0.6, 0.7], "2 entries and noise 3"),
        ([0.9, 0.8], [0.0, 0.6], "step 0 has signal 0.9"),
        ([1.0, 0.8], [0.1, 0.6], "noise 0.1"),
        ([1.0], [0.0], r"shape \(1,\)"),
        ([[1.0, 0.8]], [[0.0, 0.6]], r"shape \(1, 2\)"),
        ([1.0, 0.8, 0.8], [0.0, 0.6, 0.6], "from step 1 to step 2"),
        ([1.0, 0.5, 0.8], [0.0, 0.8, 0.6], "from step 1 to step 2"),
        ([1.0, 0.0], [0.0, 0.0], "both 0"),
        ([1.0, float("nan")], [0.0, 0.6], "non-finite"),
        ([1.0, -0.8], [0.0, 0.6], "negative"),
        (["a", "b"], [0.0, 0.6], "not an array of numbers"),
        ([1.0, 2e200], [0.0, 1e200], r"step 1 has signal 2e\+200"),
        ([1.0, 0.8, 1e-200], [0.0, 0.6, 1e-200], "step 2 has signal 1e-200"),
    ],
)
def test_bad_coefficients_are_refused(signal: list[float], noise: list[float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        NoisePath(signal=signal, noise=noise)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 2.5, True, "50", float("nan")])
def test_bad_numbers_of_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(ParameterError, match="num_steps is"):
        NoisePath.stable_diffusion(num_steps)


def test_alpha_bar_above_one_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"reaches 1\.5"):
        NoisePath.from_alpha_bar([1.5, 0.5])
