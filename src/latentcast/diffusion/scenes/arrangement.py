"""Random arrangements of objects: what a scene is before anybody looks whether all of it is visible.

NumPy alone is needed here; the look at the picture needs the compiled renderer.
"""

from __future__ import annotations

import math

import numpy as np

from latentcast.diffusion.scenes.scene import (
    COLOURS,
    FINISHES,
    FLOORS,
    SHAPES,
    SKIES,
    Camera,
    Scene,
    SceneObject,
)

__all__ = ["arrange", "draw_object_count"]


def draw_object_count(rng: np.random.Generator) -> int:
    """Draw the number of a scene's objects: 1, 2 or 3 with weights 0.40, 0.38, 0.22."""
    return int(rng.choice([1, 2, 3], p=[0.40, 0.38, 0.22]))


def arrange(rng: np.random.Generator, count: int) -> Scene | None:
    """Draw a scene at random, without a look at its picture.

    Args:
        rng: source of randomness.
        count: number of objects, 1 to 3.

    Returns:
        The scene, or None where two objects would stand in one another.
    """
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
        finish = list(FINISHES)[rng.integers(len(FINISHES))]
        objects.append(
            SceneObject(shape=shape, colour=colour, x=x, z=z, radius=radius, yaw_rad=yaw, finish=finish)
        )
    return Scene(
        objects=tuple(objects),
        floor=FLOORS[rng.integers(len(FLOORS))],
        sky=SKIES[rng.integers(len(SKIES))],
        camera=Camera(height=rng.uniform(1.6, 2.7), half_view=rng.uniform(0.315, 0.355)),
        light_azimuth_rad=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.3)),
        light_elevation_rad=rng.uniform(0.65, 1.1),
        floor_yaw_rad=rng.uniform(-0.5, 0.5),
    )
