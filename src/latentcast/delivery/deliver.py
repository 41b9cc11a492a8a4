"""One episode in one call: generate, send over a drawn channel, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.delivery.episode import Episode
from latentcast.delivery.timeline import Decode, Timeline
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.source import LatentSource, Step, Trajectory, close_steps, seed_stream
from latentcast.policy.base import Policy
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

__all__ = ["deliver", "draw_rates"]


def draw_rates(scenario: Scenario, seed: int) -> npt.NDArray[np.float64]:
    """Bits that the link carries in each slot of an episode.

    Args:
        scenario: Gives link and deadline.
        seed: Root seed of the request.

    Returns:
        float64 (deadline_slots,); the same for every policy, and the same in the slots that two deadlines
        share.

    Raises:
        ParameterError: If the seed is no non-negative integer.

    Example:
        >>> draw_rates(Scenario.paper(snr_db=0.0), seed=3).shape
        (60,)
    """
    rng = np.random.Generator(np.random.PCG64(seed_stream(seed, "channel")))
    return np.asarray(scenario.link.sample(1, scenario.deadline_slots, rng=rng)[0])


def deliver(
    request: str | Trajectory,
    scenario: Scenario,
    policy: Policy | ProgressivePolicy,
    *,
    model: str | Path | LatentSource | None = None,
    seed: int | None = None,
    device: str = "cpu",
    rates_bits: npt.ArrayLike | None = None,
    decode: Decode | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Timeline:
    """Run one episode: generate, send over a drawn channel, and record what the device had at the deadline.

    Args:
        request: A prompt, or a recorded trajectory.
        scenario: What is fixed.
        policy: Decides when, and how finely, and by which codec.
        model: For a prompt: a source, or the name, folder or hub id of a pipeline to load; None for the
            embedded model. For a trajectory: what made it, for the record, and for its decoder if it is a
            loaded model.
        seed: Root seed; None for the trajectory's, and 0 for a prompt. For a trajectory it draws the channel
            alone.
        device: torch device of a pipeline that is loaded.
        rates_bits: Bits per slot, shape (deadline_slots,); None draws them from the scenario's link, the same
            for every policy at the same seed.
        decode: Decoder for `Timeline.psnr_db`; None for the model's own, if it has one.
        progress: Called with every step as it comes.

    Returns:
        The timeline.

    Raises:
        ParameterError: If the arguments do not fit each other.
        ModelError: If the model cannot be loaded or run.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> from latentcast.policy.baselines import PersistentPolicy
        >>> scenario = Scenario.for_latent(256, snr_db=10.0)
        >>> source = GaussianSource((4, 8, 8), scenario.path)
        >>> timeline = deliver("anything", scenario, PersistentPolicy(scenario, bits=4), model=source, seed=1)
        >>> timeline.slots[-1].held_step < 10
        True
    """
    steps: Iterator[Step]
    if isinstance(request, Trajectory):
        prompt, path, steps = request.prompt, request.path, request.steps()
        seed = request.seed if seed is None else seed
    else:
        if model is None or isinstance(model, str | Path):
            model = load_pipeline(model or "scenes", device, num_steps=scenario.num_steps)
        seed = 0 if seed is None else seed
        prompt, path, steps = request, model.path, model.steps([request], [seed])
    if decode is None:
        decode = getattr(model, "decode", None)
    rates = draw_rates(scenario, seed) if rates_bits is None else rates_bits
    try:
        noise = next(steps)
        episode = Episode(scenario, policy, noise.sample[0], rates, path=path)
        for step in chain([noise], steps):
            episode.advance(step)
            if progress is not None:
                progress(step)
    finally:
        # An error's traceback would keep a source that denoises in a thread alive.
        close_steps(steps)
    return episode.finish(prompt=prompt, model=_name(model), seed=seed, decode=decode)


def _name(model: str | Path | LatentSource | None) -> str | None:
    if model is None or isinstance(model, str | Path):
        return None if model is None else str(model)
    name: str = getattr(model, "name", type(model).__name__)
    return name
