"""Studies as files: a wrong key is named with its place and the nearest right one."""

import re
from pathlib import Path

import pytest

from latentcast.errors import ParameterError
from latentcast.policy.base import Observation, Wait
from latentcast.scenario import Scenario
from latentcast.study.runner.config import PolicyChoice, StudyConfig
from latentcast.study.runner.load import BUILT_IN, built_in_text, load_study, parse_study
from latentcast.study.runner.schemes import make_scheme, make_schemes

SMALL = """
fidelity = "model"
policies = ["lookahead"]
[link]
snr_db = 0
"""


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_studies_are_valid_and_survive_json(name: str) -> None:
    config = load_study(name)
    assert StudyConfig.model_validate_json(config.model_dump_json(exclude_unset=True)) == config
    assert parse_study(built_in_text(name)) == config


def test_fig3_is_the_papers() -> None:
    for name in ("fig3", "fig3-model"):
        config = load_study(name)
        assert config.link is not None
        assert config.link.snr_db == (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 24.0)
        assert [policy.name for policy in config.policies] == [
            "lookahead",
            "persistent-3",
            "persistent-4",
            "persistent-8",
            "final-only",
        ]
        assert config.scenario_at(0.0, 16384) == Scenario.paper(snr_db=0.0)
        assert config.scenario_at(0.0, 1024) == Scenario.for_latent(1024, snr_db=0.0) or name == "fig3-model"
    assert load_study("fig3").episodes == 500


def test_changes_of_the_command_line() -> None:
    config = load_study("fig3", episodes=7, seed=3, pictures=False)
    assert (config.episodes, config.seed, config.metrics) == (7, 3, ())
    validation = load_study("fig2", episodes=7, pictures=False)
    assert validation.trajectories is not None
    assert validation.validation is not None
    assert (validation.trajectories.count, validation.validation.pictures) == (7, 0)


def test_a_grid_is_a_number_a_list_or_a_range() -> None:
    for text, values in {
        "3": (3.0,),
        "[0, 2.5]": (0.0, 2.5),
        "{ start = 0, stop = 0.3, step = 0.1 }": (0.0, 0.1, 0.2, 0.3),
        "{ start = 1, stop = 1, step = 5 }": (1.0,),
    }.items():
        link = parse_study(SMALL.replace("snr_db = 0", f"snr_db = {text}")).link
        assert link is not None
        assert link.snr_db == values


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fidelity", "fidelty", "unknown key 'fidelty' in the top level; did you mean 'fidelity'?"),
        ("snr_db = 0", "snr_bd = 0", "unknown key 'snr_bd' in [link]; did you mean 'snr_db'?"),
        ("[link]", "[scenario]\ndeadline = 3\n[link]", "'deadline' in [scenario]; did you mean 'dead"),
        ("snr_db = 0", "snr_db = {start=0, stop=3, stp=1}", "link.snr_db: unknown key 'stp'; did you"),
        ("snr_db = 0", "snr_db = {start=0, stop=3}", "needs the numbers start, stop and step"),
        ("snr_db = 0", "snr_db = {start=0, stop=3, step=0}", "a range needs a positive step"),
        ("snr_db = 0", "snr_db = {start=0, stop=3, step=1e-6}", "at most 1000 are allowed"),
        ("snr_db = 0", "snr_db = [1, 1]", "names an SNR twice"),
        ("snr_db = 0", "snr_db = []", "link.snr_db is "),
        ("snr_db = 0", "snr_db = 400", "snr_db is 400"),
        ("[link]", "[link]\nsnr_reference = 'peak'", "link.snr_reference is 'peak'"),
        ("snr_db = 0", "snr_db = 'all'", "link.snr_db is 'all'"),
        ("[link]\nsnr_db = 0", "", "needs the table [link]"),
        ("policies", "seed = -1\npolicies", "seed is -1; input should be greater than or equal to 0"),
        ("policies", "episodes = 1.5\npolicies", "episodes is 1.5"),
        ("policies", "episodes = true\npolicies", "episodes is True"),
        ("policies", "metrics = ['psnr']\npolicies", 'fidelity = "model" has no latents'),
        ('"model"', '"latent"', 'fidelity = "latent" needs [trajectories]'),
        ("[link]", "[validation]\n[link]", '[validation] needs kind = "validation"'),
        ("fidelity", "kind = 'validation'\nfidelity", "a validation has no use for fidelity, link, policies"),
        ("[link]", "[scenario]\nquantile = 1.5\n[link]", "quantile is 1.5; it must lie inside (0, 1)"),
        ("[link]", "[link", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ParameterError, match=re.escape(message)):
        parse_study(SMALL.replace(old, new))


def test_a_recording_leaves_nothing_to_record() -> None:
    text = SMALL.replace("model", "latent") + '[trajectories]\nrecording = "r"\ncount = 3\n'
    with pytest.raises(ParameterError, match="trajectories: a recording is already there, so count"):
        parse_study(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no such file.*; give a TOML file or one of fig2, fig3"):
        load_study("fig33")
    (tmp_path / "study.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(ParameterError, match=r"study\.toml is not UTF-8"):
        load_study(tmp_path / "study.toml")
    with pytest.raises(ParameterError, match="no built-in study 'fig4'; choose fig2"):
        built_in_text("fig4")


class EveryOther:
    """A policy from outside."""

    def __init__(self, scenario: Scenario, name: str = "every-other") -> None:
        self.name = name

    def decide(self, observation: Observation) -> Wait:
        return Wait()


def choice(**values: object) -> PolicyChoice:
    return PolicyChoice.model_validate(values)


def test_policies_from_outside_take_options() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    assert make_scheme(choice(name=f"{__name__}:EveryOther"), scenario).name == "every-other"
    made = make_scheme(choice(name=f"{__name__}:EveryOther", label="mine"), scenario)
    assert made.name == "mine"
    assert made.decide(Observation(slot=5, step=48, reference_step=50, uplink_slots=2)) == Wait()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "greedy"}, "unknown policy 'greedy'; choose lookahead"),
        ({"name": "lookahead", "bas": "x"}, "unknown key 'bas' in policy lookahead; did you mean 'base'?"),
        ({"name": "lookahead", "base": "x"}, "'x'"),
        ({"name": "persistent-3", "bits": 4}, "unknown key 'bits' in policy persistent-3"),
        ({"name": "nowhere:Policy"}, "cannot import policy 'nowhere:Policy'"),
        ({"name": f"{__name__}:Nobody"}, "has no attribute 'Nobody'"),
        ({"name": f"{__name__}:EveryOther", "size": 1}, "does not take these options"),
        ({"name": f"{__name__}:choice"}, "does not take these options"),
        ({"name": f"{__name__}:print_nothing"}, "it must make a policy"),
    ],
)
def test_policies_that_cannot_be_made(values: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        make_scheme(choice(**values), Scenario.paper(snr_db=0.0))


def print_nothing(scenario: Scenario) -> None:
    """No factory of a policy."""


def test_policies_have_different_names() -> None:
    with pytest.raises(ParameterError, match="two policies are called 'lookahead'; give one of them a label"):
        make_schemes([choice(name="lookahead")] * 2, Scenario.paper(snr_db=0.0))
