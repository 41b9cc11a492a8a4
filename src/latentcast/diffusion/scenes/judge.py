"""The judge: a small classifier of rendered scenes that makes "does the picture follow its prompt" a number.

It is trained on renders only and never sees a generated picture, so it cannot learn the generator's faults.
Its score on held-out renders is the ceiling of what a generator can reach by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from latentcast.diffusion.scenes.checkpoint import load_checkpoint, save_checkpoint
from latentcast.diffusion.scenes.dataset import mirrored
from latentcast.diffusion.scenes.pixels import to_network
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, RELATIONS, SHAPES, SKIES, Scene

__all__ = ["Judge", "Scores", "score", "train_judge"]

_LOOKS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
_NO_RELATION = len(RELATIONS)


class Judge(torch.nn.Module):
    """Convolutions to 4 x 4 cells, then one linear layer per question."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for inputs, outputs in ((3, 24), (24, 48), (48, 96), (96, 128), (128, 128)):
            layers += [
                torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(inplace=True),
            ]
            if inputs >= 24:
                layers += [
                    torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                    torch.nn.BatchNorm2d(outputs),
                    torch.nn.ReLU(inplace=True),
                ]
        self.trunk = torch.nn.Sequential(
            *layers, torch.nn.Flatten(), torch.nn.Linear(128 * 16, 256), torch.nn.ReLU()
        )
        sizes = {"looks": len(_LOOKS), "count": 3, "floor": 3, "sky": 3, "relation": _NO_RELATION + 1}
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(256, size) for name, size in sizes.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Answer all questions about float (batch, 3, 128, 128) pictures in -1..1, as logits."""
        features = self.trunk(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def _labels(scene: Scene) -> dict[str, npt.NDArray[np.int64]]:
    looks = np.zeros(len(_LOOKS), np.int64)
    indices = [_LOOKS.index((thing.colour, thing.shape)) for thing in scene.objects]
    looks[indices] = 1
    relation = _NO_RELATION
    if len(indices) == 2:
        first = int(np.argmin(indices))  # told of the look that comes first in the list, so that it is unique
        held = scene.relations(first, 1 - first)
        relation = RELATIONS.index(held[0]) if held else _NO_RELATION
    return {
        "looks": looks,
        "count": np.array(len(scene.objects) - 1),
        "floor": np.array(FLOORS.index(scene.floor)),
        "sky": np.array(SKIES.index(scene.sky)),
        "relation": np.array(relation),
    }


def _stack(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    rows = [_labels(scene) for scene in scenes]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def train_judge(
    pictures: npt.NDArray[np.uint8],
    scenes: list[Scene],
    folder: Path,
    *,
    seed: int,
    num_updates: int,
    device: str,
    progress: Callable[[int, int, str], None],
) -> Judge:
    """Train on renders, each as it is or mirrored, slightly blurred or noisy.

    Args:
        pictures: uint8 (num, 128, 128, 3).
        scenes: what they show.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        seed: of weights and batches.
        num_updates: optimiser updates of 64 pictures.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    judge = Judge().to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    path = folder / "judge.pt"
    state = {"judge": judge, "optimiser": optimiser}
    done = load_checkpoint(path, state, rng)
    straight, turned = _stack(scenes), _stack([mirrored(scene) for scene in scenes])
    judge.train()
    for update in range(done, num_updates):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * update / num_updates)) + 1e-6
        batch = np.sort(rng.integers(len(pictures), size=64))
        flip = rng.random() < 0.5
        labels = {name: value[batch].to(device) for name, value in (turned if flip else straight).items()}
        inputs = to_network(pictures[batch][:, :, ::-1] if flip else pictures[batch], device)
        if rng.random() < 0.5:  # the generator's pictures are a little soft; sharpness must not be a cue
            inputs = F.interpolate(F.avg_pool2d(inputs, 2), scale_factor=2, mode="bilinear")
        inputs = inputs + 0.05 * rng.random() * torch.randn_like(inputs)
        answers = judge(inputs)
        loss = 4.0 * F.binary_cross_entropy_with_logits(answers["looks"], labels["looks"].float())
        for name in ("count", "floor", "sky"):
            loss = loss + 0.3 * F.cross_entropy(answers[name], labels[name])
        two = labels["count"] == 1
        loss = loss + 0.3 * F.cross_entropy(answers["relation"][two], labels["relation"][two])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if update % 50 == 0 or update + 1 == num_updates:
            progress(update + 1, num_updates, f"loss {loss.item():.4f}")
        if (update + 1) % 500 == 0 or update + 1 == num_updates:
            save_checkpoint(path, state, rng, update + 1)
    return judge.eval()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Share of pictures that show what was asked, by number of objects.

    Args:
        objects: count, and every object's colour and shape, right; by number of objects 1, 2, 3.
        relation: the relation right, of the two-object scenes whose objects are right and have one.
        floor: the floor right.
        sky: the sky right.
        num_pictures: sample size.
    """

    objects: dict[int, float]
    relation: float
    floor: float
    sky: float
    num_pictures: int


@torch.no_grad()
def score(
    judge: Judge, pictures: npt.NDArray[np.uint8], scenes: list[Scene], *, device: str = "cpu"
) -> Scores:
    """Judge pictures against the scenes that they should show."""
    answers = [judge(to_network(pictures[i : i + 64], device)) for i in range(0, len(pictures), 64)]
    given = {name: torch.cat([answer[name].cpu() for answer in answers]) for name in answers[0]}
    labels = _stack(scenes)
    count = labels["count"] + 1
    # The `count` strongest looks must be the right ones.
    ranks = given["looks"].argsort(dim=1, descending=True).argsort(dim=1)
    looks_right = ((ranks < count[:, None]) == labels["looks"].bool()).all(dim=1)
    right = looks_right & (given["count"].argmax(1) == labels["count"])
    told = right & (count == 2) & (labels["relation"] != _NO_RELATION)
    same = {name: given[name].argmax(1) == labels[name] for name in ("relation", "floor", "sky")}

    def share(hits: torch.Tensor) -> float:
        return float(hits.float().mean()) if len(hits) else math.nan

    return Scores(
        objects={n: share(right[count == n]) for n in (1, 2, 3)},
        relation=share(same["relation"][told]),
        floor=share(same["floor"]),
        sky=share(same["sky"]),
        num_pictures=len(pictures),
    )
