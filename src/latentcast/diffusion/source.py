"""Sources of latents: what a denoising run yields step by step, and a recorded run.

The seed of a request feeds three independent streams (`seed_stream`): the noise x_T that server and device
share, the sampler's fresh noise, and the link's fading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError

__all__ = [
    "FloatArray",
    "LatentShape",
    "LatentSource",
    "Step",
    "Trajectory",
    "close_steps",
    "seed_stream",
    "shared_noise",
]

FloatArray = npt.NDArray[np.float32]
LatentShape = tuple[int, int, int]

_STREAMS = ("noise", "sampler", "channel")


def seed_stream(seed: int, name: Literal["noise", "sampler", "channel"]) -> np.random.SeedSequence:
    """One of the independent random streams of a request.

    Args:
        seed: The root seed of the request, a non-negative integer.
        name: "noise" (the shared x_T), "sampler" (fresh noise of the reverse process) or "channel" (fading).

    Returns:
        The child seed sequence; the same for the same arguments on every machine.

    Raises:
        ParameterError: If the seed is negative or not an integer.

    Example:
        >>> seed_stream(7, "channel").spawn_key
        (2,)
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ParameterError(f"seed is {seed!r}; it must be a non-negative integer")
    return np.random.SeedSequence(int(seed)).spawn(len(_STREAMS))[_STREAMS.index(name)]


def shared_noise(seed: int, latent_shape: LatentShape) -> FloatArray:
    """The initial noise x_T, which server and device both derive from the seed (Section II-B).

    Args:
        seed: The root seed of the request.
        latent_shape: (channels, height, width).

    Returns:
        float32 array of `latent_shape`, standard normal.

    Raises:
        ParameterError: If the seed is no non-negative integer.

    Example:
        >>> shared_noise(0, (4, 16, 16)).shape
        (4, 16, 16)
    """
    rng = np.random.Generator(np.random.PCG64(seed_stream(seed, "noise")))
    return rng.standard_normal(latent_shape, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Step:
    """What one denoising step leaves behind.

    Attributes:
        index: The step t in the paper's order: T is noise, 0 the final latent.
        sample: x_t, float32 (batch, channels, height, width).
        clean_estimate: The estimate of x_0 by the network call that produced x_t, that is, made from x_(t+1);
            float32, of the sample's shape. At t = T no call was made: the prior mean, zero.

    Raises:
        ParameterError: If an array is not float32, not four-dimensional, or the shapes differ.
    """

    index: int
    sample: FloatArray
    clean_estimate: FloatArray

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ParameterError(f"step index is {self.index}; it must be 0 or more")
        for name, array in (("sample", self.sample), ("clean_estimate", self.clean_estimate)):
            if array.dtype != np.float32 or array.ndim != 4 or array.shape != self.sample.shape:
                raise ParameterError(
                    f"{name} is {array.dtype} of shape {array.shape}; it must be float32 "
                    "(batch, channels, height, width), the same for sample and clean estimate"
                )


class LatentSource(Protocol):
    """Anything that denoises a batch of requests step by step."""

    @property
    def latent_shape(self) -> LatentShape:
        """(channels, height, width) of one latent."""

    @property
    def path(self) -> NoisePath:
        """Signal and noise coefficients of the samples; its `num_steps` is T."""

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        """Denoise one request per prompt and seed, yielding t = T, T-1, ..., 0.

        The first step is the shared noise. Item i depends on its own prompt and seed, not on the batch.
        """


def close_steps(steps: Iterator[Step]) -> None:
    """Stop a source that may not have come to its end; one that cannot be closed needs no stopping."""
    close = getattr(steps, "close", None)
    if close is not None:
        close()


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectory:
    """A recorded denoising run of one request.

    Attributes:
        samples: x_t indexed by t, float32 (T + 1, channels, height, width).
        clean_estimates: The estimate of x_0 that came with x_t, same shape; zero at t = T.
        prompt: What was asked for.
        seed: The root seed.
        path: The noise path, of T steps.

    Raises:
        ParameterError: If the arrays do not fit each other or the path.
    """

    samples: FloatArray
    clean_estimates: FloatArray
    prompt: str
    seed: int
    path: NoisePath

    def __post_init__(self) -> None:
        for name, array in (("samples", self.samples), ("clean_estimates", self.clean_estimates)):
            if array.dtype != np.float32 or array.ndim != 4 or array.shape != self.samples.shape:
                raise ParameterError(
                    f"{name} is {array.dtype} of shape {array.shape}; it must be float32 "
                    "(T + 1, channels, height, width), the same for samples and clean estimates"
                )
        if len(self.samples) != self.path.num_steps + 1:
            raise ParameterError(
                f"samples hold {len(self.samples)} steps; the path has {self.path.num_steps} steps "
                f"and needs {self.path.num_steps + 1}, from t = 0 to t = {self.path.num_steps}"
            )

    @classmethod
    def record(
        cls,
        source: LatentSource,
        prompt: str,
        seed: int,
        *,
        progress: Callable[[Step], None] | None = None,
    ) -> Trajectory:
        """Denoise one request to the end and keep every step.

        Args:
            source: What denoises.
            prompt: What is asked for.
            seed: The root seed.
            progress: Called with every step as it comes.

        Returns:
            The recorded run.

        Raises:
            ModelError: If the source fails.

        Example:
            >>> from latentcast.diffusion.gaussian import GaussianSource
            >>> source = GaussianSource((1, 4, 4), NoisePath.stable_diffusion(10))
            >>> Trajectory.record(source, "", seed=0).samples.shape
            (11, 1, 4, 4)
        """
        shape = (source.path.num_steps + 1, *source.latent_shape)
        samples = np.empty(shape, np.float32)
        clean_estimates = np.empty(shape, np.float32)
        steps = source.steps([prompt], [seed])
        try:
            for step in steps:
                samples[step.index] = step.sample[0]
                clean_estimates[step.index] = step.clean_estimate[0]
                if progress is not None:
                    progress(step)
        finally:
            close_steps(steps)
        return cls(
            samples=samples, clean_estimates=clean_estimates, prompt=prompt, seed=seed, path=source.path
        )

    @property
    def num_steps(self) -> int:
        """T, the number of denoising steps."""
        return self.path.num_steps

    @property
    def latent_shape(self) -> LatentShape:
        """(channels, height, width) of the latent."""
        _, channels, height, width = self.samples.shape
        return channels, height, width

    def steps(self) -> Iterator[Step]:
        """Play the run back: t = T, T-1, ..., 0, each a batch of one."""
        for index in range(self.num_steps, -1, -1):
            yield Step(index, self.samples[index][None], self.clean_estimates[index][None])
