"""The embedded model's held-out prompts."""

import subprocess
import sys

import pytest

from latentcast.diffusion.scenes.captions import VOCABULARY
from latentcast.diffusion.scenes.held_out import held_out_prompts
from latentcast.diffusion.scenes.plan import StageSeeds
from latentcast.diffusion.scenes.reading import interpret
from latentcast.errors import ParameterError


def test_prompts_are_distinct_and_reach_the_model_as_they_are() -> None:
    prompts = held_out_prompts()
    assert len(set(prompts)) == 500
    for prompt in prompts:
        interpretation = interpret(prompt)
        assert (interpretation.caption, interpretation.notes) == (prompt, ())
        assert set(prompt.split()) <= set(VOCABULARY)


def test_fewer_are_the_beginning_of_more() -> None:
    assert held_out_prompts(40)[:12] == held_out_prompts(12)


def test_no_stage_of_training_has_the_seed() -> None:
    from latentcast.diffusion.scenes import held_out

    assert held_out._SEED not in vars(StageSeeds()).values()


@pytest.mark.parametrize("count", [0, -3, 10_001])
def test_bad_count(count: int) -> None:
    with pytest.raises(ParameterError, match=f"number of held-out prompts is {count}"):
        held_out_prompts(count)


def test_no_renderer_is_needed() -> None:
    program = (
        "import sys\nsys.modules['numba'] = None\nsys.modules['torch'] = None\n"
        "from latentcast.diffusion.scenes.held_out import held_out_prompts\nprint(len(held_out_prompts(3)))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "3\n"
