"""Compositions of colour and shape; some are held out, so that following them is new to the denoiser."""

from __future__ import annotations

from latentcast.diffusion.scenes.scene import COLOURS, SHAPES, Scene

__all__ = ["ALL_LOOKS", "HELD_OUT_LOOKS", "composition_of", "has_any"]

ALL_LOOKS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""Every composition."""

HELD_OUT_LOOKS = ("orange cylinder", "green sphere", "cyan cube", "purple cylinder")
"""Never seen in training: each of their colours is, in two other shapes, and each shape in six colours."""


def composition_of(scene: Scene) -> frozenset[str]:
    """The looks of a scene's objects, as in "orange cylinder"."""
    return frozenset(f"{thing.colour} {thing.shape}" for thing in scene.objects)


def has_any(scene: Scene, looks: tuple[str, ...]) -> bool:
    """Whether any object of a scene has one of these looks.

    Example:
        >>> from latentcast.diffusion.scenes.scene import Scene, SceneObject
        >>> ball = SceneObject(shape="sphere", colour="green", x=0.0, z=0.0, radius=0.5)
        >>> has_any(Scene(objects=(ball,), floor="plain", sky="day"), HELD_OUT_LOOKS)
        True
    """
    return not composition_of(scene).isdisjoint(looks)
