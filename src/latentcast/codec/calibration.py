"""What the progressive codec sends: the linear MMSE estimate of x_0 from what the server holds.

With step t the server holds the clean estimate of the network call that made x_t, and x_t itself, which has
fresh noise in it that the call had not seen: one more noisy observation of x_0. And guided estimates
overshoot early on. Both are put right, in every band b of frequency, by two weights,

    target_b(t) = alpha_b(t) xhat0_b(t) + beta_b(t) x_t,b,

fitted to recorded runs by least squares. Errors of least squares are orthogonal to the estimate, so that what
the device will miss is mmse(t) plus its distance to the target, and nothing else. For white Gaussian latents
alpha = 0 and beta = a_t are exact, and mmse(t) = 1 - abar_t.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.loading import find_model
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, Trajectory
from latentcast.errors import ModelError, ParameterError

__all__ = ["Calibration", "calibration_file", "find_calibration"]

FloatArray: TypeAlias = NDArray[np.float64]

FORMAT = "latentcast calibration 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Weights of the target at every step and in every band, and how good it is.

    Attributes:
        weights: alpha and beta, float64 (T + 1, bands, 2); one band stands for all frequencies.
        mmse: mean squared error of the target per dimension at t = 0..T, float64 (T + 1,), rising with t.
        alpha_bar: of the noise path that it belongs to, float64 (T + 1,), falling with t.
        num_trajectories: how many runs it was fitted to; 0 where it is exact.
        model: what made the runs.
        latent_shape: (channels, height, width) that the bands belong to, None for any.

    Raises:
        ParameterError: if the arrays do not fit each other, or hold what no calibration can.
    """

    weights: FloatArray = field(repr=False)
    mmse: FloatArray = field(repr=False)
    alpha_bar: FloatArray = field(repr=False)
    num_trajectories: int = 0
    model: str | None = None
    latent_shape: LatentShape | None = None

    def __post_init__(self) -> None:
        steps = self.mmse.size
        shapes = self.weights.shape[:1], self.weights.shape[2:], self.mmse.shape, self.alpha_bar.shape
        if self.weights.ndim != 3 or shapes != ((steps,), (2,), (steps,), (steps,)) or steps < 2:
            raise ParameterError(
                f"weights have shape {self.weights.shape}, mmse {self.mmse.shape} and alpha_bar "
                f"{self.alpha_bar.shape}; they must be (T + 1, bands, 2), (T + 1,) and (T + 1,)"
            )
        if not all(np.all(np.isfinite(values)) for values in (self.weights, self.mmse, self.alpha_bar)):
            raise ParameterError("a calibration holds infinity or NaN; every number must be finite")
        if np.any(self.mmse < 0.0) or np.any(np.diff(self.mmse) < 0.0):
            raise ParameterError("mmse must not be negative, nor fall with t")
        if np.any(np.diff(self.alpha_bar) >= 0.0):
            raise ParameterError("alpha_bar must fall with t")
        if self.weights.shape[1] > 1:
            bands = None if self.latent_shape is None else Bands(self.latent_shape).num_bands
            if bands != self.weights.shape[1]:
                raise ParameterError(
                    f"weights are for {self.weights.shape[1]} bands; latents of shape {self.latent_shape} "
                    f"have {bands}"
                )

    @property
    def num_steps(self) -> int:
        """T."""
        return self.mmse.size - 1

    @classmethod
    def white(cls, path: NoisePath) -> Calibration:
        """The exact one of white Gaussian latents: alpha = 0, beta = a_t / (a_t^2 + s_t^2).

        Example:
            >>> calibration = Calibration.white(NoisePath.stable_diffusion(50))
            >>> round(float(calibration.mmse[25]), 6)
            0.697704
        """
        power = path.signal**2 + path.noise**2
        weights = np.zeros((path.num_steps + 1, 1, 2))
        weights[:, 0, 1] = path.signal / power
        mmse = path.noise**2 / power
        # x_T is the noise that the device could have made itself.
        weights[-1], mmse[-1] = 0.0, 1.0
        return cls(weights=weights, mmse=np.maximum.accumulate(mmse), alpha_bar=path.alpha_bar)

    @classmethod
    def gaussian(cls, source: GaussianSource) -> Calibration:
        """That of a Gaussian source, exact if it is white, else with one variance for each band.

        Example:
            >>> source = GaussianSource.natural((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> calibration = Calibration.gaussian(source)
            >>> bool(calibration.mmse[25] < 0.6)
            True
        """
        path = source.path
        if source.spectrum is None:
            return cls.white(path)
        bands = Bands(source.latent_shape)
        variance = bands.in_scan_order(source.spectrum)
        counts = np.bincount(bands.band_of)
        of_band = np.bincount(bands.band_of, weights=variance) / counts
        a, s = path.signal[:, None], path.noise[:, None]
        beta = a * of_band / (a**2 * of_band + s**2)
        beta[-1] = 0.0
        error = ((1.0 - a * beta) ** 2 * of_band + (s * beta) ** 2) @ counts / bands.size
        weights = np.stack((np.zeros_like(beta), beta), axis=-1)
        return cls(
            weights=weights,
            mmse=np.maximum.accumulate(error),
            alpha_bar=path.alpha_bar,
            latent_shape=source.latent_shape,
        )

    @classmethod
    def fit(cls, trajectories: Iterable[Trajectory], *, model: str | None = None) -> Calibration:
        """Fit the weights by least squares.

        Args:
            trajectories: recorded runs of one model, read once; some dozens are enough.
            model: what made them.

        Raises:
            ParameterError: if there are none, or they do not fit each other.

        Example:
            >>> from latentcast.diffusion.gaussian import GaussianSource
            >>> source = GaussianSource((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> runs = [Trajectory.record(source, "", seed=seed) for seed in range(8)]
            >>> calibration = Calibration.fit(runs)
            >>> bool(abs(calibration.mmse[25] / (1 - source.path.alpha_bar[25]) - 1) < 0.05)
            True
        """
        sums: _Moments | None = None
        for trajectory in trajectories:
            if sums is None:
                sums = _Moments(trajectory)
            sums.add(trajectory)
        if sums is None:
            raise ParameterError("there are no trajectories to calibrate with; record at least one")
        weights, mmse = sums.solve()
        return cls(
            weights=weights,
            mmse=mmse,
            alpha_bar=sums.path.alpha_bar,
            num_trajectories=sums.count,
            model=model,
            latent_shape=sums.bands.latent_shape,
        )

    def at(self, path: NoisePath) -> Calibration:
        """The calibration for another number of steps of the same model, interpolated in abar_t.

        Args:
            path: the noise path of the run.

        Returns:
            Itself where the steps are the same.

        Example:
            >>> short = Calibration.white(NoisePath.stable_diffusion(50)).at(NoisePath.stable_diffusion(10))
            >>> short.num_steps
            10
        """
        if path.num_steps == self.num_steps and np.allclose(path.alpha_bar, self.alpha_bar, atol=1e-6):
            return self
        weights = np.empty((path.num_steps + 1, *self.weights.shape[1:]))
        # abar falls with t, interpolation wants it rising.
        for place in np.ndindex(*self.weights.shape[1:]):
            known = self.weights[::-1, *place]
            weights[:, *place] = np.interp(path.alpha_bar, self.alpha_bar[::-1], known)
        mmse = np.interp(path.alpha_bar, self.alpha_bar[::-1], self.mmse[::-1])
        weights[0], mmse[0] = self.weights[0], self.mmse[0]
        weights[-1], mmse[-1] = self.weights[-1], self.mmse[-1]
        return replace(self, weights=weights, mmse=np.maximum.accumulate(mmse), alpha_bar=path.alpha_bar)

    @cached_property
    def _per_coefficient(self) -> NDArray[np.float32]:
        """Weights of every coefficient, or of all alike, float32 (T + 1, M or 1, 2)."""
        weights = self.weights
        if self.latent_shape is not None and weights.shape[1] > 1:
            weights = weights[:, Bands(self.latent_shape).band_of]
        return weights.astype(np.float32)

    def target(self, step: Step) -> NDArray[np.float32]:
        """The estimate of x_0 as the codec wants it.

        Args:
            step: t with x_t and the clean estimate, of any batch.

        Returns:
            Coefficients in scan order, float32 (batch, M).

        Raises:
            ParameterError: if the step or its shape is not what was calibrated for.
        """
        _, channels, height, width = step.sample.shape
        shape = (channels, height, width)
        if not 0 <= step.index <= self.num_steps or self.latent_shape not in (None, shape):
            raise ParameterError(
                f"step {step.index} has latents of shape {shape}; the calibration is for steps "
                f"0..{self.num_steps} and shape {self.latent_shape}"
            )
        bands = Bands(shape)
        weights = self._per_coefficient[step.index]
        target: NDArray[np.float32] = weights[:, 1] * bands.forward(step.sample)
        if np.any(weights[:, 0]):
            target += weights[:, 0] * bands.forward(step.clean_estimate)
        return target

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "model": self.model,
            "num_trajectories": self.num_trajectories,
            "latent_shape": None if self.latent_shape is None else list(self.latent_shape),
            "alpha_bar": self.alpha_bar.tolist(),
            "mmse": [round(value, 9) for value in self.mmse.tolist()],
            "weights": np.round(self.weights, 7).tolist(),
        }

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `to_dict` gave, from a JSON file.

        Raises:
            ModelError: if the file cannot be read or is no calibration.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(stored, dict) or stored.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            shape = stored["latent_shape"]
            return cls(
                weights=np.array(stored["weights"], np.float64),
                mmse=np.array(stored["mmse"], np.float64),
                alpha_bar=np.array(stored["alpha_bar"], np.float64),
                num_trajectories=int(stored["num_trajectories"]),
                model=stored["model"],
                latent_shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError, ParameterError) as error:
            raise ModelError(
                f"cannot read the calibration {path}: {error}; make it anew with latentcast model calibrate"
            ) from error


def calibration_file(model: str | Path) -> Path:
    """Where a model's calibration is kept: in its folder, or in the user's cache for one of the hub.

    Raises:
        ModelError: if there is no such model.

    Example:
        >>> calibration_file("scenes").name
        'calibration.json'
    """
    place = find_model(model)
    if isinstance(place, Path):
        return place / "calibration.json"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "latentcast" / f"calibration-{place.replace('/', '--')}.json"


def find_calibration(model: object, path: NoisePath) -> Calibration | None:
    """The calibration of a model, if there is one.

    Args:
        model: a name, folder or hub id; a loaded model, which has one of these as its `name`; or a Gaussian
            source, whose calibration follows from its spectrum.
        path: the noise path of the run.

    Returns:
        The calibration for that path, or None where the model has not been calibrated.

    Raises:
        ModelError: if its file is damaged.

    Example:
        >>> find_calibration("scenes", NoisePath.stable_diffusion(50)).num_steps
        50
    """
    if isinstance(model, GaussianSource):
        return Calibration.gaussian(model)
    name = model if isinstance(model, str | Path) else getattr(model, "name", None)
    if not isinstance(name, str | Path):
        return None
    try:
        file = calibration_file(name)
    except ModelError:  # a source of one's own
        return None
    return Calibration.load(file).at(path) if file.is_file() else None


class _Moments:
    """Sums of products, in every step and band, of which least squares is made."""

    def __init__(self, first: Trajectory) -> None:
        self.bands = Bands(first.latent_shape)
        self.path = first.path
        self.count = 0
        shape = (first.num_steps + 1, self.bands.num_bands)
        self._of_features = np.zeros((*shape, 2, 2))
        self._with_final = np.zeros((*shape, 2))
        self._of_final = np.zeros(shape[1])

    def add(self, run: Trajectory) -> None:
        if run.latent_shape != self.bands.latent_shape or run.num_steps != self.path.num_steps:
            raise ParameterError(
                f"a trajectory has {run.num_steps} steps of shape {run.latent_shape}, the first had "
                f"{self.path.num_steps} of {self.bands.latent_shape}; all must be of one model"
            )
        estimates = self.bands.forward(run.clean_estimates).astype(np.float64)
        samples = self.bands.forward(run.samples).astype(np.float64)
        final = samples[0]
        self.count += 1
        for row, first in enumerate((estimates, samples)):
            self._with_final[..., row] += self._by_band(first * final)
            for column, second in enumerate((estimates, samples)):
                self._of_features[..., row, column] += self._by_band(first * second)
        self._of_final += self._by_band(final**2)

    def solve(self) -> tuple[FloatArray, FloatArray]:
        steps = self._with_final.shape[0]
        # A little regularisation keeps a step whose two features are the same solvable.
        ridge = 1e-6 * np.trace(self._of_features, axis1=-2, axis2=-1)[..., None, None] + 1e-12
        weights = np.linalg.solve(self._of_features + ridge * np.eye(2), self._with_final[..., None])[..., 0]
        # At t = 0 the sample is x_0; at t = T nothing is known.
        weights[0], weights[-1] = (0.0, 1.0), 0.0
        explained = 2.0 * np.sum(weights * self._with_final, axis=-1) - np.einsum(
            "tbi,tbij,tbj->tb", weights, self._of_features, weights
        )
        error = (self._of_final - explained).sum(axis=1) / (self.count * self.bands.size)
        error[0] = 0.0
        # Knowing more never hurts: a rise where t falls is noise of the fit.
        return weights, np.maximum.accumulate(np.maximum(error, 0.0)).reshape(steps)

    def _by_band(self, values: FloatArray) -> FloatArray:
        starts = np.flatnonzero(np.diff(self.bands.band_of, prepend=-1))
        return np.add.reduceat(values, starts, axis=-1)
