"""Random scenes and their pictures, kept in files for a run that goes on."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.scenes.arrangement import arrange, draw_object_count
from latentcast.diffusion.scenes.kept import kept_array
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.progress import Progress
from latentcast.diffusion.scenes.render import render, visible_shares
from latentcast.diffusion.scenes.scene import Scene

__all__ = [
    "both_ways",
    "draw_scenes",
    "held_out_renders",
    "make_renders",
    "mirrored",
    "render_pictures",
    "sample_scene",
]

_BLOCK = 64


def sample_scene(
    rng: np.random.Generator,
    *,
    num_objects: int | None = None,
    wanted: Callable[[Scene], bool] | None = None,
) -> Scene:
    """Draw a random scene whose objects are inside the frame and at least 60 % visible each.

    Args:
        rng: source of randomness.
        num_objects: 1, 2 or 3; drawn with weights 0.40, 0.38, 0.22 where None.
        wanted: scenes for which it is false are drawn again.

    Returns:
        The scene. Two objects of one scene never share both shape and colour.
    """
    count = draw_object_count(rng) if num_objects is None else num_objects
    while True:
        scene = arrange(rng, count)
        if scene is None or (wanted is not None and not wanted(scene)):
            continue
        if min(visible_shares(scene)) >= 0.6:
            return scene


def draw_scenes(num_scenes: int, seed: int, kept: Path | None = None) -> list[Scene]:
    """Draw the scenes of a data set; scene i does not depend on how many follow it.

    Args:
        num_scenes: how many.
        seed: of all of them.
        kept: file that spares the next run the drawing, which takes about two milliseconds each.
    """
    if kept is not None and kept.exists():
        known_seed, scenes = pickle.loads(kept.read_bytes())
        if known_seed == seed and len(scenes) >= num_scenes:
            return list(scenes[:num_scenes])
    children = np.random.SeedSequence(seed).spawn(num_scenes)
    drawn = [sample_scene(np.random.default_rng(child)) for child in children]
    if kept is not None:
        partial = kept.with_suffix(".partial")
        partial.write_bytes(pickle.dumps((seed, drawn)))
        partial.replace(kept)
    return drawn


def mirrored(scene: Scene) -> Scene:
    """Return the scene that a mirrored picture shows.

    Objects and light are exact; the floor's pattern may start elsewhere, which no caption tells.
    """
    return replace(
        scene,
        objects=tuple(replace(thing, x=-thing.x, yaw_rad=-thing.yaw_rad) for thing in scene.objects),
        light_azimuth_rad=-scene.light_azimuth_rad,
        floor_yaw_rad=-scene.floor_yaw_rad,
    )


def render_pictures(
    scenes: list[Scene],
    path: Path,
    seed: int,
    progress: Callable[[int, int], None],
    size: int,
    *,
    enough: int | None = None,
    stop_at: float | None = None,
) -> npt.NDArray[np.uint8]:
    """Render scenes into a file, or go on where an interrupted run stopped.

    Args:
        scenes: what to draw.
        path: NumPy array file, uint8 (num_scenes, size, size, 3).
        seed: of the shadow rays, spawned per scene.
        progress: called with (done, total) after each block.
        size: pixels along each side of a picture.
        enough: scenes after which to stop for now; all where None.
        stop_at: time.monotonic() at which to pause.

    Returns:
        The pictures that were asked for, read-only and mapped.

    Raises:
        ModelError: if the file holds other pictures.
        PausedError: when the time is over.
    """
    children = np.random.SeedSequence(seed).spawn(len(scenes))

    def draw(i: int) -> npt.NDArray[np.uint8]:
        return render(scenes[i], np.random.default_rng(children[i]), size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the renderer releases the interpreter's lock
        return kept_array(
            path,
            (len(scenes), size, size, 3),
            np.uint8,
            lambda start, stop: np.stack(list(pool.map(draw, range(start, stop)))),
            block=_BLOCK,
            progress=progress,
            enough=enough,
            stop_at=stop_at,
        )


def make_renders(
    work: Path,
    plan: TrainingPlan,
    *,
    progress: Progress,
    enough: int | None = None,
    stop_at: float | None = None,
) -> tuple[list[Scene], npt.NDArray[np.uint8]]:
    """Draw the scenes that a plan trains on and render them, or go on with it.

    Args:
        work: folder of the files.
        plan: how many, from which seeds, how large.
        progress: called as the work goes on.
        enough: pictures that are needed for now; all where None.
        stop_at: time.monotonic() at which to pause.

    Returns:
        Scenes and pictures, as many as were asked for.

    Raises:
        ModelError, PausedError: as `render_pictures`.
    """
    scenes = draw_scenes(plan.num_pictures, plan.seeds.scenes, work / "scenes.pickle")
    pictures = _renders(scenes, work / "pictures.npy", plan.seeds.shadows, plan, progress, enough, stop_at)
    return scenes[:enough], pictures


def held_out_renders(
    work: Path, plan: TrainingPlan, *, progress: Progress, stop_at: float | None = None
) -> tuple[list[Scene], npt.NDArray[np.uint8]]:
    """The same for the scenes that a plan measures on.

    Raises:
        ModelError, PausedError: as `render_pictures`.
    """
    scenes = draw_scenes(plan.num_held_out, plan.seeds.held_out_scenes)
    seed = plan.seeds.held_out_shadows
    return scenes, _renders(scenes, work / "held-out.npy", seed, plan, progress, None, stop_at)


def both_ways(pictures: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Some of all pictures followed by their mirror images.

    Args:
        pictures: uint8 (num, H, W, 3).
        numbers: (some,), from 0 to before 2 num.

    Example:
        >>> picture = np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3)
        >>> both_ways(picture, np.array([0, 1]))[:, 0, :, 0].tolist()
        [[0, 3], [3, 0]]
    """
    turned, number = np.divmod(numbers, len(pictures))
    some = pictures[number]
    return np.where(turned[:, None, None, None] == 1, some[:, :, ::-1], some)


def _renders(
    scenes: list[Scene],
    path: Path,
    seed: int,
    plan: TrainingPlan,
    progress: Progress,
    enough: int | None,
    stop_at: float | None,
) -> npt.NDArray[np.uint8]:
    def told(done: int, total: int) -> None:
        progress("render", done, total, "")

    return render_pictures(scenes, path, seed, told, plan.picture_size, enough=enough, stop_at=stop_at)
