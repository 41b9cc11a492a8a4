"""Rays from the camera, and where they meet a sphere, a cube or a cylinder that stands on the floor.

Compiled with numba, whose cache does not notice that a function called from another file has changed: after a
change here, `render.py` has to be saved again, too.

A solid is a row of ten numbers: shape, x, z, radius, cosine and sine of its yaw, three of its colour, finish.
"""

from __future__ import annotations

import math

from numba import njit

__all__ = ["camera_ray", "hit", "nearest"]


@njit(cache=True, fastmath=True, nogil=True)
def camera_ray(camera, u, v):
    """Direction of the ray through picture coordinates u, v in -1..1."""
    pitch = math.atan2(camera[2] - camera[0], camera[1])
    x, y, z = u * camera[3], v * camera[3], 1.0
    c, s = math.cos(pitch), math.sin(pitch)
    y, z = y * c + z * s, -y * s + z * c
    norm = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm


@njit(cache=True, fastmath=True, nogil=True)
def hit(thing, ox, oy, oz, dx, dy, dz):
    """Distance along the ray to one object and the surface normal there; a huge distance where it misses."""
    far = 1e9
    px, pz, r = ox - thing[1], oz - thing[2], thing[3]
    kind = int(thing[0])
    if kind == 0:
        py = oy - r
        b = px * dx + py * dy + pz * dz
        c = px * px + py * py + pz * pz - r * r
        disc = b * b - c
        if disc <= 0.0:
            return far, 0.0, 0.0, 0.0
        t = -b - math.sqrt(disc)
        if t < 1e-4:
            return far, 0.0, 0.0, 0.0
        return t, (px + t * dx) / r, (py + t * dy) / r, (pz + t * dz) / r
    if kind == 1:
        cy, sy = thing[4], thing[5]
        qx, qz = cy * px - sy * pz, sy * px + cy * pz
        ex, ez = cy * dx - sy * dz, sy * dx + cy * dz
        near, leave, axis, sign = -far, far, 0, 1.0
        for k in range(3):
            p = qx if k == 0 else (oy - r if k == 1 else qz)
            d = ex if k == 0 else (dy if k == 1 else ez)
            if abs(d) < 1e-9:
                if abs(p) > r:
                    return far, 0.0, 0.0, 0.0
                continue
            t0, t1 = (-r - p) / d, (r - p) / d
            side = -1.0
            if t0 > t1:
                t0, t1, side = t1, t0, 1.0
            if t0 > near:
                near, axis, sign = t0, k, side
            leave = min(leave, t1)
        if near > leave or near < 1e-4:
            return far, 0.0, 0.0, 0.0
        if axis == 1:
            return near, 0.0, sign, 0.0
        nx, nz = (sign, 0.0) if axis == 0 else (0.0, sign)
        return near, cy * nx + sy * nz, 0.0, -sy * nx + cy * nz
    height = 2.0 * r
    best, bx, by, bz = far, 0.0, 0.0, 0.0
    a = dx * dx + dz * dz
    if a > 1e-9:
        b = px * dx + pz * dz
        disc = b * b - a * (px * px + pz * pz - r * r)
        if disc > 0.0:
            t = (-b - math.sqrt(disc)) / a
            y = oy + t * dy
            if t > 1e-4 and 0.0 <= y <= height:
                best, bx, bz = t, (px + t * dx) / r, (pz + t * dz) / r
    if abs(dy) > 1e-9:
        t = (height - oy) / dy
        qx, qz = px + t * dx, pz + t * dz
        if 1e-4 < t < best and qx * qx + qz * qz <= r * r:
            best, bx, by, bz = t, 0.0, 1.0, 0.0
    return best, bx, by, bz


@njit(cache=True, fastmath=True, nogil=True)
def nearest(objects, ox, oy, oz, dx, dy, dz):
    """Distance along the ray to the first object, its number, -1 for none, and the surface normal there."""
    best, which, nx, ny, nz = 1e9, -1, 0.0, 0.0, 0.0
    for i in range(objects.shape[0]):
        t, ax, ay, az = hit(objects[i], ox, oy, oz, dx, dy, dz)
        if t < best:
            best, which, nx, ny, nz = t, i, ax, ay, az
    return best, which, nx, ny, nz
