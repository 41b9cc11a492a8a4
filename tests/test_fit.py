"""A model's fit to the theory: exact sources fit it, and what does not fit shows."""

import json
from pathlib import Path

import numpy as np
import pytest

from latentcast.cli import run
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Trajectory
from latentcast.errors import ParameterError
from latentcast.study.figures.fit import Fit, measure_fit

PATH = NoisePath.stable_diffusion(50)
SHAPE = (4, 16, 16)
COUNT = 24


class Forward:
    """Trajectories drawn by the forward process itself, from x_0 upward: what the theory speaks of."""

    num_items, path = COUNT, PATH

    def __init__(self, gain: float = 1.0, *, heavy: bool = False) -> None:
        self.gain, self.heavy = gain, heavy

    def trajectory(self, index: int) -> Trajectory:
        rng = np.random.default_rng(index)
        final = rng.laplace(scale=0.5**0.5, size=SHAPE) if self.heavy else rng.standard_normal(SHAPE)
        samples = [self.gain * final]
        for step in range(1, PATH.num_steps + 1):
            alpha = PATH.alpha_bar[step] / PATH.alpha_bar[step - 1]
            fresh = rng.standard_normal(SHAPE)
            samples.append(np.sqrt(alpha) * samples[-1] + np.sqrt(1.0 - alpha) * fresh)
        array = np.stack(samples).astype(np.float32)
        # The exact estimate of a white Gaussian x_0 from the sample one step earlier.
        estimates = np.zeros_like(array)
        estimates[:-1] = PATH.signal[1:, None, None, None].astype(np.float32) * array[1:]
        return Trajectory(samples=array, clean_estimates=estimates, prompt="", seed=index, path=PATH)


def refinement_variance(fit: Fit, high: int, low: int) -> tuple[float, float]:
    (found,) = [item for item in fit.refinements if (item.reference_step, item.step) == (high, low)]
    return found.variance, found.kurtosis


def test_the_forward_process_fits() -> None:
    fit = measure_fit(Forward())
    size = COUNT * int(np.prod(SHAPE))
    # A mean of squares of `size` normal numbers has a relative standard deviation of sqrt(2 / size).
    within = 5.0 * (2.0 / size) ** 0.5
    np.testing.assert_allclose(fit.simulated.mean, fit.predicted, rtol=within)
    np.testing.assert_allclose(fit.mmse[1:-1], fit.white_mmse[1:-1], rtol=2.0 * within)
    for spectrum in fit.spectra:
        # The smallest ring has a few coefficients of four channels; S_0 in the prediction is as uncertain.
        np.testing.assert_allclose(
            spectrum.measured, spectrum.predicted, rtol=10.0 * (2.0 / (8 * COUNT)) ** 0.5
        )
    assert fit.final_variance == pytest.approx(1.0, rel=within)
    # The kurtosis of normal numbers has a standard deviation of sqrt(24 / size).
    assert fit.final_kurtosis == pytest.approx(3.0, abs=5.0 * (24.0 / size) ** 0.5)
    assert fit.coding_gain_db == pytest.approx(4.3 / COUNT, abs=0.1)


def test_refinements_of_the_forward_process_have_the_variance_of_the_exact_conditional() -> None:
    fit = measure_fit(Forward())
    size = COUNT * int(np.prod(SHAPE))
    # (x_t - r x_tp) of white Gaussian x_0: variance r^2 - 1 = sigma^2, by eq. 1.
    for high, low in ((50, 0), (40, 20), (10, 0), (5, 0)):
        variance, kurtosis = refinement_variance(fit, high, low)
        assert variance == pytest.approx(1.0, rel=5.0 * (2.0 / size) ** 0.5)
        assert kurtosis == pytest.approx(3.0, abs=5.0 * (24.0 / size) ** 0.5)


def test_latents_that_do_not_fit_show() -> None:
    loud = measure_fit(Forward(gain=1.5))
    assert loud.final_variance == pytest.approx(2.25, rel=0.05)
    assert refinement_variance(loud, 50, 0)[0] == pytest.approx(2.25, rel=0.05)
    heavy = measure_fit(Forward(heavy=True))
    # A Laplace law has kurtosis 6.
    assert heavy.final_kurtosis == pytest.approx(6.0, rel=0.1)
    assert refinement_variance(heavy, 50, 0)[1] == pytest.approx(6.0, rel=0.1)


def test_a_shaped_spectrum_is_found() -> None:
    source = GaussianSource.natural(SHAPE, PATH)

    class Runs:
        num_items, path = COUNT, PATH

        def trajectory(self, index: int) -> Trajectory:
            return Trajectory.record(source, "", seed=index)

    fit = measure_fit(Runs())
    assert source.spectrum is not None
    gain = 10.0 * (np.log10(np.mean(source.spectrum)) - np.mean(np.log10(source.spectrum)))
    assert fit.coding_gain_db == pytest.approx(gain + 4.3 / COUNT, abs=0.3)
    final = fit.spectra[0].measured
    assert final[0] > 3.0 * final[-1]


def test_one_trajectory_is_too_few() -> None:
    class One(Forward):
        num_items = 1

    with pytest.raises(ParameterError, match="there are 1 trajectories; a fit needs at least 2"):
        measure_fit(One())


def test_the_command_draws_writes_and_fills_the_card(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\nred red\n")
    recording, out = tmp_path / "recording", tmp_path / "out"
    told = ("--steps", "5", "--seed", "3", "--json")
    record = ["record", "--prompts", str(prompts), "--model", str(tiny_folder), "--out", str(recording)]
    assert run([*record, *told]) == 0
    capsys.readouterr()
    held = ("--recording", str(recording), "--out", str(out))
    assert run(["model", "fit", str(tiny_folder), *held, "--json"]) == 0
    from_recording = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == {"fit.json"} | {
        f"fit-{name}.{ending}"
        for name in ("distortion", "refinements", "spectrum")
        for ending in ("svg", "pdf", "png")
    }
    fresh = ["model", "fit", str(tiny_folder), "--prompts", str(prompts), "--out", str(out), "--count", "2"]
    assert run([*fresh, "--card", *told]) == 0
    anew = json.loads(capsys.readouterr().out)
    # The same prompts and seed give the same runs, whether they were recorded before or not.
    assert anew.pop("files") == [*from_recording.pop("files"), str(tiny_folder / "README.md")]
    assert anew == from_recording
    card = (tiny_folder / "README.md").read_text()
    (tiny_folder / "README.md").unlink()
    assert card.startswith("## Fit to the theory\n")
    assert "on 2 trajectories, root seed 3" in card
    assert run(["model", "fit", "owner/name", "--card"]) == 2
    assert "a model of the hub" in capsys.readouterr().err
    assert run(["model", "fit", "scenes", "--recording", str(recording)]) == 2
    assert "was recorded of" in capsys.readouterr().err
