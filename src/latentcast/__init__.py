"""latentcast: deliver what a diffusion model is generating to a device before a deadline, over a fading link.

The public names, each imported from its module when it is first used:

    >>> import latentcast
    >>> scenario = latentcast.Scenario.paper(snr_db=0.0)
    >>> round(scenario.link.mean_rate_bits, 1)
    4319.9
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentcast.codec.quantizer import lloyd_max
    from latentcast.delivery.deliver import deliver
    from latentcast.delivery.receiver import Receiver
    from latentcast.delivery.sender import Sender
    from latentcast.delivery.timeline import Timeline
    from latentcast.diffusion.callback import StepCallback
    from latentcast.diffusion.gaussian import GaussianSource
    from latentcast.diffusion.path import NoisePath
    from latentcast.diffusion.pipeline import load_pipeline
    from latentcast.diffusion.source import Step, Trajectory, shared_noise
    from latentcast.errors import LatentcastError, ModelError, OutputError, PacketError, ParameterError
    from latentcast.link.latency import latency_quantile
    from latentcast.link.rayleigh import RayleighLink, waterfill
    from latentcast.policy.base import Observation, Transmit, Wait
    from latentcast.policy.baselines import FinalOnlyPolicy, PersistentPolicy
    from latentcast.policy.lookahead import LookaheadPolicy
    from latentcast.scenario import Scenario
    from latentcast.study.model_level import model_level

__all__ = [
    "FinalOnlyPolicy",
    "GaussianSource",
    "LatentcastError",
    "LookaheadPolicy",
    "ModelError",
    "NoisePath",
    "Observation",
    "OutputError",
    "PacketError",
    "ParameterError",
    "PersistentPolicy",
    "RayleighLink",
    "Receiver",
    "Scenario",
    "Sender",
    "Step",
    "StepCallback",
    "Timeline",
    "Trajectory",
    "Transmit",
    "Wait",
    "deliver",
    "latency_quantile",
    "lloyd_max",
    "load_pipeline",
    "model_level",
    "shared_noise",
    "waterfill",
]

_MODULES = {
    "FinalOnlyPolicy": "policy.baselines",
    "GaussianSource": "diffusion.gaussian",
    "LatentcastError": "errors",
    "LookaheadPolicy": "policy.lookahead",
    "ModelError": "errors",
    "NoisePath": "diffusion.path",
    "Observation": "policy.base",
    "OutputError": "errors",
    "PacketError": "errors",
    "ParameterError": "errors",
    "PersistentPolicy": "policy.baselines",
    "RayleighLink": "link.rayleigh",
    "Receiver": "delivery.receiver",
    "Scenario": "scenario",
    "Sender": "delivery.sender",
    "Step": "diffusion.source",
    "StepCallback": "diffusion.callback",
    "Timeline": "delivery.timeline",
    "Trajectory": "diffusion.source",
    "Transmit": "policy.base",
    "Wait": "policy.base",
    "deliver": "delivery.deliver",
    "latency_quantile": "link.latency",
    "lloyd_max": "codec.quantizer",
    "load_pipeline": "diffusion.pipeline",
    "model_level": "study.model_level",
    "shared_noise": "diffusion.source",
    "waterfill": "link.rayleigh",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'latentcast' has no attribute {name!r}")
    value = getattr(_import_module(f"latentcast.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
