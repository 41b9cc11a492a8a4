"""Policies and schemes by name, as the command line and result files call them.

A policy of the paper's codec answers an observation. A scheme is anything that `deliver` runs: such a policy,
or the progressive one with the codec that it plans for.
"""

from typing import TypeAlias

from latentcast.codec.calibration import Calibration
from latentcast.errors import ParameterError
from latentcast.policy.base import Policy
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.optimal import OptimalPolicy
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

__all__ = [
    "CODECS",
    "POLICY_NAMES",
    "SCHEME_NAMES",
    "Scheme",
    "codec_of",
    "make_policy",
    "make_scheme",
    "policy_names",
]

PaperPolicy: TypeAlias = LookaheadPolicy | OptimalPolicy | PersistentPolicy | FinalOnlyPolicy
Scheme: TypeAlias = Policy | ProgressivePolicy

POLICY_NAMES = ("lookahead", "persistent-3", "persistent-4", "persistent-8", "final-only")
"""The policies of the paper's Fig. 3, in the order of its legend."""

SCHEME_NAMES = (ProgressivePolicy.name, *POLICY_NAMES)
"""What a comparison shows: ours first, then the paper's."""

CODECS = {"progressive": ProgressivePolicy.name, "paper": "lookahead"}
"""Codecs, and the policy that each has unless another is named."""


def codec_of(scheme: str) -> str:
    """The codec of a scheme.

    Example:
        >>> codec_of("progressive"), codec_of("persistent-3")
        ('progressive', 'paper')
    """
    return "progressive" if scheme == ProgressivePolicy.name else "paper"


def policy_names(scenario: Scenario) -> tuple[str, ...]:
    """All names that `make_policy` knows in a scenario.

    Example:
        >>> policy_names(Scenario.paper(snr_db=0.0, bit_levels=(2, 16)))
        ('lookahead', 'optimal', 'persistent-2', 'persistent-16', 'final-only')
    """
    return ("lookahead", "optimal", *(f"persistent-{bits}" for bits in scenario.bit_levels), "final-only")


def make_policy(name: str, scenario: Scenario) -> PaperPolicy:
    """The policy of a name.

    Args:
        name: "lookahead", "optimal", "final-only", or "persistent-B" with B one of the scenario's bit levels.
        scenario: the setting that the policy decides in.

    Raises:
        ParameterError: if the scenario has no policy of this name.

    Example:
        >>> make_policy("persistent-4", Scenario.paper(snr_db=0.0)).name
        'persistent-4'
        >>> make_policy("greedy", Scenario.paper(snr_db=0.0))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        latentcast.errors.ParameterError: unknown policy 'greedy'; choose lookahead, optimal, ...
    """
    names = policy_names(scenario)
    if name not in names:
        raise ParameterError(f"unknown policy {name!r}; choose {', '.join(names)}")
    if name == "lookahead":
        return LookaheadPolicy(scenario)
    if name == "optimal":
        return OptimalPolicy(scenario)
    if name == "final-only":
        return FinalOnlyPolicy(scenario)
    return PersistentPolicy(scenario, bits=int(name.removeprefix("persistent-")))


def make_scheme(name: str, scenario: Scenario, calibration: Calibration | None = None) -> Scheme:
    """The scheme of a name: "progressive", or any policy of `make_policy`.

    Args:
        name: what to run.
        scenario: the setting that it decides in.
        calibration: the model's, for "progressive"; None for that of white Gaussian latents.

    Raises:
        ParameterError: if there is no scheme of this name.

    Example:
        >>> make_scheme("progressive", Scenario.paper(snr_db=0.0)).name
        'progressive'
    """
    if name == ProgressivePolicy.name:
        return ProgressivePolicy(scenario, calibration)
    if name not in (known := policy_names(scenario)):
        raise ParameterError(f"unknown policy {name!r}; choose {', '.join((ProgressivePolicy.name, *known))}")
    return make_policy(name, scenario)
