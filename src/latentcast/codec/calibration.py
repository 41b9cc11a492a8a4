"""What the progressive codec sends: the linear MMSE estimate of x_0 from what the server holds.

With step t the server holds the clean estimate of the network call that made x_t, and x_t itself, which has
fresh noise in it that the call had not seen: one more noisy observation of x_0. And guided estimates
overshoot early on. Both are put right, in every band b of frequency, by two weights,

    target_b(t) = alpha_b(t) xhat0_b(t) + beta_b(t) x_t,b,

those of least error. Such errors are orthogonal to the estimate, so that what the device will miss is mmse(t)
plus its distance to the target, and nothing else. For white Gaussian latents alpha = 0 and beta = a_t are
exact, and mmse(t) = 1 - abar_t. Means are not looked at: the prior of every coefficient is centred on 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentcast.codec.bands import Bands
from latentcast.codec.least_squares import Moments
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, Trajectory
from latentcast.errors import ParameterError

__all__ = ["Calibration"]

Array: TypeAlias = NDArray[np.float64]

FORMAT = "latentcast calibration 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Weights of the target at every step and in every band, and how good the target is.

    Attributes:
        weights: alpha and beta, float64 (T + 1, bands, 2); one band stands for all frequencies. At t = 0 they
            are 0 and 1, since the sample is x_0; at t = T both are 0, since nothing is known.
        mmse_band: mean squared error of the target per dimension of a band, float64 (T + 1, bands), from 0 at
            t = 0 to the prior variance at t = T, never falling.
        num_trajectories: how many runs it was fitted to; 0 where it is exact.
        seed: root seed of those runs; None where there are none.
        model: what made the runs; None for a closed form.
        latent_shape: (channels, height, width) that the bands belong to; None for any.

    Raises:
        ParameterError: if the arrays do not fit each other, or hold what no calibration can.
    """

    weights: Array = field(repr=False)
    mmse_band: Array = field(repr=False)
    num_trajectories: int = 0
    seed: int | None = None
    model: str | None = None
    latent_shape: LatentShape | None = None

    def __post_init__(self) -> None:
        error, weights = self.mmse_band, self.weights
        if error.ndim != 2 or len(error) < 2 or weights.shape != (*error.shape, 2):
            raise ParameterError(
                f"weights have shape {weights.shape} and mmse_band {error.shape}; they must be "
                "(T + 1, bands, 2) and (T + 1, bands)"
            )
        if not (np.all(np.isfinite(weights)) and np.all(np.isfinite(error))):
            raise ParameterError("weights or mmse_band hold infinity or NaN; every number must be finite")
        if np.any(error[0] != 0.0) or np.any(np.diff(error, axis=0) < 0.0):
            raise ParameterError("mmse_band must be 0 at t = 0 and never fall with t")
        if np.any(weights[0] != (0.0, 1.0)) or np.any(weights[-1] != 0.0):
            raise ParameterError("weights must be (0, 1) at t = 0 and (0, 0) at t = T, in every band")
        if self.num_trajectories < 0:
            raise ParameterError(f"num_trajectories is {self.num_trajectories}; it must be 0 or more")
        bands = 1 if self.latent_shape is None else Bands(self.latent_shape).num_bands
        if bands != error.shape[1]:
            raise ParameterError(
                f"there are weights for {error.shape[1]} bands; latents of shape "
                f"{self.latent_shape or 'any'} have {bands}"
            )

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.mmse_band) - 1

    @cached_property
    def mmse(self) -> Array:
        """Mean squared error of the target per dimension at t = 0..T, float64 (T + 1,), never falling."""
        if self.latent_shape is None:
            return self.mmse_band[:, 0]
        sizes = np.bincount(Bands(self.latent_shape).band_of)
        mean: Array = self.mmse_band @ (sizes / sizes.sum())
        # A weighted sum rounds; it must not turn a level stretch into a fall.
        return np.maximum.accumulate(mean)

    @classmethod
    def white(cls, path: NoisePath) -> Calibration:
        """The exact one of white Gaussian latents: alpha = 0, beta = a_t / (a_t^2 + s_t^2).

        Its numbers depend on the schedule alone, so it serves latents of any shape.

        Example:
            >>> calibration = Calibration.white(NoisePath.stable_diffusion(50))
            >>> round(float(calibration.mmse[25]), 6)
            0.697705
        """
        power = path.signal**2 + path.noise**2
        weights = np.zeros((path.num_steps + 1, 1, 2))
        weights[:, 0, 1] = path.signal / power
        mmse = path.noise**2 / power
        # x_T is noise that the device could have made itself.
        weights[-1], mmse[-1] = 0.0, 1.0
        return cls(weights=weights, mmse_band=mmse[:, None])

    @classmethod
    def gaussian(cls, source: GaussianSource) -> Calibration:
        """The best weights per band for a Gaussian source, from its exact second moments.

        x_t = a_t x_0 + s_t eps knows all of x_0 that x_(t+1), and so the clean estimate, knows. In a band of
        one variance beta alone is at work; where variances differ within a band, the clean estimate, shrunk
        coefficient by coefficient, helps.

        Example:
            >>> source = GaussianSource((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> exact = Calibration.white(source.path)
            >>> bool(np.allclose(Calibration.gaussian(source).mmse, exact.mmse))
            True
        """
        bands = Bands(source.latent_shape)
        v = bands.in_scan_order(source.spectrum)
        a, s = source.path.signal[:, None], source.path.noise[:, None]
        power = a**2 * v + s**2
        gain = a[1:] * v / power[1:]  # of the clean estimate that comes with t = 0..T-1
        ratio = a[1:] / a[:-1]
        shape = (source.path.num_steps, v.size)
        moments = Moments(
            estimate=np.broadcast_to(gain**2 * power[1:], shape),
            cross=np.broadcast_to(gain * ratio * power[:-1], shape),
            sample=np.broadcast_to(power[:-1], shape),
            estimate_final=np.broadcast_to(gain * a[1:] * v, shape),
            sample_final=np.broadcast_to(a[:-1] * v, shape),
            final=v[None],
        ).by_band(bands)
        weights = moments.weights()
        return cls._with_ends(weights, moments.error(weights), moments.final, source.latent_shape)

    @classmethod
    def fit(
        cls, trajectories: Iterable[Trajectory], *, model: str | None = None, seed: int | None = None
    ) -> Calibration:
        """Fit the weights to recorded runs by least squares.

        The error is measured on each run with weights fitted to all the others, so that it holds for new
        runs, and made monotone: knowing more never hurts, and a rise where t falls is noise of the fit.

        Args:
            trajectories: runs of one model, read once; some dozens are enough.
            model: what made them.
            seed: their root seed.

        Raises:
            ParameterError: if there are fewer than two, or they do not fit each other.

        Example:
            >>> source = GaussianSource((4, 16, 16), NoisePath.stable_diffusion(50))
            >>> runs = [Trajectory.record(source, "", seed=seed) for seed in range(8)]
            >>> calibration = Calibration.fit(runs)
            >>> bool(abs(calibration.mmse[25] / Calibration.white(source.path).mmse[25] - 1) < 0.05)
            True
        """
        runs: list[Moments] = []
        first: tuple[NoisePath, LatentShape] | None = None
        for run in trajectories:
            if first is None:
                first = run.path, run.latent_shape
            if (run.path, run.latent_shape) != first:
                raise ParameterError(
                    f"run {len(runs)} has {run.num_steps} steps of shape {run.latent_shape}, the first had "
                    f"{first[0].num_steps} of shape {first[1]}; all must be of one model and schedule"
                )
            runs.append(Moments.of_run(run.clean_estimates, run.samples, Bands(run.latent_shape)))
        if first is None or len(runs) < 2:
            raise ParameterError(f"{len(runs)} trajectories cannot be calibrated with; give at least 2")
        moments = Moments.stack(runs)
        error = moments.error(moments.without_each().weights()).mean(axis=0)
        mean = moments.mean()
        exact = cls._with_ends(mean.weights(), error, mean.final, first[1])
        return replace(exact, num_trajectories=len(runs), seed=seed, model=model)

    @classmethod
    def _with_ends(cls, weights: Array, error: Array, prior: Array, latent_shape: LatentShape) -> Calibration:
        """Put t = 0, where the sample is x_0, and t = T, where nothing is known, to the steps between."""
        weights = np.concatenate([weights, np.zeros_like(weights[:1])])
        weights[0] = 0.0, 1.0
        error = np.concatenate([np.zeros_like(prior), error[1:], prior])
        return cls(weights=weights, mmse_band=_rising(error), latent_shape=latent_shape)

    @cached_property
    def _per_coefficient(self) -> NDArray[np.float32]:
        """Weights of every coefficient, or one for all, float32 (T + 1, M or 1, 2)."""
        weights = self.weights
        if self.latent_shape is not None:
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
        if step.index > self.num_steps or self.latent_shape not in (None, shape):
            raise ParameterError(
                f"step {step.index} has latents of shape {shape}; the calibration is for steps "
                f"0..{self.num_steps} and shape {self.latent_shape or 'any'}"
            )
        bands = Bands(shape)
        alpha, beta = np.moveaxis(self._per_coefficient[step.index], -1, 0)
        target = beta * bands.forward(step.sample)
        if alpha.any():
            target += alpha * bands.forward(step.clean_estimate)
        return target

    def to_json(self) -> str:
        """The calibration as JSON text, numbers rounded to about float32's precision."""
        stored = {
            "format": FORMAT,
            "model": self.model,
            "num_trajectories": self.num_trajectories,
            "seed": self.seed,
            "latent_shape": self.latent_shape,
            "num_steps": self.num_steps,
            "mmse": _rounded(self.mmse),
            "mmse_band": _rounded(self.mmse_band),
            "weights": _rounded(self.weights),
        }
        # One step a line.
        lines = json.dumps(stored).replace("]], [[", "]],\n[[").replace(', "', ',\n"')
        return re.sub(r"(?<=\d\]), \[(?=\d)", ",\n[", lines) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            ParameterError: if the text is no calibration, or one that contradicts itself.
        """
        try:
            stored: dict[str, Any] = json.loads(text)
            if not isinstance(stored, dict) or stored.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            shape, model, seed = stored["latent_shape"], stored["model"], stored["seed"]
            if shape is not None and not (len(shape) == 3 and all(type(size) is int for size in shape)):
                raise ValueError(f"latent_shape is {shape}; it must be three integers or null")
            if not isinstance(model, str | None) or not isinstance(seed, int | None):
                raise ValueError(f"model is {model!r} and seed {seed!r}; they must be text and integer")
            result = cls(
                weights=np.array(stored["weights"], np.float64),
                mmse_band=np.array(stored["mmse_band"], np.float64),
                num_trajectories=int(stored["num_trajectories"]),
                seed=seed,
                model=model,
                latent_shape=None if shape is None else (shape[0], shape[1], shape[2]),
            )
            if stored["num_steps"] != result.num_steps:
                raise ValueError(f"num_steps is {stored['num_steps']}, its arrays have {result.num_steps}")
        except KeyError as error:
            raise ParameterError(f"this is no calibration: it lacks {error}") from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ParameterError(f"this is no calibration: {' '.join(str(error).split())[:200]}") from error
        return result


def _rising(error: Array) -> Array:
    """The nearest values in the squared sense that never fall with t, band by band."""
    # Only a fit needs it; scipy.optimize takes long to import.
    from scipy.optimize import isotonic_regression

    inner = np.maximum(error, 0.0)
    rising = np.stack([isotonic_regression(column).x for column in inner.T], axis=1)
    rising[0] = 0.0
    return np.maximum.accumulate(rising, axis=0)


def _rounded(values: Array) -> Any:
    """Nested lists of numbers with nine significant digits."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{values:.9g}")
