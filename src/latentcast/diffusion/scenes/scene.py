"""What a scene is: objects on a floor under a sky.

The world is right-handed with y up; the floor is y = 0; the camera looks along +z, so a smaller z is nearer.
Lengths are in units of about one object's diameter.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "COLOURS",
    "FINISHES",
    "FLOORS",
    "RELATIONS",
    "SHAPES",
    "SKIES",
    "Camera",
    "Scene",
    "SceneObject",
]

SHAPES = ("sphere", "cube", "cylinder")
FLOORS = ("plain", "checkered", "wooden")
SKIES = ("day", "dusk", "night")
RELATIONS = ("left of", "right of", "in front of", "behind")

# Linear-light albedos, apart enough to be named without doubt under every sky.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.70, 0.035, 0.03),
    "orange": (0.88, 0.24, 0.015),
    "yellow": (0.85, 0.66, 0.03),
    "green": (0.06, 0.42, 0.06),
    "cyan": (0.04, 0.55, 0.60),
    "blue": (0.03, 0.10, 0.62),
    "purple": (0.28, 0.05, 0.48),
    "white": (0.85, 0.85, 0.85),
}

# Factors of a solid's Fresnel reflection; captions do not tell them, as they do not tell the light.
FINISHES: dict[str, float] = {"matte": 0.15, "glossy": 1.1}

# Two objects are "left of" or "in front of" one another when they are this far apart on that axis ...
_CLEAR_APART = 0.85
# ... and differ less on the other axis by this factor, so that a caption never has two right answers.
_DOMINANCE = 1.25


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One solid that stands on the floor.

    Args:
        shape: one of `SHAPES`.
        colour: a key of `COLOURS`.
        x: position to the right of the camera's axis.
        z: position away from the camera.
        radius: half the width (sphere, cylinder) or half the edge (cube).
        yaw_rad: rotation about the vertical axis; it shows on cubes only.
        finish: a key of `FINISHES`.
    """

    shape: str
    colour: str
    x: float
    z: float
    radius: float
    yaw_rad: float = 0.0
    finish: str = "glossy"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where the picture is taken from; it always looks at a point just above the middle of the floor."""

    height: float = 2.0
    distance: float = 5.6
    target_height: float = 0.62
    half_view: float = 0.335
    """Tangent of half the field of view."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole scene; `latentcast.diffusion.scenes.render.render` draws it.

    Args:
        objects: one to three objects, in no particular order.
        floor: one of `FLOORS`.
        sky: one of `SKIES`.
        camera: the view point.
        light_azimuth_rad: direction of the main light about the vertical axis, 0 from behind the camera.
        light_elevation_rad: its height above the horizon.
        floor_yaw_rad: rotation of the floor's pattern.
    """

    objects: tuple[SceneObject, ...]
    floor: str
    sky: str
    camera: Camera = Camera()
    light_azimuth_rad: float = 0.8
    light_elevation_rad: float = 0.9
    floor_yaw_rad: float = 0.0

    def relations(self, first: int, second: int) -> tuple[str, ...]:
        """Say how object `first` lies to `second`: the relations that hold without doubt, none or one."""
        a, b = self.objects[first], self.objects[second]
        dx, dz = a.x - b.x, a.z - b.z
        if abs(dx) >= _CLEAR_APART and abs(dx) >= _DOMINANCE * abs(dz):
            return ("left of",) if dx < 0 else ("right of",)
        if abs(dz) >= _CLEAR_APART and abs(dz) >= _DOMINANCE * abs(dx):
            return ("in front of",) if dz < 0 else ("behind",)
        return ()
