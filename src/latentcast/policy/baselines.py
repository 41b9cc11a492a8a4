"""The paper's baselines (Section V-A): Persistent-Q and Final-Only."""

from dataclasses import dataclass

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.policy.base import Action, Observation, Transmit, Wait
from latentcast.scenario import Scenario

__all__ = ["FinalOnlyPolicy", "PersistentPolicy"]


@dataclass(frozen=True)
class PersistentPolicy:
    """Persistent-Q: transmits the newest sample at a fixed rate whenever the channel is idle.

    It does not look at the deadline: a transfer may start that cannot complete.

    Attributes:
        scenario: the setting.
        bits: b_fix, bits per dimension, 1..16.

    Raises:
        ParameterError: if bits is not a whole number within 1..16.

    Example:
        >>> policy = PersistentPolicy(Scenario.paper(snr_db=0.0), bits=3)
        >>> policy.decide(Observation(slot=5, step=48, reference_step=50, uplink_slots=2))
        Transmit(bits=3)
    """

    scenario: Scenario
    bits: int = 3

    def __post_init__(self) -> None:
        Transmit(self.bits)

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return f"persistent-{self.bits}"

    def decide(self, observation: Observation) -> Action:
        """Transmit whenever the sample is newer than what the device holds."""
        if _is_sendable(observation, self.scenario):
            return Transmit(self.bits)
        return Wait()


@dataclass(frozen=True)
class FinalOnlyPolicy:
    """Final-Only: waits for x_0 and transmits it losslessly, with 16 bits per dimension.

    Attributes:
        scenario: the setting.

    Example:
        >>> policy = FinalOnlyPolicy(Scenario.paper(snr_db=0.0))
        >>> policy.decide(Observation(slot=5, step=48, reference_step=50, uplink_slots=2))
        Wait()
        >>> policy.decide(Observation(slot=53, step=0, reference_step=50, uplink_slots=2))
        Transmit(bits=16)
    """

    scenario: Scenario

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return "final-only"

    def decide(self, observation: Observation) -> Action:
        """Transmit x_0 once."""
        if observation.step == 0 and _is_sendable(observation, self.scenario):
            return Transmit(LOSSLESS_BITS)
        return Wait()


def _is_sendable(observation: Observation, scenario: Scenario) -> bool:
    return (
        observation.step < min(observation.reference_step, scenario.num_steps)
        and observation.slot <= scenario.deadline_slots
    )
