"""Prompts for measuring the embedded model: captions of scenes that its training never saw."""

from __future__ import annotations

import numpy as np

from latentcast.diffusion.scenes.arrangement import arrange, draw_object_count
from latentcast.diffusion.scenes.captions import full_caption
from latentcast.diffusion.scenes.reading import interpret
from latentcast.errors import ParameterError

__all__ = ["NUM_HELD_OUT", "held_out_prompts"]

NUM_HELD_OUT = 500

# No stage of training has this seed; see `plan.StageSeeds`.
_SEED = 8

# The language's sentences about one object are few, but of two and three there are millions.
_MAX_PROMPTS = 10_000


def held_out_prompts(count: int = NUM_HELD_OUT) -> tuple[str, ...]:
    """Distinct captions of scenes drawn from a seed that training does not use.

    A caption tells every clear relation, the floor and the sky, in the words in which the model is given it.
    The scenes are new; a sentence about a single object can be one that a training picture also has, since
    the language has few of those. Whether an object hides another is not looked at, because no picture of the
    scene is needed.

    Args:
        count: How many, 1 to 10000. Fewer are the beginning of more.

    Returns:
        The captions, always the same.

    Raises:
        ParameterError: If the count is out of range.

    Example:
        >>> held_out_prompts(1)
        ('a purple cylinder in front of a purple cube on a checkered floor by day',)
    """
    if not 1 <= count <= _MAX_PROMPTS:
        raise ParameterError(f"the number of held-out prompts is {count}; it must be 1 to {_MAX_PROMPTS}")
    root = np.random.SeedSequence(_SEED)
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        rng = np.random.default_rng(root.spawn(1)[0])
        num_objects = draw_object_count(rng)
        while (scene := arrange(rng, num_objects)) is None:
            pass
        # Two wordings that the model is given as the same sentence would be the same prompt.
        prompts[interpret(full_caption(scene, rng)).caption] = None
    return tuple(prompts)
