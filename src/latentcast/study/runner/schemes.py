"""From a name in a study's file to something that runs: the one place where a name gains its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any

from latentcast.codec.calibration import Calibration
from latentcast.errors import ParameterError
from latentcast.policy.base import Action, Observation, Policy
from latentcast.policy.catalog import Scheme, make_policy, policy_names
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario
from latentcast.study.runner.choices import PolicyChoice
from latentcast.study.runner.misspelt import unknown_key

__all__ = ["make_scheme", "make_schemes"]


@dataclass(frozen=True)
class _Labelled:
    """A policy under another name in results."""

    name: str
    policy: Policy

    def decide(self, observation: Observation) -> Action:
        """The policy's own action."""
        return self.policy.decide(observation)


def make_schemes(
    choices: Sequence[PolicyChoice], scenario: Scenario, calibration: Calibration | None = None
) -> list[Scheme]:
    """All of a study's policies in one scenario, under different names.

    Raises:
        ParameterError: As `make_scheme`, or if two have the same name in results.
    """
    schemes = [make_scheme(choice, scenario, calibration) for choice in choices]
    names = [scheme.name for scheme in schemes]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"two policies are called {name!r}; give one of them a label")
    return schemes


def make_scheme(choice: PolicyChoice, scenario: Scenario, calibration: Calibration | None = None) -> Scheme:
    """What a study's file calls by a name, ready to run.

    "progressive" takes no options. A name of `make_policy` takes as options the attributes of that policy;
    "package.module:factory" is called as factory(scenario, **options) and must give a `Policy`. The module
    must be importable wherever tasks run: installed there, or on PYTHONPATH.

    Args:
        choice: Name, options and label.
        scenario: What it decides in.
        calibration: Of the model, for the progressive scheme; None for that of white Gaussian latents.

    Raises:
        ParameterError: If the name or an option is unknown, or the factory fails.

    Example:
        >>> choice = PolicyChoice.model_validate({"name": "lookahead", "base": "lloyd-max", "label": "exact"})
        >>> make_scheme(choice, Scenario.paper(snr_db=0.0)).name
        'exact'
    """
    if choice.name == ProgressivePolicy.name:
        return _progressive(choice, scenario, calibration)
    policy: Policy
    if ":" in choice.name:
        policy = _from_factory(choice, scenario)
    elif choice.name not in (known := (ProgressivePolicy.name, *policy_names(scenario))):
        raise ParameterError(f"unknown policy {choice.name!r}; choose {', '.join(known)}")
    else:
        of_paper = make_policy(choice.name, scenario)
        # A persistent policy's bits are its name.
        options = [field.name for field in fields(of_paper) if field.name not in ("scenario", "bits")]
        _check_options(choice, options)
        policy = replace(of_paper, **choice.options)
    return policy if choice.label is None else _Labelled(choice.label, policy)


def _progressive(
    choice: PolicyChoice, scenario: Scenario, calibration: Calibration | None
) -> ProgressivePolicy:
    _check_options(choice, [])
    policy = ProgressivePolicy(scenario, calibration)
    if choice.label is not None:
        policy.name = choice.label
    return policy


def _check_options(choice: PolicyChoice, known: Sequence[str]) -> None:
    for option in choice.options:
        if option not in known:
            raise ParameterError(unknown_key(option, f"policy {choice.name}", [*known, "label"]))


def _from_factory(choice: PolicyChoice, scenario: Scenario) -> Policy:
    module, _, name = choice.name.partition(":")
    try:
        factory: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ParameterError(
            f"cannot import policy {choice.name!r}: {error}; it must be package.module:factory, with the "
            "package installed or on PYTHONPATH"
        ) from error
    try:
        policy = factory(scenario, **choice.options)
    except TypeError as error:
        raise ParameterError(f"policy {choice.name!r} does not take these options: {error}") from error
    if not isinstance(policy, Policy):
        raise ParameterError(
            f"{choice.name!r} made {policy!r}; it must make a policy, with a name and a method decide"
        )
    return policy
