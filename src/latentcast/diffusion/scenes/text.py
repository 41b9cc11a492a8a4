"""The text encoder, and its schooling: to understand sentences before it sees a picture.

CLIP's encoder is causal: in "a red sphere left of a blue cube" the sphere's token does not know that it is
left. But sentences are padded, and the last positions are always padding that sees the whole sentence; the
UNet attends to them like to words. So each of them is made a register that tells, to a linear readout, one
thing about the scene: what the first object of the sentence is and where it stands, what stands at the left,
what is nearest, where all this is. What a sentence leaves open is learned as a distribution.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latentcast.diffusion.scenes.arrangement import arrange
from latentcast.diffusion.scenes.captions import MENTION, Description, describe
from latentcast.diffusion.scenes.composition import has_any
from latentcast.diffusion.scenes.course import Course, rate_scale, share_of_peak
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast
from latentcast.diffusion.scenes.progress import StageProgress
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene, SceneObject
from latentcast.diffusion.scenes.tokens import TEXT_LENGTH, token_ids

__all__ = [
    "COUNT_SHARES",
    "NUM_REGISTERS",
    "TEXT_WIDTH",
    "Readout",
    "build_text_encoder",
    "draw_sentences",
    "right_answers",
    "train_text_encoder",
]

TEXT_WIDTH = 128
"""Of the encoder's output."""

COUNT_SHARES = (0.25, 0.40, 0.35)
"""How much of training shows one, two and three objects: more of what is hard than pictures have."""

_MOST = 3
_COLUMNS, _ROWS = 8, 5
_NEAREST, _FARTHEST = -0.9, 1.3
# What a register is asked, as numbers of answers; the last one of an object is that there is none.
_LOOK = (len(COLOURS) + 1, len(SHAPES) + 1)
_PLACE = (_COLUMNS + 1, _ROWS + 1)
_REGISTERS = (
    *[(*_LOOK, *_PLACE)] * _MOST,  # objects in order of mention
    *[_LOOK] * _MOST,  # from left to right
    *[_LOOK] * _MOST,  # from near to far
    (len(FLOORS), len(SKIES), _MOST),
)

NUM_REGISTERS = len(_REGISTERS)
"""Positions at the end of a sentence's padding that are asked something each."""

_PEAK_RATE, _PEAK_BATCH = 2e-3, 128
_FALL_SHARE = 0.5  # of the updates: those in which the rate falls


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """Make the untrained encoder.

    Args:
        vocabulary_size: of the tokenizer.
    """
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )


class Readout(torch.nn.Module):
    """Linear answers to what the registers are asked; it is only there in training."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(TEXT_WIDTH, sum(asked)) for asked in _REGISTERS)

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each question, (batch, answers), from float (batch, length, width) of the encoder."""
        last = hidden[:, -NUM_REGISTERS:].unbind(1)
        return [
            logits
            for head, register, asked in zip(self.heads, last, _REGISTERS, strict=True)
            for logits in head(register).split(asked, dim=1)
        ]

    def loss(self, hidden: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats over questions, by int64 (batch, questions) of `answers`."""
        told = self(hidden)
        return torch.stack([F.cross_entropy(a.float(), b) for a, b in zip(told, right.T, strict=True)]).mean()


def answers(scene: Scene, order: tuple[int, ...]) -> list[int]:
    """What the registers should say of a scene whose objects are mentioned in this order."""
    things = scene.objects
    mentioned = [things[i] for i in order]
    return [
        *_padded([[*_look(thing), *_place(scene, thing)] for thing in mentioned], (*_LOOK, *_PLACE)),
        *_padded([_look(thing) for thing in sorted(things, key=lambda thing: _across(scene, thing))], _LOOK),
        *_padded([_look(thing) for thing in sorted(things, key=lambda thing: thing.z)], _LOOK),
        FLOORS.index(scene.floor),
        SKIES.index(scene.sky),
        len(things) - 1,
    ]


def _padded(told: list[list[int]], asked: tuple[int, ...]) -> list[int]:
    none = [count - 1 for count in asked]
    return [answer for each in [*told, *[none] * (_MOST - len(told))] for answer in each]


def _look(thing: SceneObject) -> list[int]:
    return [_COLOUR_NUMBERS[thing.colour], SHAPES.index(thing.shape)]


def _across(scene: Scene, thing: SceneObject) -> float:
    """Where its middle is in the picture, from -1 at the left to 1."""
    camera = scene.camera
    pitch = math.atan2(camera.height - camera.target_height, camera.distance)
    depth = (camera.distance + thing.z) * math.cos(pitch) + (camera.height - thing.radius) * math.sin(pitch)
    return thing.x / (camera.half_view * depth)


def _place(scene: Scene, thing: SceneObject) -> list[int]:
    column = int((_across(scene, thing) + 1.0) / 2.0 * _COLUMNS)
    row = int((thing.z - _NEAREST) / (_FARTHEST - _NEAREST) * _ROWS)
    return [min(max(column, 0), _COLUMNS - 1), min(max(row, 0), _ROWS - 1)]


_COLOUR_NUMBERS = {colour: number for number, colour in enumerate(COLOURS)}


def draw_sentences(
    count: int, rng: np.random.Generator, held_out_looks: tuple[str, ...]
) -> tuple[list[Scene], list[Description]]:
    """Scenes without certain looks, and a sentence about each; whether all is visible is not looked at."""

    def draw() -> Scene:
        num_objects = 1 + int(rng.choice(_MOST, p=COUNT_SHARES))
        while True:
            scene = arrange(rng, num_objects)
            if scene is not None and not has_any(scene, held_out_looks):
                return scene

    scenes = [draw() for _ in range(count)]
    return scenes, [describe(scene, rng, MENTION) for scene in scenes]


def train_text_encoder(
    tokenizer: CLIPTokenizer,
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: StageProgress,
    stop_at: float | None = None,
) -> tuple[CLIPTextModel, Readout]:
    """Teach sentences alone.

    Args:
        tokenizer: of `build_tokenizer`.
        folder: where the checkpoint lies; an interrupted run goes on from it.
        plan: batch, updates, what is held out, and the seed of weights, scenes and sentences.
        device: "cpu" or "cuda".
        progress: called with (done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        The encoder, and the readout of its registers.

    Raises:
        PausedError: when its time is over.
    """
    torch.manual_seed(plan.seeds.text)
    rng = np.random.default_rng(plan.seeds.text)
    encoder, readout = build_text_encoder(len(tokenizer)).to(device), Readout().to(device)
    if device == "cpu":
        encoder.set_attn_implementation("eager")  # the fused kernel's backward pass is much slower there
    parameters = [*encoder.parameters(), *readout.parameters()]
    peak = _PEAK_RATE * rate_scale(plan.text_batch / _PEAK_BATCH)
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=1e-2, fused=True)
    state = {"encoder": encoder, "readout": readout, "optimiser": optimiser}
    course = Course(folder / "text.pt", state, rng, plan.text_updates, progress, stop_at)
    for update in course:
        for group in optimiser.param_groups:
            group["lr"] = peak * share_of_peak(update, plan.text_updates, _FALL_SHARE)
        scenes, told = draw_sentences(plan.text_batch, rng, plan.held_out_looks)
        tokens = token_ids(tokenizer, [words.text for words in told]).to(device)
        right = right_answers(scenes, told).to(device)
        with autocast(device):
            hidden = encoder(tokens).last_hidden_state
            loss = readout.loss(hidden, right)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        course.note(loss.item())
    return encoder, readout


def right_answers(scenes: list[Scene], told: list[Description]) -> torch.Tensor:
    """int64 (num, questions) of `answers`, for sentences about scenes."""
    numbers: npt.NDArray[np.int64] = np.array(
        [answers(scene, words.order) for scene, words in zip(scenes, told, strict=True)], np.int64
    )
    return torch.from_numpy(numbers)
