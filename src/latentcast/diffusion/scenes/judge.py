"""The judge: a small detector of objects that makes "does the picture follow its prompt" a number.

For each of 16 x 16 cells of a picture it says whether an object is seen there, of which colour and shape, and
where in the world the middle of that object stands; for the whole picture, which floor and sky. What is true
of a cell is known from the renderer's geometry. It is trained on renders only and never sees a generated
picture, so it cannot learn the generator's faults; `verdict.py` makes objects of its cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from latentcast.diffusion.scenes.course import Course
from latentcast.diffusion.scenes.dataset import mirrored
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.precision import autocast
from latentcast.diffusion.scenes.progress import StageProgress
from latentcast.diffusion.scenes.render import object_map
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene

__all__ = ["NUM_CELLS", "Answers", "Judge", "train_judge"]

NUM_CELLS = 16
# What it looks at, whatever the pictures' own size.
_PIXELS = 128
_PEAK_RATE = 4e-3
_COLOUR_NAMES = list(COLOURS)
# Per cell: is there an object, its colour, its shape, its place (x, z).
_SPLIT = (1, len(COLOURS), len(SHAPES), 2)


def _step(inputs: int, outputs: int, stride: int) -> list[torch.nn.Module]:
    return [
        torch.nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        torch.nn.BatchNorm2d(outputs),
        torch.nn.ReLU(inplace=True),
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the judge says of a batch of pictures.

    Attributes:
        present: logit of an object in each cell, (batch, cells, cells).
        colour: logits, (batch, colours, cells, cells).
        shape: logits, (batch, shapes, cells, cells).
        place: x and z of the object's middle, (batch, 2, cells, cells).
        floor: logits, (batch, floors).
        sky: logits, (batch, skies).
        features: what the pictures look like to it, (batch, 80).
    """

    present: torch.Tensor
    colour: torch.Tensor
    shape: torch.Tensor
    place: torch.Tensor
    floor: torch.Tensor
    sky: torch.Tensor
    features: torch.Tensor


class Judge(torch.nn.Module):
    """Convolutions to 16 x 16 cells, each told what stands around it by convolutions at 8 x 8."""

    where: torch.Tensor  # of each cell's middle, in -1..1; (1, 2, cells, cells)

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Sequential(
            *_step(3, 16, 2), *_step(16, 32, 2), *_step(32, 56, 2), *_step(56, 56, 1)
        )
        self.coarse = torch.nn.Sequential(*_step(56 + 2, 80, 2), *_step(80, 80, 1), *_step(80, 80, 1))
        self.around = torch.nn.Conv2d(80, 56 + 2, 1)
        self.joint = torch.nn.Sequential(*_step(56 + 2, 80, 1), torch.nn.Conv2d(80, sum(_SPLIT), 1))
        self.whole = torch.nn.Linear(80, len(FLOORS) + len(SKIES))
        axis = (torch.arange(NUM_CELLS) + 0.5) / NUM_CELLS * 2.0 - 1.0
        self.register_buffer("where", torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None])

    def forward(self, pictures: torch.Tensor) -> Answers:
        """Look at float (batch, 3, H, W) pictures in -1..1."""
        if pictures.shape[-1] != _PIXELS:
            pictures = F.interpolate(pictures, (_PIXELS, _PIXELS), mode="area")
        fine = self.fine(pictures)
        where = self.where.expand(len(pictures), -1, -1, -1).to(fine.dtype)
        fine = torch.cat([fine, where], dim=1)
        coarse = self.coarse(fine)
        around = F.interpolate(self.around(coarse), scale_factor=2.0, mode="nearest")
        cells = self.joint(fine + around).float()
        present, colour, shape, place = cells.split(_SPLIT, dim=1)
        features = coarse.float().mean(dim=(2, 3))
        floor, sky = self.whole(features).split((len(FLOORS), len(SKIES)), dim=1)
        return Answers(
            present=present[:, 0],
            colour=colour,
            shape=shape,
            place=place,
            floor=floor,
            sky=sky,
            features=features,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Truth:
    """What is true of scenes, cell by cell; -1 in `colour` and `shape` where there is no object."""

    colour: torch.Tensor
    shape: torch.Tensor
    place: torch.Tensor
    floor: torch.Tensor
    sky: torch.Tensor

    @classmethod
    def of(cls, scenes: list[Scene]) -> _Truth:
        colour, shape, place = [], [], []
        for scene in scenes:
            seen = object_map(scene, NUM_CELLS)
            # The last entry, index -1, stands for no object.
            colours = np.array([_COLOUR_NAMES.index(thing.colour) for thing in scene.objects] + [-1])
            shapes = np.array([SHAPES.index(thing.shape) for thing in scene.objects] + [-1])
            places = np.array([(thing.x, thing.z) for thing in scene.objects] + [(0.0, 0.0)], np.float32)
            colour.append(colours[seen].astype(np.int8))
            shape.append(shapes[seen].astype(np.int8))
            place.append(places[seen].transpose(2, 0, 1).astype(np.float16))
        return cls(
            colour=torch.from_numpy(np.stack(colour)),
            shape=torch.from_numpy(np.stack(shape)),
            place=torch.from_numpy(np.stack(place)),
            floor=torch.tensor([FLOORS.index(scene.floor) for scene in scenes]),
            sky=torch.tensor([SKIES.index(scene.sky) for scene in scenes]),
        )

    def loss(self, answers: Answers, batch: npt.NDArray[np.int64]) -> torch.Tensor:
        """How wrong the answers about these scenes are."""
        device = answers.floor.device
        colour = self.colour[batch].to(device, torch.int64)
        shape = self.shape[batch].to(device, torch.int64)
        there = colour >= 0
        place = self.place[batch].to(device, torch.float32)
        off = F.smooth_l1_loss(answers.place, place, reduction="none", beta=0.1).sum(dim=1)
        loss: torch.Tensor = (
            2.0 * F.binary_cross_entropy_with_logits(answers.present, there.float())
            + F.cross_entropy(answers.colour, colour, ignore_index=-1)
            + F.cross_entropy(answers.shape, shape, ignore_index=-1)
            + (off * there).sum() / there.sum().clamp(min=1)
            + 0.3 * F.cross_entropy(answers.floor, self.floor[batch].to(device))
            + 0.3 * F.cross_entropy(answers.sky, self.sky[batch].to(device))
        )
        return loss


def train_judge(
    pictures: npt.NDArray[np.uint8],
    scenes: list[Scene],
    folder: Path,
    *,
    seed: int,
    num_updates: int,
    batch_size: int,
    device: str,
    progress: StageProgress,
    stop_at: float | None = None,
) -> Judge:
    """Train on renders, each as it is or mirrored, somewhat blurred and noisy.

    Args:
        pictures: uint8 (num, H, W, 3).
        scenes: what they show.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        seed: of weights and batches.
        num_updates: optimiser updates.
        batch_size: pictures in each.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        The judge, ready to be asked.

    Raises:
        PausedError: when its time is over.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    judge = Judge().to(device)
    cast(Any, judge).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=_PEAK_RATE, weight_decay=0.02)
    course = Course(
        folder / "judge.pt", {"judge": judge, "optimiser": optimiser}, rng, num_updates, progress, stop_at
    )
    straight, turned = _Truth.of(scenes), _Truth.of([mirrored(scene) for scene in scenes])
    judge.train()
    for update in course:
        warm = min(1.0, (update + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = _PEAK_RATE * warm * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6
        batch = np.sort(rng.integers(len(pictures), size=batch_size))
        flip = rng.random() < 0.5
        inputs = to_network(pictures[batch][:, :, ::-1] if flip else pictures[batch], device)
        # The generator's pictures are a little soft; sharpness must not be a cue.
        soft = F.interpolate(F.avg_pool2d(inputs, 2), scale_factor=2, mode="bilinear")
        inputs = torch.lerp(inputs, soft, rng.random())
        inputs = inputs + 0.06 * rng.random() * torch.randn_like(inputs)
        with autocast(device):
            answers = judge(inputs)
        loss = (turned if flip else straight).loss(answers, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        course.note(loss.item())
    return judge.eval()
