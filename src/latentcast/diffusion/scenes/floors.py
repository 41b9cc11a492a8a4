"""Patterns of floors, averaged over what a ray sees of them, so that nothing flickers towards the horizon.

Compiled with numba, whose cache does not notice that a function called from another file has changed: after a
change here, `render.py` has to be saved again, too.
"""

from __future__ import annotations

import math

from numba import njit

__all__ = ["floor_pattern", "mean_of_bars", "mean_of_stripes"]

_PLANK_WIDTH = 0.52
_SEAM = 0.05  # of a plank's width
_SEAM_SHADE = 0.45
_GRAIN, _GRAIN_SWING, _GRAIN_WAVE = 0.94, 0.06, 23.0
# From so many planks on, their mean is taken for that of all.
_MANY_PLANKS = 8.0


@njit(cache=True, fastmath=True, nogil=True)
def mean_of_stripes(u, width):
    """Mean over [u - width/2, u + width/2] of the wave that is +1 on [0, 1), -1 on [1, 2), and so on."""
    end, begin = 0.5 * (u + 0.5 * width), 0.5 * (u - 0.5 * width)
    # The wave's integral is a triangle between 0 and 1.
    return (abs(2.0 * (begin - math.floor(begin)) - 1.0) - abs(2.0 * (end - math.floor(end)) - 1.0)) / width


@njit(cache=True, fastmath=True, nogil=True)
def mean_of_bars(u, width, share):
    """Share of [u - width/2, u + width/2] that lies in [n, n + share) of any whole n."""
    end, begin = u + 0.5 * width, u - 0.5 * width
    to_end = math.floor(end) * share + min(end - math.floor(end), share)
    to_begin = math.floor(begin) * share + min(begin - math.floor(begin), share)
    return (to_end - to_begin) / width


@njit(cache=True, fastmath=True, nogil=True)
def _shade(row):
    """Shade of a plank, 0..1, scattered over the planks."""
    shade = math.sin(row * 12.9898) * 43758.5453
    return shade - math.floor(shade)


@njit(cache=True, fastmath=True, nogil=True)
def _mean_shade(u, width):
    """Mean of the shades of planks over [u - width/2, u + width/2], in planks."""
    if width > _MANY_PLANKS:
        return 0.5
    begin, end = u - 0.5 * width, u + 0.5 * width
    total = 0.0
    for row in range(math.floor(begin), math.floor(end) + 1):
        total += _shade(row) * (min(end, row + 1.0) - max(begin, float(row)))
    return total / width


@njit(cache=True, fastmath=True, nogil=True)
def floor_pattern(kind, cosine, sine, x, z, dx, dy, dz, spread):
    """Which of a floor's two albedos shows where a ray meets it (0..1), and a factor for seams and grain.

    Both are means over the ray's footprint, taken for the rectangle along the pattern's axes about it. The
    footprint is `spread` wide across the ray, and the longer along it, the lower the ray comes in.

    Args:
        kind: 0 plain, 1 checkered, 2 wooden.
        cosine: of the pattern's rotation.
        sine: of the same.
        x: where the ray meets the floor.
        z: the same, away from the camera.
        dx: the ray's direction, of unit length.
        dy: its height, below 0.
        dz: its share away from the camera.
        spread: width of the ray there.
    """
    if kind == 0:
        return 0.0, 1.0
    u, v = cosine * x - sine * z, sine * x + cosine * z
    level = math.hypot(dx, dz) + 1e-9
    long, tx, tz = spread / max(-dy, 1e-3), dx / level, dz / level
    along_u, along_v = abs(cosine * tx - sine * tz), abs(sine * tx + cosine * tz)
    wide_u = long * along_u + spread * along_v + 1e-6
    wide_v = long * along_v + spread * along_u + 1e-6
    if kind == 1:
        return 0.5 - 0.5 * mean_of_stripes(u, wide_u) * mean_of_stripes(v, wide_v), 1.0
    plank, wide = u / _PLANK_WIDTH, wide_u / _PLANK_WIDTH
    # The grain's waves lie nearly along the planks: only the width across them counts.
    wave = _GRAIN_WAVE * wide_u
    bend = 2.0 * math.sin(1.7 * v + 5.0 * _shade(math.floor(plank)))
    grain = _GRAIN + _GRAIN_SWING * math.exp(-wave * wave / 24.0) * math.sin(_GRAIN_WAVE * u + bend)
    seams = mean_of_bars(plank, wide, _SEAM)
    return _mean_shade(plank, wide), grain * (1.0 - (1.0 - _SEAM_SHADE) * seams)
