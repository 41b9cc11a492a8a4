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
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.codec.least_squares import Moments
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.loading import file_of_model
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
        seed: root seed of the runs, None where there are none.
        model: what made the runs.
        latent_shape: (channels, height, width) that the bands belong to, None for any.

    Raises:
        ParameterError: if the arrays do not fit each other, or hold what no calibration can.
    """

    weights: FloatArray = field(repr=False)
    mmse: FloatArray = field(repr=False)
    alpha_bar: FloatArray = field(repr=False)
    num_trajectories: int = 0
    seed: int | None = None
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
        """That of a Gaussian source, from its exact second moments.

        x_t knows of x_0 all that x_(t+1) knows, so for white latents the clean estimate adds nothing. Within
        a band of different variances it does: it is shrunk coefficient by coefficient.

        Example:
            >>> source = GaussianSource.natural((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> calibration = Calibration.gaussian(source)
            >>> bool(calibration.mmse[25] < 0.5)
            True
        """
        path = source.path
        if source.spectrum is None:
            return cls.white(path)
        bands = Bands(source.latent_shape)
        v = source.spectrum
        a, s = path.signal[:, None, None], path.noise[:, None, None]
        power = a**2 * v + s**2
        gain = a[1:] * v / power[1:]  # of the estimates that come with t = 0..T-1
        # x_(t+1) is a_(t+1) / a_t x_t and noise of its own.
        cross = gain * a[1:] / a[:-1] * power[:-1]
        moments = Moments(
            estimate=bands.in_scan_order(gain**2 * power[1:]),
            cross=bands.in_scan_order(cross),
            sample=bands.in_scan_order(power[:-1]),
            estimate_final=bands.in_scan_order(gain * a[1:] * v),
            sample_final=bands.in_scan_order(a[:-1] * v),
            final=bands.in_scan_order(v)[None],
        ).by_band(bands)
        weights = moments.weights()
        return cls._with_ends(weights, moments.error(weights), moments.final, path, bands)

    @classmethod
    def fit(
        cls, trajectories: Iterable[Trajectory], *, model: str | None = None, seed: int | None = None
    ) -> Calibration:
        """Fit the weights by least squares.

        mmse is measured on each run with weights fitted to all the others, so that it holds for new ones.

        Args:
            trajectories: recorded runs of one model, read once; some dozens are enough.
            model: what made them.
            seed: their root seed.

        Raises:
            ParameterError: if there are fewer than two, or they do not fit each other.

        Example:
            >>> from latentcast.diffusion.gaussian import GaussianSource
            >>> source = GaussianSource((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> runs = [Trajectory.record(source, "", seed=seed) for seed in range(8)]
            >>> calibration = Calibration.fit(runs)
            >>> bool(abs(calibration.mmse[25] / (1 - source.path.alpha_bar[25]) - 1) < 0.05)
            True
        """
        runs: list[Moments] = []
        first: Trajectory | None = None
        for run in trajectories:
            first = run if first is None else first
            if (run.path, run.latent_shape) != (first.path, first.latent_shape):
                raise ParameterError(
                    f"a trajectory has {run.num_steps} steps of shape {run.latent_shape}, the first had "
                    f"{first.num_steps} of {first.latent_shape}; all must be of one model and noise path"
                )
            runs.append(Moments.of_run(run, Bands(run.latent_shape)))
        if first is None or len(runs) < 2:
            raise ParameterError(f"there are {len(runs)} trajectories to calibrate with; record at least 2")
        moments = Moments.stack(runs)
        mean = moments.mean()
        error = moments.error(moments.without_each().weights()).mean(axis=0)
        fitted = cls._with_ends(mean.weights(), error, mean.final, first.path, Bands(first.latent_shape))
        return replace(fitted, num_trajectories=len(runs), seed=seed, model=model)

    @classmethod
    def _with_ends(
        cls, weights: FloatArray, error: FloatArray, prior: FloatArray, path: NoisePath, bands: Bands
    ) -> Calibration:
        """From what is fitted at t = 0..T-1 by band, where t = 0 stands for nothing: there x_t is x_0."""
        weights = np.concatenate([weights, np.zeros_like(weights[:1])])
        weights[0] = 0.0, 1.0
        # At t = T nothing is known.
        mmse = np.concatenate([error, prior]) @ (np.bincount(bands.band_of) / bands.size)
        mmse[0] = 0.0
        return cls(
            weights=weights,
            # Knowing more never hurts: a rise where t falls is noise of the fit.
            mmse=np.maximum.accumulate(np.maximum(mmse, 0.0)),
            alpha_bar=path.alpha_bar,
            latent_shape=bands.latent_shape,
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
        if not weights[:, 0].any():
            final: NDArray[np.float32] = weights[:, 1] * bands.forward(step.sample)
            return final
        estimate, sample = bands.forward(np.stack([step.clean_estimate, step.sample]))
        target: NDArray[np.float32] = weights[:, 1] * sample + weights[:, 0] * estimate
        return target

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "model": self.model,
            "num_trajectories": self.num_trajectories,
            "seed": self.seed,
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
            shape, seed, model = stored["latent_shape"], stored.get("seed"), stored["model"]
            if not (isinstance(model, str | None) and isinstance(seed, int | None)):
                raise ValueError(f"model is {model!r} and seed {seed!r}; they must be text and an integer")
            if shape is not None and not (len(shape) == 3 and all(type(size) is int for size in shape)):
                raise ValueError(f"latent_shape is {shape}; it must be three integers or null")
            return cls(
                weights=np.array(stored["weights"], np.float64),
                mmse=np.array(stored["mmse"], np.float64),
                alpha_bar=np.array(stored["alpha_bar"], np.float64),
                num_trajectories=int(stored["num_trajectories"]),
                seed=seed,
                model=model,
                latent_shape=None if shape is None else (shape[0], shape[1], shape[2]),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
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
    return file_of_model(model, "calibration.json")


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
