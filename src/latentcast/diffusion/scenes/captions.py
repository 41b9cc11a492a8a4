"""Sentences about scenes, in the few dozen words that the model knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene

__all__ = [
    "FLOOR_PHRASES",
    "MENTION",
    "SKY_PHRASES",
    "VOCABULARY",
    "Description",
    "describe",
    "full_caption",
    "name_of",
]

FLOOR_PHRASES = {
    "plain": ("on a plain floor", "on a plain ground"),
    "checkered": ("on a checkered floor", "on checkered tiles"),
    "wooden": ("on a wooden floor", "on wooden planks"),
}
SKY_PHRASES = {
    "day": ("by day", "under a day sky"),
    "dusk": ("at dusk", "under a dusk sky"),
    "night": ("at night", "under a night sky"),
}
_RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}

MENTION = 0.75
"""Share of clear relations, of floors and of skies that training's captions tell."""

VOCABULARY = tuple(
    sorted(
        {"a", "an", "and", "with", ","}
        | {*COLOURS, *SHAPES, *FLOORS, *SKIES}
        | {
            word
            for phrases in (FLOOR_PHRASES, SKY_PHRASES, _RELATION_PHRASES)
            for variants in phrases.values()
            for variant in variants
            for word in variant.split()
        }
    )
)
"""Every word that a caption can contain."""


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def name_of(colour: str, shape: str) -> str:
    """An object with its article, as in "an orange cube"."""
    words = f"{colour} {shape}"
    return f"{_article(words)} {words}"


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a sentence that leaves nothing out: every clear relation, the floor and the sky."""
    return describe(scene, rng).text


@dataclass(frozen=True, kw_only=True)
class Description:
    """A full caption, and what it tells of where the objects stand.

    Attributes:
        text: the sentence.
        relations: (first, relation, second) for each that is told; indices into the scene's objects.
        order: of mention, as indices into the scene's objects.
    """

    text: str
    relations: tuple[tuple[int, str, int], ...]
    order: tuple[int, ...]


def describe(scene: Scene, rng: np.random.Generator, mention: float = 1.0) -> Description:
    """Write a sentence that is true of a scene, in lower-case words of `VOCABULARY`, and say what it tells.

    The order of mention varies, and relations are told from either side.

    Args:
        scene: what to describe.
        rng: chooses among the many true sentences.
        mention: probability that a clear relation is told, and so the floor, and so the sky.

    Example:
        >>> from latentcast.diffusion.scenes.scene import Scene, SceneObject
        >>> ball = SceneObject(shape="sphere", colour="red", x=-1.0, z=0.0, radius=0.5)
        >>> box = SceneObject(shape="cube", colour="blue", x=1.0, z=0.0, radius=0.5)
        >>> scene = Scene(objects=(ball, box), floor="plain", sky="day")
        >>> describe(scene, np.random.default_rng(1)).relations
        ((0, 'left of', 1),)
    """

    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    order = [int(i) for i in rng.permutation(len(scene.objects))]
    names = [name_of(scene.objects[i].colour, scene.objects[i].shape) for i in order]
    text = names[0]
    relations: list[tuple[int, str, int]] = []
    for position in range(1, len(order)):
        held = scene.relations(order[position - 1], order[position])
        last = position == len(order) - 1
        told = held and rng.random() < mention
        if told:
            relations.append((order[position - 1], held[0], order[position]))
        link = pick(_RELATION_PHRASES[held[0]]) if told else ("and" if last else ",")
        text += f" {link} {names[position]}"
    if rng.random() < mention:
        text += " " + pick(FLOOR_PHRASES[scene.floor])
    if rng.random() < mention:
        text += " " + pick(SKY_PHRASES[scene.sky])
    return Description(text=text, relations=tuple(relations), order=tuple(order))
