import numpy as np
import pytest

from latentcast.codec.predictor import Prediction, paper_prediction
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

PATH = NoisePath.stable_diffusion(50)


def test_gain_and_scale_are_equation_seven() -> None:
    for step, reference in ((0, 1), (5, 30), (20, 40), (48, 49)):
        ratio = PATH.alpha_bar[step] / PATH.alpha_bar[reference]
        prediction = paper_prediction(PATH, step, reference)
        assert prediction.gain == pytest.approx(ratio**0.5, rel=1e-14)
        assert prediction.scale**2 == pytest.approx(ratio - 1.0, rel=1e-12)


def test_first_transfer_codes_the_sample_itself() -> None:
    assert paper_prediction(PATH, 30, 50) == Prediction(gain=0.0, scale=1.0)


def test_forward_process_has_the_predicted_error() -> None:
    rng = np.random.default_rng(0)
    step, reference = 12, 31
    ratio = PATH.alpha_bar[reference] / PATH.alpha_bar[step]
    clean, first, second = rng.standard_normal((3, 200_000))
    sample = PATH.signal[step] * clean + PATH.noise[step] * first
    held = np.sqrt(ratio) * sample + np.sqrt(1 - ratio) * second
    prediction = paper_prediction(PATH, step, reference)
    error = sample - prediction.gain * held
    assert error.std() == pytest.approx(prediction.scale, rel=4 / np.sqrt(2 * error.size))


@pytest.mark.parametrize(
    ("step", "reference"), [(3, 3), (4, 3), (-1, 3), (3, 51), (50, 50), (1.0, 3), (True, 3)]
)
def test_bad_steps_are_refused(step: int, reference: int) -> None:
    with pytest.raises(ParameterError, match="step"):
        paper_prediction(PATH, step, reference)


def test_path_must_preserve_variance() -> None:
    flow = NoisePath(signal=np.array([1.0, 0.5, 0.0]), noise=np.array([0.0, 0.5, 1.0]))
    with pytest.raises(ParameterError, match="at every step"):
        paper_prediction(flow, 0, 1)
