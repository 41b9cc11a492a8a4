"""What a training was asked for and has done so far: plan, record, checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentcast.diffusion.scenes import weights_folder
from latentcast.diffusion.scenes.checkpoint import load_checkpoint, save_checkpoint
from latentcast.diffusion.scenes.composition import HELD_OUT_LOOKS
from latentcast.diffusion.scenes.plan import CPU_PLAN, TrainingPlan
from latentcast.diffusion.scenes.training_record import RECORD_FILE, recorded_plan, write_record
from latentcast.errors import ModelError, ParameterError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"denoiser_updates": 0}, "denoiser_updates is 0"),
        ({"picture_size": 200}, "picture_size is 200"),
        ({"held_out_looks": ("pink cube",)}, "pink cube"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TrainingPlan(**values)


def test_a_denoiser_is_trained_anew_in_the_size_that_its_folder_has() -> None:
    recorded = TrainingPlan(denoiser_widths=(16, 16), denoiser_updates=1, held_out_looks=(), num_pictures=9)
    plan = recorded.with_stage(CPU_PLAN, "denoiser")
    assert (plan.denoiser_widths, plan.num_pictures) == ((16, 16), 9)
    assert (plan.denoiser_updates, plan.held_out_looks) == (CPU_PLAN.denoiser_updates, HELD_OUT_LOOKS)


def test_a_decoder_for_devices_is_made_anew_in_any_size() -> None:
    recorded = TrainingPlan(denoiser_updates=1, device_widths=(8,), device_blocks=(1,), device_updates=1)
    plan = recorded.with_stage(CPU_PLAN, "device-decoder")
    assert (plan.device_widths, plan.device_updates) == (CPU_PLAN.device_widths, CPU_PLAN.device_updates)
    assert plan.denoiser_updates == 1


def test_a_work_folder_is_kept_to_its_plan_but_for_the_decoder_for_devices(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = TrainingPlan(denoiser_updates=5)
    plan.keep_to(file)
    plan.keep_to(file)
    TrainingPlan(denoiser_updates=5, device_updates=1).keep_to(file)
    with pytest.raises(ModelError, match="begun with another plan"):
        TrainingPlan(denoiser_updates=6).keep_to(file)
    file.write_text("{}")
    with pytest.raises(ModelError, match="begun with another plan"):
        plan.keep_to(file)


def test_a_former_plan_is_read_and_an_unknown_number_refused() -> None:
    former = {**CPU_PLAN.to_dict(), "device_pictures": 6000}
    assert TrainingPlan.from_dict(former) == CPU_PLAN
    with pytest.raises(TypeError, match="judge_moods"):
        TrainingPlan.from_dict({**former, "judge_moods": 3})


def test_the_shipped_weights_say_how_they_were_trained() -> None:
    recorded = json.loads((weights_folder() / RECORD_FILE).read_text())["plan"]
    assert recorded == json.loads(json.dumps(CPU_PLAN.to_dict()))
    assert recorded_plan(weights_folder()) == CPU_PLAN


def test_a_record_keeps_its_findings_until_there_are_new_ones(tmp_path: Path) -> None:
    write_record(tmp_path, CPU_PLAN, {"right": 1})
    other = TrainingPlan(device_updates=1)
    write_record(tmp_path, other)
    assert recorded_plan(tmp_path) == other
    assert json.loads((tmp_path / RECORD_FILE).read_text())["findings"] == {"right": 1}
    write_record(tmp_path, other, {"right": 2})
    assert json.loads((tmp_path / RECORD_FILE).read_text())["findings"] == {"right": 2}
    assert [file.name for file in tmp_path.iterdir()] == [RECORD_FILE]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"plan": 3}', '{"plan": {"seeds": {}}}', "\x00"])
def test_a_damaged_record_is_an_error_of_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / RECORD_FILE).write_text(content)
    for read in (lambda: recorded_plan(tmp_path), lambda: write_record(tmp_path, CPU_PLAN)):
        with pytest.raises(ModelError, match="cannot read how the model was trained") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_restores_weights_and_random_streams(tmp_path: Path) -> None:
    layer, rng = torch.nn.Linear(3, 2), np.random.default_rng(1)
    save_checkpoint(tmp_path / "c.pt", {"layer": layer}, rng, 7, 9)
    expected = rng.random(4), torch.rand(4)
    other, later = torch.nn.Linear(3, 2), np.random.default_rng(2)
    assert load_checkpoint(tmp_path / "c.pt", {"layer": other}, later, 9) == 7
    np.testing.assert_array_equal(later.random(4), expected[0])
    assert torch.equal(torch.rand(4), expected[1])
    assert torch.equal(other.weight, layer.weight)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    file, rng = tmp_path / "c.pt", np.random.default_rng(1)
    layer = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters())
    save_checkpoint(file, {"layer": layer, "adam": adam}, rng, 7, 9)
    two_groups = torch.optim.Adam([layer.weight])
    two_groups.add_param_group({"params": [layer.bias]})
    others: list[tuple[dict[str, Any], int]] = [
        ({"layer": layer}, 10),
        ({"layer": torch.nn.Linear(3, 4)}, 9),
        ({"layer": layer, "muon": adam}, 9),
        ({"layer": layer, "adam": two_groups}, 9),
    ]
    for state, num_updates in others:
        with pytest.raises(ModelError, match=r"c\.pt is no checkpoint of what is trained now.*remove it"):
            load_checkpoint(file, state, rng, num_updates)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="remove it"):
        load_checkpoint(file, {"layer": layer}, rng, 9)
