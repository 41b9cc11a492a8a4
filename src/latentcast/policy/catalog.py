"""Policies by name, as the command line and result files call them."""

from latentcast.errors import ParameterError
from latentcast.policy.base import Policy
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.optimal import OptimalPolicy
from latentcast.scenario import Scenario

__all__ = ["POLICY_NAMES", "make_policy", "policy_names"]

POLICY_NAMES = ("lookahead", "persistent-3", "persistent-4", "persistent-8", "final-only")
"""The policies of the paper's Fig. 3, in the order of its legend."""


def policy_names(scenario: Scenario) -> tuple[str, ...]:
    """All names that `make_policy` knows in a scenario.

    Example:
        >>> policy_names(Scenario.paper(snr_db=0.0, bit_levels=(2, 16)))
        ('lookahead', 'optimal', 'persistent-2', 'persistent-16', 'final-only')
    """
    return ("lookahead", "optimal", *(f"persistent-{bits}" for bits in scenario.bit_levels), "final-only")


def make_policy(name: str, scenario: Scenario) -> Policy:
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
