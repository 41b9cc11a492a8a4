"""What a scene is: objects on a floor under a sky, and how to draw one at random.

The world is right-handed with y up; the floor is y = 0; the camera looks along +z, so a smaller z is nearer.
Lengths are in units of about one object's diameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "COLOURS",
    "FLOORS",
    "RELATIONS",
    "SHAPES",
    "SKIES",
    "Camera",
    "Scene",
    "SceneObject",
    "sample_scene",
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
    """

    shape: str
    colour: str
    x: float
    z: float
    radius: float
    yaw_rad: float = 0.0


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


def sample_scene(rng: np.random.Generator, *, num_objects: int | None = None) -> Scene:
    """Draw a random scene whose objects are inside the frame and at least 60 % visible each.

    Args:
        rng: source of randomness.
        num_objects: 1, 2 or 3; drawn with weights 0.40, 0.38, 0.22 where None.

    Returns:
        The scene. Two objects of one scene never share both shape and colour.
    """
    from latentcast.diffusion.scenes.render import visible_shares

    count = int(rng.choice([1, 2, 3], p=[0.40, 0.38, 0.22])) if num_objects is None else num_objects
    while True:
        scene = _draw(rng, count)
        if scene is not None and min(visible_shares(scene)) >= 0.6:
            return scene


def _draw(rng: np.random.Generator, count: int) -> Scene | None:
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        look = (SHAPES[rng.integers(len(SHAPES))], list(COLOURS)[rng.integers(len(COLOURS))])
        if look not in looks:
            looks.append(look)
    spread = (0.55, 1.15, 1.5)[count - 1]
    objects: list[SceneObject] = []
    for shape, colour in looks:
        radius = rng.uniform(*((0.62, 0.85), (0.48, 0.66), (0.42, 0.56))[count - 1])
        if shape == "cube":
            radius *= 0.84  # a cube's diagonal makes it look larger than a sphere of the same width
        x = rng.uniform(-spread, spread)
        z = rng.uniform(-0.9, 1.3) if count > 1 else rng.uniform(-0.5, 0.6)
        # Turned by 18 to 72 degrees from square-on, so that two differently lit faces show.
        yaw = math.radians(rng.uniform(18.0, 72.0))
        reach = radius * (1.42 if shape == "cube" else 1.0)
        for other in objects:
            other_reach = other.radius * (1.42 if other.shape == "cube" else 1.0)
            if math.hypot(x - other.x, z - other.z) < reach + other_reach + 0.05:
                return None
        objects.append(SceneObject(shape=shape, colour=colour, x=x, z=z, radius=radius, yaw_rad=yaw))
    return Scene(
        objects=tuple(objects),
        floor=FLOORS[rng.integers(len(FLOORS))],
        sky=SKIES[rng.integers(len(SKIES))],
        camera=Camera(height=rng.uniform(1.7, 2.3)),
        light_azimuth_rad=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.2)),
        light_elevation_rad=rng.uniform(0.75, 1.05),
        floor_yaw_rad=rng.uniform(-0.5, 0.5),
    )
