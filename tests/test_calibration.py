"""Calibrations against closed forms, with tolerances from the sample size; their files, good and bad."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentcast import cli
from latentcast.codec.bands import Bands
from latentcast.codec.calibration import Calibration, calibration_file, find_calibration
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Step, Trajectory
from latentcast.errors import ModelError, ParameterError

SHAPE = (4, 16, 16)
SIZE = 1024
PATH = NoisePath.stable_diffusion(50)
RUNS = 16
COUNT = RUNS * SIZE
STEPS = (49, 40, 25, 10, 3, 1)


@pytest.fixture(scope="module", params=["white", "natural"])
def source(request: pytest.FixtureRequest) -> GaussianSource:
    return GaussianSource(SHAPE, PATH) if request.param == "white" else GaussianSource.natural(SHAPE, PATH)


@pytest.fixture(scope="module")
def runs(source: GaussianSource) -> list[Trajectory]:
    return [Trajectory.record(source, "", seed=seed) for seed in range(RUNS)]


@pytest.fixture(scope="module")
def targets(source: GaussianSource, runs: list[Trajectory]) -> np.ndarray:
    """Targets of the exact calibration, float64 (T + 1, runs, M)."""
    exact = Calibration.gaussian(source)
    batches = [list(run.steps())[::-1] for run in runs]
    return np.stack(
        [
            np.concatenate([exact.target(batch[t]) for batch in batches]).astype(np.float64)
            for t in range(PATH.num_steps + 1)
        ]
    )


def per_dimension_tolerance(source: GaussianSource, error: float) -> float:
    """Four standard errors of a mean of squares; a shaped spectrum has fewer numbers that count."""
    v = np.ones(1) if source.spectrum is None else source.spectrum
    return float(4 * error * np.sqrt(2 * np.mean(v**2) / np.mean(v) ** 2 / COUNT))


def test_white_is_known_in_closed_form() -> None:
    white = Calibration.white(PATH)
    np.testing.assert_allclose(white.mmse[:-1], 1 - PATH.alpha_bar[:-1], rtol=1e-12)
    assert white.mmse[-1] == 1
    np.testing.assert_allclose(white.weights[:-1, 0, 1], PATH.signal[:-1])
    assert not white.weights[:, :, 0].any()
    assert not white.weights[-1].any()
    assert white.num_trajectories == 0
    # It serves latents of any shape.
    step = Step(10, np.ones((2, 3, 5, 7), np.float32), np.zeros((2, 3, 5, 7), np.float32))
    assert white.target(step).shape == (2, 105)


def test_gaussian_moments_of_a_flat_spectrum_give_the_white_one() -> None:
    flat = Calibration.gaussian(GaussianSource(SHAPE, PATH, spectrum=np.ones((16, 16))))
    white = Calibration.white(PATH)
    np.testing.assert_allclose(flat.mmse, white.mmse, rtol=1e-6)
    np.testing.assert_allclose(flat.weights, np.broadcast_to(white.weights, flat.weights.shape), atol=1e-5)


def test_gaussian_error_lies_between_the_best_and_the_clean_estimate() -> None:
    source = GaussianSource.natural(SHAPE, PATH)
    calibration = Calibration.gaussian(source)
    # What x_t alone tells, coefficient by coefficient, is all there is to know.
    best = np.concatenate([[0.0], source.mmse[:-1]])
    assert np.all(calibration.mmse >= best - 1e-9)
    assert np.all(calibration.mmse[1:] <= source.mmse[1:] * (1 + 1e-6))
    assert np.all(calibration.mmse[1:-1] < 1.1 * best[1:-1])


def test_fit_finds_the_closed_form(source: GaussianSource, runs: list[Trajectory]) -> None:
    exact, fitted = Calibration.gaussian(source), Calibration.fit(runs, model="gaussian", seed=7)
    assert (fitted.num_trajectories, fitted.model, fitted.seed) == (RUNS, "gaussian", 7)
    assert fitted.latent_shape == SHAPE
    for t in STEPS:
        # 32 weights of 16 bands raise the error of new runs by about 32 / COUNT of itself.
        slack = 3 * 32 / COUNT * exact.mmse[t]
        tolerance = per_dimension_tolerance(source, float(exact.mmse[t])) + slack
        assert fitted.mmse[t] == pytest.approx(exact.mmse[t], abs=tolerance)
    assert fitted.mmse[0] == 0
    assert np.all(fitted.weights[0] == (0, 1))
    assert not fitted.weights[-1].any()
    assert np.all(np.diff(fitted.mmse) >= 0)


def test_fitted_weights_serve_new_runs(source: GaussianSource, runs: list[Trajectory]) -> None:
    fitted = Calibration.fit(runs)
    bands = Bands(SHAPE)
    new = [Trajectory.record(source, "", seed=1000 + seed) for seed in range(RUNS)]
    for t in STEPS:
        errors = [
            np.mean((fitted.target(_step(run, t)) - bands.forward(run.samples[:1])) ** 2) for run in new
        ]
        # Both sides are measured, each on as many runs.
        tolerance = np.sqrt(2) * per_dimension_tolerance(source, float(fitted.mmse[t]))
        assert np.mean(errors) == pytest.approx(fitted.mmse[t], abs=tolerance)


def test_targets_are_a_martingale(source: GaussianSource, targets: np.ndarray) -> None:
    exact = Calibration.gaussian(source)
    final = targets[0]
    error = np.array([np.mean((targets[t] - final) ** 2) for t in (50, *STEPS, 0)])
    assert np.all(np.diff(error) < 0)
    assert error[-1] == 0
    weight = per_dimension_tolerance(source, 1.0)
    for t, later in pairwise(STEPS):
        # Orthogonality: the error is uncorrelated with the target, in every band and so overall.
        spread = np.sqrt(exact.mmse[t] * np.mean(targets[t] ** 2))
        assert abs(np.mean((final - targets[t]) * targets[t])) < weight * spread
        # What a refinement brings is what it takes from the error.
        gained = np.mean((targets[later] - targets[t]) ** 2)
        bands_share = 0.0 if source.spectrum is None else 0.05 * exact.mmse[t]
        assert gained == pytest.approx(
            exact.mmse[t] - exact.mmse[later], abs=2 * weight * exact.mmse[t] + bands_share
        )


def test_other_step_counts_are_interpolated() -> None:
    long = Calibration.white(PATH)
    short_path = NoisePath.stable_diffusion(20)
    short, exact = long.at(short_path), Calibration.white(short_path)
    assert long.at(NoisePath.stable_diffusion(50)) is long
    # beta = sqrt(abar) is bent most near abar = 0; elsewhere linear pieces follow it closely.
    np.testing.assert_allclose(short.mmse, exact.mmse, atol=1e-3)
    np.testing.assert_allclose(short.weights, exact.weights, atol=5e-3)


def test_target_refuses_what_it_was_not_made_for(runs: list[Trajectory]) -> None:
    fitted = Calibration.fit(runs[:2])
    other = np.zeros((1, 4, 8, 8), np.float32)
    with pytest.raises(ParameterError, match=r"shape \(4, 8, 8\)"):
        fitted.target(Step(3, other, other))
    latent = np.zeros((1, *SHAPE), np.float32)
    with pytest.raises(ParameterError, match=r"steps 0\.\.50"):
        fitted.target(Step(51, latent, latent))


def test_fit_refuses_runs_that_do_not_fit(runs: list[Trajectory]) -> None:
    with pytest.raises(ParameterError, match="at least 2"):
        Calibration.fit(runs[:1])
    short = Trajectory.record(GaussianSource(SHAPE, NoisePath.stable_diffusion(10)), "", seed=0)
    with pytest.raises(ParameterError, match="10 steps"):
        Calibration.fit([*runs[:2], short])


def test_files_round_trip(tmp_path: Path, runs: list[Trajectory]) -> None:
    for calibration in (Calibration.fit(runs[:2], model="m", seed=3), Calibration.white(PATH)):
        file = tmp_path / "calibration.json"
        file.write_text(json.dumps(calibration.to_dict()))
        read = Calibration.load(file)
        assert read.to_dict() == calibration.to_dict()
        np.testing.assert_allclose(read.weights, calibration.weights, atol=1e-7)
        assert read.latent_shape == calibration.latent_shape


GOOD: dict[str, Any] = Calibration.white(NoisePath.stable_diffusion(3)).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "\x00\xff",
        json.dumps({**GOOD, "format": "latentcast calibration 2"}),
        json.dumps({name: value for name, value in GOOD.items() if name != "weights"}),
        json.dumps({**GOOD, "mmse": GOOD["mmse"][1:]}),
        json.dumps({**GOOD, "mmse": GOOD["mmse"][::-1]}),
        json.dumps({**GOOD, "mmse": [float("nan")] * 4}),
        json.dumps({**GOOD, "weights": [[1.0]]}),
        json.dumps({**GOOD, "weights": "much"}),
        json.dumps({**GOOD, "alpha_bar": GOOD["alpha_bar"][::-1]}),
        json.dumps({**GOOD, "num_trajectories": float("inf")}),
        json.dumps({**GOOD, "latent_shape": [4, 16]}),
        json.dumps({**GOOD, "latent_shape": ["a", "b", "c"]}),
        json.dumps({**GOOD, "latent_shape": 5}),
        json.dumps({**GOOD, "model": 5}),
        json.dumps({**GOOD, "seed": "five"}),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="model calibrate") as raised:
        Calibration.load(file)
    assert str(file) in str(raised.value)


def test_find_calibration() -> None:
    shipped = find_calibration("scenes", PATH)
    assert shipped is not None
    assert (shipped.model, shipped.latent_shape, shipped.num_steps) == ("scenes", SHAPE, 50)
    assert shipped.num_trajectories >= 48
    # The estimate gets better all the way, and early it knows far more than x_t tells.
    assert shipped.mmse[40] < 0.5 * Calibration.white(PATH).mmse[40]
    at_ten = find_calibration("scenes", NoisePath.stable_diffusion(10))
    assert at_ten is not None
    assert at_ten.num_steps == 10
    exact = find_calibration(GaussianSource(SHAPE, PATH), PATH)
    assert exact is not None
    np.testing.assert_array_equal(exact.mmse, Calibration.white(PATH).mmse)
    assert find_calibration("nobody/knows-this-model", PATH) is None
    assert find_calibration(object(), PATH) is None


def test_command_writes_where_deliver_looks(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\ngreen\nblue\n")
    file = tmp_path / "measured.json"
    before = calibration_file(tiny_folder).read_bytes()
    words = ["model", "calibrate", str(tiny_folder), "--prompts", str(prompts), "--count", "3"]
    assert cli.run([*words, "--steps", "6", "--out", str(file), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["file"] == str(file)
    made = Calibration.load(file)
    assert (made.num_steps, made.num_trajectories, made.seed) == (6, 3, 0)
    assert calibration_file(tiny_folder) == tiny_folder / "calibration.json"
    assert calibration_file(tiny_folder).read_bytes() == before


def test_command_says_what_is_missing(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["model", "calibrate", str(tiny_folder)]) == 2
    assert "--prompts" in capsys.readouterr().err


def _step(run: Trajectory, t: int) -> Step:
    return Step(t, run.samples[t][None], run.clean_estimates[t][None])
