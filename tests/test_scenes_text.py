"""The text encoder's schooling: what is asked of its registers, and that it learns to answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.diffusion.scenes.captions import MENTION, Description, describe
from latentcast.diffusion.scenes.composition import HELD_OUT_LOOKS, has_any
from latentcast.diffusion.scenes.dataset import draw_scenes
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.render import object_map, visible_shares
from latentcast.diffusion.scenes.scene import COLOURS, SHAPES, Scene, SceneObject
from latentcast.diffusion.scenes.text import (
    NUM_REGISTERS,
    Readout,
    _across,
    build_text_encoder,
    draw_sentences,
    right_answers,
    train_text_encoder,
)
from latentcast.diffusion.scenes.tokens import TEXT_LENGTH, build_tokenizer, token_ids
from latentcast.errors import PausedError

RED_BALL = SceneObject(shape="sphere", colour="red", x=-1.0, z=1.0, radius=0.5)
BLUE_BOX = SceneObject(shape="cube", colour="blue", x=1.0, z=-0.5, radius=0.5)
PAIR = Scene(objects=(RED_BALL, BLUE_BOX), floor="checkered", sky="night")
RED, BLUE, NO_COLOUR = list(COLOURS).index("red"), list(COLOURS).index("blue"), len(COLOURS)
SPHERE, CUBE, NO_SHAPE = SHAPES.index("sphere"), SHAPES.index("cube"), len(SHAPES)


def told(order: tuple[int, ...]) -> Description:
    return Description(text="", relations=(), order=order)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_registers_are_asked_for_objects_in_order_of_mention_place_and_depth(order: tuple[int, ...]) -> None:
    (right,) = right_answers([PAIR], [told(order)]).tolist()
    ball, box, none = [RED, SPHERE], [BLUE, CUBE], [NO_COLOUR, NO_SHAPE]
    mentioned = [right[0:4], right[4:8]]
    assert [each[:2] for each in mentioned] == [(ball, box)[i] for i in order]
    # The ball is at the left and far, the box at the right and near.
    (ball_column, ball_row), (box_column, box_row) = (mentioned[order.index(i)][2:] for i in (0, 1))
    assert ball_column < box_column
    assert ball_row > box_row
    assert right[8:10] == none
    assert right[12:18] == ball + box + none
    assert right[18:24] == box + ball + none
    assert right[24:] == [1, 2, 1]


def test_a_register_places_an_object_where_the_camera_sees_it() -> None:
    size = 128
    for scene in draw_scenes(40, seed=3):
        seen = object_map(scene, size)
        for number, thing in enumerate(scene.objects):
            if thing.shape == "sphere" and visible_shares(scene)[number] == 1.0:
                columns = np.argwhere(seen == number)[:, 1]
                middle = (columns.min() + columns.max() + 1) / size - 1.0
                # A register's column is 0.25 wide.
                assert _across(scene, thing) == pytest.approx(middle, abs=0.04)


def test_all_registers_see_the_whole_sentence(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    rng = np.random.default_rng(0)
    texts = [describe(scene, rng).text for scene in draw_scenes(200, seed=21)]
    longest = max(len(tokenizer(text).input_ids) for text in texts)
    assert longest <= TEXT_LENGTH - NUM_REGISTERS
    torch.manual_seed(0)
    encoder = build_text_encoder(len(tokenizer)).eval()
    with torch.no_grad():
        one, other = encoder(
            token_ids(tokenizer, ["a red sphere left of a blue cube", "a red sphere right of a blue cube"])
        ).last_hidden_state
    changed = (one - other).abs().amax(1) > 1e-6
    assert not changed[:4].any()  # "a red sphere", after the start, does not know what follows
    assert changed[-NUM_REGISTERS:].all()


def test_sentences_for_the_school_hold_nothing_out_of_place() -> None:
    scenes, sentences = draw_sentences(60, np.random.default_rng(3), HELD_OUT_LOOKS)
    assert not any(has_any(scene, HELD_OUT_LOOKS) for scene in scenes)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert all(
        f"{scene.objects[words.order[0]].colour} {scene.objects[words.order[0]].shape}" in words.text
        for scene, words in zip(scenes, sentences, strict=True)
    )


def school(folder: Path, plan: TrainingPlan, stop_at: float | None = None) -> dict[str, torch.Tensor]:
    encoder, readout = train_text_encoder(
        build_tokenizer(folder), folder, plan, device="cpu", progress=lambda *_: None, stop_at=stop_at
    )
    return {**encoder.state_dict(), **{f"readout.{name}": w for name, w in readout.state_dict().items()}}


def test_schooling_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = TrainingPlan(text_updates=4, text_batch=4)
    whole = school(tmp_path / "whole", plan)
    clock = iter(range(1000))
    with monkeypatch.context() as patch:
        # Every look at the clock is a second: the stage pauses after as many updates.
        patch.setattr("latentcast.diffusion.scenes.course.time.monotonic", lambda: float(next(clock)))
        with pytest.raises(PausedError, match="stage text has made 2 of 4 updates"):
            school(tmp_path / "cut", plan, 3.0)
    for name, tensor in school(tmp_path / "cut", plan).items():
        torch.testing.assert_close(tensor, whole[name], rtol=0.0, atol=0.0)


def test_a_short_schooling_learns_what_a_sentence_says(tmp_path: Path) -> None:
    plan = replace(TrainingPlan(), text_updates=120, text_batch=32)
    tokenizer = build_tokenizer(tmp_path)
    encoder, readout = train_text_encoder(tokenizer, tmp_path, plan, device="cpu", progress=lambda *_: None)
    scenes, sentences = draw_sentences(200, np.random.default_rng(99), ())
    with torch.no_grad():
        hidden = encoder(token_ids(tokenizer, [words.text for words in sentences])).last_hidden_state
        answers = readout(hidden)
        untaught = Readout().loss(hidden, right_answers(scenes, sentences)).item()
        loss = readout.loss(hidden, right_answers(scenes, sentences)).item()
    assert loss < 0.5 * untaught
    first_colour = torch.tensor(
        [
            list(COLOURS).index(scene.objects[words.order[0]].colour)
            for scene, words in zip(scenes, sentences, strict=True)
        ]
    )
    share = (answers[0].argmax(1) == first_colour).float().mean().item()
    assert share > 0.5  # 0.125 by chance
    assert MENTION < 1.0
