"""When to send, and how finely: the distortion model, the paper's policy and its baselines."""

from latentcast.policy.base import Action, Observation, Policy, Transmit, Wait
from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
from latentcast.policy.catalog import POLICY_NAMES, make_policy, policy_names
from latentcast.policy.distortion import (
    DistortionBase,
    base_distortion,
    diffusion_distortion,
    quantization_distortion,
    total_distortion,
)
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.optimal import OptimalPolicy

__all__ = [
    "POLICY_NAMES",
    "Action",
    "DistortionBase",
    "FinalOnlyPolicy",
    "LookaheadPolicy",
    "Observation",
    "OptimalPolicy",
    "PersistentPolicy",
    "Policy",
    "Transmit",
    "Wait",
    "base_distortion",
    "diffusion_distortion",
    "make_policy",
    "policy_names",
    "quantization_distortion",
    "total_distortion",
]
