"""What the judge finds in pictures, held against the scenes that they should show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from latentcast.diffusion.scenes.captions import Description
from latentcast.diffusion.scenes.judge import Answers, Judge
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene

__all__ = ["Found", "Hits", "Looked", "Scores", "find", "judge_pictures", "judge_scenes"]

# Objects of a scene stand at least 0.89 apart, and the judge places them to within about a tenth.
_SAME_PLACE = 0.45
_SAME_OBJECT = 0.7
# In 600 scenes every object filled five cells or more; fewer are a stain, or an edge.
_FEWEST_CELLS = 4
_SIGNS = {"left of": (0, -1.0), "right of": (0, 1.0), "in front of": (1, -1.0), "behind": (1, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the judge sees in one picture.

    Attributes:
        looks: colour and shape of every object.
        places: x and z of each.
        floor: one of `FLOORS`.
        sky: one of `SKIES`.
    """

    looks: tuple[tuple[str, str], ...]
    places: tuple[tuple[float, float], ...]
    floor: str
    sky: str


def find(answers: Answers) -> list[Found]:
    """Gather the cells of each picture into objects: cells belong together when they name the same place.

    Cells where an object is seen are taken in the order of how sure they are. Each joins the object whose
    place its own is nearest to, or begins a new one; an object's colour and shape are its cells' votes.
    """
    present = torch.sigmoid(answers.present).flatten(1).cpu().numpy()
    colour = torch.log_softmax(answers.colour, dim=1).flatten(2).cpu().numpy()
    shape = torch.log_softmax(answers.shape, dim=1).flatten(2).cpu().numpy()
    place = answers.place.flatten(2).cpu().numpy()
    floors, skies = answers.floor.argmax(1).tolist(), answers.sky.argmax(1).tolist()
    found = []
    for i in range(len(present)):
        groups = _groups(present[i], place[i])
        names, places = [], []
        for cells in groups:
            weight = present[i][cells]
            names.append(
                (
                    list(COLOURS)[int(np.argmax(colour[i][:, cells] @ weight))],
                    SHAPES[int(np.argmax(shape[i][:, cells] @ weight))],
                )
            )
            x, z = place[i][:, cells] @ weight / weight.sum()
            places.append((float(x), float(z)))
        found.append(
            Found(looks=tuple(names), places=tuple(places), floor=FLOORS[floors[i]], sky=SKIES[skies[i]])
        )
    return found


def _groups(present: npt.NDArray[np.float32], place: npt.NDArray[np.float32]) -> list[list[int]]:
    groups: list[list[int]] = []
    centres: list[npt.NDArray[np.float64]] = []
    for cell in np.argsort(-present, kind="stable"):
        if present[cell] < 0.5:
            break
        here = place[:, cell].astype(np.float64)
        gaps = [float(np.hypot(*(here - centre))) for centre in centres]
        nearest = int(np.argmin(gaps)) if gaps else -1
        if nearest >= 0 and gaps[nearest] < _SAME_PLACE:
            groups[nearest].append(int(cell))
            centres[nearest] += (here - centres[nearest]) / len(groups[nearest])
        else:
            groups.append([int(cell)])
            centres.append(here)
    # A first cell that is off makes a group of its own beside that of its object.
    joined: list[tuple[list[int], npt.NDArray[np.float64]]] = []
    for cells, centre in sorted(zip(groups, centres, strict=True), key=lambda pair: -len(pair[0])):
        near = [other for other, middle in joined if np.hypot(*(centre - middle)) < _SAME_OBJECT]
        if near:
            near[0].extend(cells)
        else:
            joined.append((cells, centre))
    return [cells for cells, _ in joined if len(cells) >= _FEWEST_CELLS]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """How many of some pictures, or relations, are right.

    Attributes:
        right: so many.
        asked: of so many.
    """

    right: int
    asked: int

    @property
    def share(self) -> float:
        """Share that is right; not a number where nothing was asked."""
        return self.right / self.asked if self.asked else math.nan

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Hits:
        """Count."""
        return cls(right=sum(outcomes), asked=len(outcomes))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How many pictures show what was asked.

    Attributes:
        objects: number, colours and shapes all right, by number of objects 1, 2, 3.
        relations: told relations that hold, by number of objects 2, 3; of pictures whose objects are right.
        floor: the floor right.
        sky: the sky right.
        num_pictures: sample size.
    """

    objects: dict[int, Hits]
    relations: dict[int, Hits]
    floor: Hits
    sky: Hits
    num_pictures: int


def _holds(found: Found, first: tuple[str, str], relation: str, second: tuple[str, str]) -> bool:
    """Whether a relation between two objects holds more than any other."""
    a, b = (found.places[found.looks.index(look)] for look in (first, second))
    axis, sign = _SIGNS[relation]
    gap, other = a[axis] - b[axis], a[1 - axis] - b[1 - axis]
    return sign * gap > abs(other)


def judge_scenes(found: list[Found], scenes: list[Scene], told: list[Description]) -> Scores:
    """Hold what was found in pictures against the scenes and sentences that they were made from."""
    objects: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    relations: dict[int, list[bool]] = {2: [], 3: []}
    for seen, scene, words in zip(found, scenes, told, strict=True):
        looks = [(thing.colour, thing.shape) for thing in scene.objects]
        right = sorted(seen.looks) == sorted(looks)
        objects[len(looks)].append(right)
        if right:
            for first, relation, second in words.relations:
                relations[len(looks)].append(_holds(seen, looks[first], relation, looks[second]))
    return Scores(
        objects={count: Hits.of(outcomes) for count, outcomes in objects.items()},
        relations={count: Hits.of(outcomes) for count, outcomes in relations.items()},
        floor=Hits.of([seen.floor == scene.floor for seen, scene in zip(found, scenes, strict=True)]),
        sky=Hits.of([seen.sky == scene.sky for seen, scene in zip(found, scenes, strict=True)]),
        num_pictures=len(scenes),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """What the judge made of pictures.

    Attributes:
        found: in each.
        features: float64 (num, features), of each.
    """

    found: list[Found]
    features: npt.NDArray[np.float64]


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: npt.NDArray[np.uint8], *, device: str = "cpu") -> Looked:
    """Let the judge look at uint8 (num, H, W, 3) pictures."""
    found: list[Found] = []
    features = []
    for start in range(0, len(pictures), 64):
        answers = judge(to_network(pictures[start : start + 64], device))
        found += find(answers)
        features.append(answers.features.double().cpu().numpy())
    return Looked(found=found, features=np.concatenate(features))
