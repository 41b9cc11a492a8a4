"""A small ray tracer for scenes: soft shadows, ambient occlusion, solids matte or glossy with reflections.

Compiled with numba, which only training needs; running the model does not import this module.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from latentcast.diffusion.scenes.floors import floor_pattern
from latentcast.diffusion.scenes.scene import COLOURS, FINISHES, FLOORS, SHAPES, Scene
from latentcast.diffusion.scenes.solids import camera_ray, hit, nearest

__all__ = ["IMAGE_SIZE", "object_map", "render", "visible_shares"]

IMAGE_SIZE = 128
_SUBSAMPLES = 3  # per axis; each takes one stratified ray to the light's disc ...
_PENUMBRA_RAYS = 4  # ... and so many where these find a pixel to be partly in shadow
_LIGHT_RADIUS = 0.13  # of the light's disc seen from one unit away: the softness of shadows

_ROUGHNESS = 0.4  # width of what a surface mirrors of the floor one unit away

# Per sky: zenith, horizon, light and ambient colours, linear light.
_SKY_COLOURS = {
    "day": ((0.08, 0.28, 0.78), (0.60, 0.78, 0.95), (2.5, 2.3, 2.0), (0.42, 0.48, 0.58)),
    "dusk": ((0.10, 0.05, 0.30), (1.25, 0.42, 0.13), (2.3, 1.6, 1.1), (0.40, 0.33, 0.40)),
    "night": ((0.006, 0.012, 0.05), (0.035, 0.06, 0.16), (1.0, 1.12, 1.4), (0.16, 0.20, 0.31)),
}
# Per floor: two albedos of the pattern.
_FLOOR_COLOURS = {
    "plain": ((0.46, 0.45, 0.43), (0.46, 0.45, 0.43)),
    "checkered": ((0.70, 0.69, 0.66), (0.07, 0.07, 0.08)),
    "wooden": ((0.45, 0.25, 0.11), (0.33, 0.165, 0.07)),
}

Float = npt.NDArray[np.float64]


def _pack(scene: Scene) -> tuple[Float, Float, Float]:
    """Flatten a scene into the arrays that compiled code reads: objects, environment, camera."""
    objects = np.zeros((len(scene.objects), 10))
    for row, thing in zip(objects, scene.objects, strict=True):
        row[0] = SHAPES.index(thing.shape)
        row[1:6] = thing.x, thing.z, thing.radius, math.cos(thing.yaw_rad), math.sin(thing.yaw_rad)
        row[6:9] = COLOURS[thing.colour]
        row[9] = FINISHES[thing.finish]
    elevation, azimuth = scene.light_elevation_rad, scene.light_azimuth_rad
    light = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        -math.cos(elevation) * math.cos(azimuth),
    )
    pattern = (float(FLOORS.index(scene.floor)), math.cos(scene.floor_yaw_rad), math.sin(scene.floor_yaw_rad))
    environment = np.array(
        [*light, *pattern]
        + [value for colour in _SKY_COLOURS[scene.sky] for value in colour]
        + [value for colour in _FLOOR_COLOURS[scene.floor] for value in colour]
    )
    view = scene.camera
    camera = np.array([view.height, view.distance, view.target_height, view.half_view])
    return objects, environment, camera


def render(scene: Scene, rng: np.random.Generator, size: int = IMAGE_SIZE) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        rng: places the shadow rays; two draws of one scene differ by a little noise in its penumbras.
        size: pixels along each side.

    Returns:
        uint8 (size, size, 3), sRGB.
    """
    image: npt.NDArray[np.uint8] = _render(*_pack(scene), int(rng.integers(1 << 31)), size, _SUBSAMPLES)
    return image


def object_map(scene: Scene, size: int) -> npt.NDArray[np.int8]:
    """Say which object the camera sees in the middle of each of size x size cells of the picture.

    Args:
        scene: what is looked at.
        size: cells along each side.

    Returns:
        int8 (size, size), an index into `scene.objects`, or -1 where there is floor or sky.
    """
    objects, _, camera = _pack(scene)
    seen: npt.NDArray[np.int8] = _seen(objects, camera, size)
    return seen


def visible_shares(scene: Scene) -> list[float]:
    """Share of each object that the camera sees, 0 for one that touches the frame's border."""
    objects, _, camera = _pack(scene)
    return [float(share) for share in _visible(objects, camera, 48)]


@njit(cache=True, fastmath=True, nogil=True)
def _sky(env, dx, dy, dz, channel):
    """Sky colour in a direction: a gradient from horizon to zenith, and a glow around the light."""
    up = max(dy, 0.0)
    mix = 1.0 - math.exp(-9.0 * up)
    value = env[9 + channel] * (1.0 - mix) + env[6 + channel] * mix
    toward = max(dx * env[0] + dy * env[1] + dz * env[2], 0.0)
    return value + 0.25 * env[12 + channel] * toward**64


@njit(cache=True, fastmath=True, nogil=True)
def _occlusion(objects, skip, x, y, z, nx, ny, nz):
    """Share of the sky's light that the other objects leave, each taken for the sphere about its middle."""
    light = 1.0
    for i in range(objects.shape[0]):
        if i == skip:
            continue
        r = objects[i, 3] * (1.0 if objects[i, 0] == 0.0 else 1.12)
        vx, vy, vz = objects[i, 1] - x, objects[i, 3] - y, objects[i, 2] - z
        d2 = vx * vx + vy * vy + vz * vz
        facing = (vx * nx + vy * ny + vz * nz) / math.sqrt(d2)
        light *= 1.0 - 0.85 * max(facing, 0.0) * min(r * r / d2, 1.0)
    return light


@njit(cache=True, fastmath=True, nogil=True)
def _floor_albedo(env, x, z, dx, dy, dz, spread, albedo):
    """Fill in the floor's albedo where a ray meets it."""
    mix, factor = floor_pattern(int(env[3]), env[4], env[5], x, z, dx, dy, dz, spread)
    for c in range(3):
        albedo[c] = (env[18 + c] * (1.0 - mix) + env[21 + c] * mix) * factor


@njit(cache=True, fastmath=True, nogil=True)
def _reflected(objects, env, which, x, y, z, nx, ny, nz, dx, dy, dz, spread, colour):
    """Fill in the colour that reaches a point from a direction: another object, floor or sky, unshadowed."""
    _, other, mx, my, mz = nearest(objects, x + 1e-3 * nx, y + 1e-3 * ny, z + 1e-3 * nz, dx, dy, dz)
    if other >= 0 and other != which:
        facing = max(mx * env[0] + my * env[1] + mz * env[2], 0.0)
        for c in range(3):
            colour[c] = objects[other, 6 + c] * (0.8 * facing * env[12 + c] + 0.6 * env[15 + c])
    elif dy >= -1e-6:
        for c in range(3):
            colour[c] = _sky(env, dx, dy, dz, c)
    else:
        t = -y / dy
        _floor_albedo(env, x + t * dx, z + t * dz, dx, dy, dz, spread + _ROUGHNESS * t, colour)
        fog = 1.0 - math.exp(-0.0045 * max(t - 1.0, 0.0) ** 2)
        # Next to the solid the floor lies in its shade.
        shade = 0.35 + 0.65 * min(t, 1.0)
        for c in range(3):
            light = 0.8 * env[1] * env[12 + c] + env[15 + c]
            colour[c] = colour[c] * light * shade * (1.0 - fog) + fog * env[9 + c]


@njit(cache=True, fastmath=True, nogil=True)
def _lit(objects, env, which, x, y, z, nx, ny, nz, cell, rays, sub):
    """Share of one of the sub x sub cells of the light's disc that a point sees, by rays to places in it."""
    lx, ly, lz = env[0], env[1], env[2]
    # Two directions across the light, for points on its disc.
    ax, az = lz / math.hypot(lx, lz), -lx / math.hypot(lx, lz)
    bx, by, bz = ly * az, lz * ax - lx * az, -ly * ax
    rings = min(rays, 2)
    sectors = rays // rings
    seen = 0.0
    for ray in range(rays):
        out = (cell % sub + (ray % rings + np.random.random()) / rings) / sub
        radius = _LIGHT_RADIUS * math.sqrt(out)
        angle = 2.0 * math.pi * (cell // sub + (ray // rings + np.random.random()) / sectors) / sub
        p, q = radius * math.cos(angle), radius * math.sin(angle)
        sx, sy, sz = lx + p * ax + q * bx, ly + q * by, lz + p * az + q * bz
        norm = 1.0 / math.sqrt(sx * sx + sy * sy + sz * sz)
        blocked = nearest(
            objects, x + 1e-3 * nx, y + 1e-3 * ny, z + 1e-3 * nz, sx * norm, sy * norm, sz * norm
        )[1]
        if blocked < 0 or blocked == which:
            seen += 1.0
    return seen / rays


@njit(cache=True, fastmath=True, nogil=True)
def _pixel(objects, env, camera, row, column, size, sub, order, rays, colour, albedo, reflected):
    """Sum the colours of a pixel's samples; says whether it lies partly in shadow."""
    colour[:] = 0.0
    faced, seen = 0, 0.0
    for k in range(sub * sub):
        u = (2.0 * (column + (k % sub + 0.5) / sub) - size) / size
        v = (size - 2.0 * (row + (k // sub + 0.5) / sub)) / size
        dx, dy, dz = camera_ray(camera, u, v)
        ox, oy, oz = 0.0, camera[0], -camera[1]
        t, which, nx, ny, nz = nearest(objects, ox, oy, oz, dx, dy, dz)
        fog, gloss = 0.0, 0.0
        if dy < -1e-6 and -oy / dy < t:
            t, which = -oy / dy, -2
            nx, ny, nz = 0.0, 1.0, 0.0
        if which == -1:
            for c in range(3):
                colour[c] += _sky(env, dx, dy, dz, c)
            continue
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        # Of a sample's cell and a little more, as a good filter has it.
        spread = 1.5 * 2.0 * camera[3] * t / (size * sub)
        if which == -2:
            _floor_albedo(env, x, z, dx, dy, dz, spread, albedo)
            fog = 1.0 - math.exp(-0.0045 * max(t - 5.0, 0.0) ** 2)
            gloss = 0.25
        else:
            for c in range(3):
                albedo[c] = objects[which, 6 + c]
            gloss = objects[which, 9]
        # The cosine is taken to the light's middle; only shadows see the disc: faces stay smooth.
        facing = max(nx * env[0] + ny * env[1] + nz * env[2], 0.0)
        share = 0.0
        if facing > 0.0:
            share = _lit(objects, env, which, x, y, z, nx, ny, nz, order[k], rays, sub)
            faced += 1
            seen += share
        facing *= share
        open_sky = _occlusion(objects, which, x, y, z, nx, ny, nz)
        # Light from below: what the floor sends back; less of it close to the ground.
        bounce = 0.5 * (1.0 - ny) * (0.35 + 0.65 * min(y, 1.0))
        ambient = (0.5 * (1.0 + ny) + 0.45 * bounce) * open_sky
        cosine = max(-(dx * nx + dy * ny + dz * nz), 0.0)
        fresnel = gloss * (0.05 + 0.55 * (1.0 - cosine) ** 5)
        rx, ry, rz = dx + 2.0 * cosine * nx, dy + 2.0 * cosine * ny, dz + 2.0 * cosine * nz
        toward = max(rx * env[0] + ry * env[1] + rz * env[2], 0.0)
        # A wide faint sheen on everything, and a small bright glint on what is glossy.
        glint = share * (0.40 * gloss * toward**90 + 0.07 * toward**10)
        _reflected(objects, env, which, x, y, z, nx, ny, nz, rx, ry, rz, spread, reflected)
        for c in range(3):
            lit = albedo[c] * (0.80 * facing * env[12 + c] + ambient * env[15 + c])
            value = lit * (1.0 - fresnel) + fresnel * reflected[c] * open_sky + glint * env[12 + c]
            colour[c] += value * (1.0 - fog) + fog * env[9 + c]
    return 0.0 < seen < faced


@njit(cache=True, fastmath=True, nogil=True)
def _render(objects, env, camera, seed, size, sub):
    np.random.seed(seed)
    image = np.empty((size, size, 3), np.uint8)
    colour = np.empty(3)
    albedo = np.empty(3)
    reflected = np.empty(3)
    order = np.arange(sub * sub)
    for row in range(size):
        for column in range(size):
            # Light samples and picture samples are paired in a new order per pixel, so that neither's
            # regular grid shows.
            for k in range(sub * sub - 1, 0, -1):
                j = np.random.randint(k + 1)
                order[k], order[j] = order[j], order[k]
            args = (objects, env, camera, row, column, size, sub, order)
            if _pixel(*args, 1, colour, albedo, reflected):
                _pixel(*args, _PENUMBRA_RAYS, colour, albedo, reflected)
            for c in range(3):
                value = colour[c] / (sub * sub)
                value = 1.0 - math.exp(-1.15 * value)  # film-like shoulder: highlights never clip hard
                value = 1.055 * value ** (1.0 / 2.4) - 0.055 if value > 0.0031308 else 12.92 * value
                image[row, column, c] = int(min(max(255.0 * value + 0.5, 0.0), 255.0))
    return image


@njit(cache=True, fastmath=True, nogil=True)
def _seen(objects, camera, size):
    which = np.empty((size, size), np.int8)
    for row in range(size):
        for column in range(size):
            u = (2.0 * (column + 0.5) - size) / size
            v = (size - 2.0 * (row + 0.5)) / size
            dx, dy, dz = camera_ray(camera, u, v)
            which[row, column] = nearest(objects, 0.0, camera[0], -camera[1], dx, dy, dz)[1]
    return which


@njit(cache=True, fastmath=True, nogil=True)
def _visible(objects, camera, size):
    count = objects.shape[0]
    whole, seen = np.zeros(count), np.zeros(count)
    cut = np.zeros(count)
    for row in range(size):
        for column in range(size):
            u = (2.0 * (column + 0.5) - size) / size
            v = (size - 2.0 * (row + 0.5)) / size
            dx, dy, dz = camera_ray(camera, u, v)
            best, which = 1e9, -1
            for i in range(count):
                t = hit(objects[i], 0.0, camera[0], -camera[1], dx, dy, dz)[0]
                if t < 1e8:
                    whole[i] += 1.0
                    if row == 0 or column == 0 or row == size - 1 or column == size - 1:
                        cut[i] = 1.0
                if t < best:
                    best, which = t, i
            if which >= 0:
                seen[which] += 1.0
    for i in range(count):
        if cut[i] > 0.0 or whole[i] == 0.0:
            seen[i] = 0.0
    return seen / np.maximum(whole, 1.0)
