"""Studies as files: a wrong key is named with its place and the nearest right one."""

import re
from pathlib import Path

import pytest

from latentcast.errors import ParameterError
from latentcast.policy.base import Observation, Wait
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario
from latentcast.study.runner.choices import PolicyChoice
from latentcast.study.runner.config import StudyConfig
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
        papers = {float(snr_db) for snr_db in range(-6, 25, 3)}
        assert papers <= set(config.link.snr_db)
        names = [policy.name for policy in config.policies]
        assert {"lookahead", "persistent-3", "persistent-4", "persistent-8", "final-only"} < set(names)
        assert names[0] == ("progressive" if name == "fig3" else "lookahead")
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
        ("lookahead", "progressive", "policy 'progressive' has no distortion formula"),
        ("[link]", "[[cases]]\nname = 'a'\n[link]", '[[cases]] need kind = "limit"'),
        ("fidelity", "kind = 'limit'\nfidelity", "a study of the limit has no use for fidelity, policies"),
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[link]", "prompts = 'held-out'\n[link]", "white-gaussian is a formula and has no use for prompts"),
        ("episodes", "metrics = ['psnr']\nepisodes", "white-gaussian has no pictures"),
        ("latent_size = 256", "latent_size = 1000", "latent_size is 1000; a Gaussian latent has four square"),
        ("episodes = 2", "kind = 'validation'", "a validation has no use for link, policies"),
    ],
)
def test_what_a_gaussian_source_refuses(old: str, new: str, message: str) -> None:
    text = """
episodes = 2
policies = ["progressive"]
[trajectories]
model = "white-gaussian"
[link]
snr_db = 0
[scenario]
latent_size = 256
"""
    assert parse_study(text).gaussian_model == "white-gaussian"
    with pytest.raises(ParameterError, match=re.escape(message)):
        parse_study(text.replace(old, new))


LIMIT = """
kind = "limit"
[link]
snr_db = 0
[[cases]]
name = "one"
[[cases]]
name = "two"
deadline_slots = 30
num_subchannels = 12
snr_db = [3, 6]
source = "natural-gaussian"
"""


def test_a_case_is_a_study_of_deadlines() -> None:
    config = parse_study(LIMIT, episodes=3, seed=4)
    one, two = map(config.of_case, config.cases)
    assert [choice.name for choice in one.policies] == ["progressive", "lookahead"]
    assert (one.episodes, one.seed, one.gaussian_model) == (3, 4, "white-gaussian")
    assert one.scenario_at(0.0, 16384) == Scenario.paper(snr_db=0.0)
    assert two.link is not None
    assert (two.gaussian_model, two.link.snr_db) == ("natural-gaussian", (3.0, 6.0))
    assert (two.link.num_subchannels, two.scenario.deadline_slots) == (12, 30)
    # As workers read it.
    assert StudyConfig.model_validate_json(two.model_dump_json(exclude_unset=True)) == two


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"two"', '"one"', "two cases have the same name"),
        ('"two"', '"a/b"', "cases.1.name is 'a/b'"),
        ("deadline_slots", "deadline", "unknown key 'deadline' in [cases.1]; did you mean 'deadline_slots'?"),
        ("deadline_slots = 30", "deadline_slots = 0", "deadline_slots is 0"),
        ("[link]\nsnr_db = 0", "", "needs the table [link] with its snr_db"),
        ('"natural-gaussian"', '"scenes"', "cases.1.source is 'scenes'"),
    ],
)
def test_what_a_study_of_the_limit_refuses(old: str, new: str, message: str) -> None:
    assert old in LIMIT
    with pytest.raises(ParameterError, match=re.escape(message)):
        parse_study(LIMIT.replace(old, new))


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
    assert not isinstance(made, ProgressivePolicy)
    assert made.decide(Observation(slot=5, step=48, reference_step=50, uplink_slots=2)) == Wait()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "greedy"}, "unknown policy 'greedy'; choose progressive, lookahead"),
        ({"name": "lookahead", "bas": "x"}, "unknown key 'bas' in policy lookahead; did you mean 'base'?"),
        ({"name": "lookahead", "base": "x"}, "'x'"),
        ({"name": "progressive", "base": "x"}, "unknown key 'base' in policy progressive"),
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
