"""The README's code runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def block_with(name: str) -> str:
    (found,) = (block for block in BLOCKS if name in block)
    return found


@pytest.mark.parametrize("name", ["model_level", "EveryTenth"])
def test_blocks_on_numbers_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block_with(name), "README.md", "exec"), {})
    assert re.fullmatch(r"0\.\d+( \+- 0\.\d+)?\n", capsys.readouterr().out)


def test_three_lines_make_a_diffusers_script_progressive(tiny_folder: Path) -> None:
    from diffusers import DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    code = block_with("StepCallback").replace("(4, 64, 64)", "(4, 8, 8)")
    code = code.replace("Scenario.paper(snr_db", "Scenario.for_latent(256, snr_db")
    names: dict[str, Any] = {"pipe": pipe}
    exec(compile(code, "README.md", "exec"), names)
    assert names["picture"].size == (64, 64)
    assert names["sender"].step == 0
    assert names["sender"].poll(slot=40) is not None


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 3
