"""The judge: what it finds in answers that are true, and how pictures are held against their scenes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentcast.diffusion.scenes.captions import describe
from latentcast.diffusion.scenes.dataset import draw_scenes
from latentcast.diffusion.scenes.frechet import frechet_distance
from latentcast.diffusion.scenes.judge import NUM_CELLS, Answers
from latentcast.diffusion.scenes.render import object_map
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene, SceneObject
from latentcast.diffusion.scenes.verdict import find, judge_scenes


def true_answers(scenes: list[Scene]) -> Answers:
    """What a perfect judge would say, with places off by a little."""
    rng = np.random.default_rng(0)
    cells = (len(scenes), NUM_CELLS, NUM_CELLS)
    present = torch.full(cells, -5.0)
    colour = torch.zeros(len(scenes), len(COLOURS), NUM_CELLS, NUM_CELLS)
    shape = torch.zeros(len(scenes), len(SHAPES), NUM_CELLS, NUM_CELLS)
    place = torch.from_numpy(rng.normal(0.0, 0.08, (len(scenes), 2, NUM_CELLS, NUM_CELLS)).astype(np.float32))
    for i, scene in enumerate(scenes):
        seen = object_map(scene, NUM_CELLS)
        for row, column in np.argwhere(seen >= 0):
            thing = scene.objects[seen[row, column]]
            present[i, row, column] = 5.0
            colour[i, list(COLOURS).index(thing.colour), row, column] = 5.0
            shape[i, SHAPES.index(thing.shape), row, column] = 5.0
            place[i, :, row, column] += torch.tensor([thing.x, thing.z])
    return Answers(
        present=present,
        colour=colour,
        shape=shape,
        place=place,
        floor=torch.eye(3)[[FLOORS.index(scene.floor) for scene in scenes]],
        sky=torch.eye(3)[[SKIES.index(scene.sky) for scene in scenes]],
        features=torch.zeros(len(scenes), 1),
    )


def test_true_cells_become_the_objects_that_are_there() -> None:
    scenes = draw_scenes(60, seed=10)
    words = [describe(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    scores = judge_scenes(find(true_answers(scenes)), scenes, words)
    assert all(hits.right == hits.asked > 0 for hits in scores.objects.values())
    assert all(hits.right == hits.asked > 0 for hits in scores.relations.values())
    assert scores.floor.share == scores.sky.share == 1.0


def test_what_is_not_as_asked_is_wrong() -> None:
    scenes = [scene for scene in draw_scenes(60, seed=10) if len(scene.objects) == 2]
    words = [describe(scene, np.random.default_rng(0)) for scene in scenes]
    found = find(true_answers(scenes))
    one_more = [replace(seen, looks=(*seen.looks, seen.looks[0])) for seen in found]
    assert judge_scenes(one_more, scenes, words).objects[2].right == 0
    exchanged = [replace(seen, places=seen.places[::-1]) for seen in found]
    scores = judge_scenes(exchanged, scenes, words)
    assert scores.objects[2].share == 1.0
    assert scores.relations[2].right == 0
    assert scores.relations[2].asked == sum(len(told.relations) for told in words)
    assert math.isnan(scores.relations[3].share)  # nothing was asked


def test_the_map_shows_the_nearer_object() -> None:
    front = SceneObject(shape="cube", colour="red", x=0.0, z=-1.0, radius=0.6)
    back = SceneObject(shape="sphere", colour="blue", x=0.9, z=1.0, radius=0.4)
    alone = object_map(Scene(objects=(back,), floor="plain", sky="day"), 32)
    both = object_map(Scene(objects=(front, back), floor="plain", sky="day"), 32)
    assert (both == 0).sum() > 20
    assert 0 < (both == 1).sum() < (alone == 0).sum()
    assert (both[0] == -1).all()


@pytest.mark.parametrize("size", [400, 1600])
def test_the_distance_of_gaussians_is_known(size: int) -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((size, 4))
    b = 2.0 * rng.standard_normal((size, 4)) + np.array([1.0, 0.0, 0.0, 0.0])
    # |shift|^2 + sum of (2 - 1)^2; means and deviations are off by about 1 / sqrt(size) each.
    assert frechet_distance(a, b) == pytest.approx(1.0 + 4.0, abs=16.0 / math.sqrt(size))
