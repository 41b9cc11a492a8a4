"""What a policy sees and what it may answer."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from latentcast.errors import ParameterError

__all__ = ["Action", "Observation", "Policy", "Transmit", "Wait"]

MAX_BITS = 16


@dataclass(frozen=True, slots=True)
class Observation:
    """The state at the beginning of a slot in which the channel is idle (Section II-B of the paper).

    Attributes:
        slot: n, 1-based.
        step: t(n), the step of the newest sample at the server; T before the first one.
        reference_step: t_p, the step of the latent that the device holds; T before the first transfer.
        uplink_slots: T_ul, slots that the prompt's upload took.
        held_reference_step: the reference of the refinement that brought the device to reference_step; None
            before the first transfer, or where it is not known.
        held_bits: bits per dimension of that refinement; None as above.

    Example:
        >>> observation = Observation(slot=5, step=48, reference_step=50, uplink_slots=2)
        >>> observation.slot, observation.held_bits
        (5, None)
    """

    slot: int
    step: int
    reference_step: int
    uplink_slots: int
    held_reference_step: int | None = None
    held_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing in this slot (the paper's WAIT)."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send the newest sample with `bits` bits per dimension (the paper's TRANSMIT(b)).

    Attributes:
        bits: b, 1..16; 16 is lossless.

    Raises:
        ParameterError: if bits is not a whole number within 1..16.

    Example:
        >>> Transmit(3)
        Transmit(bits=3)
    """

    bits: int

    def __post_init__(self) -> None:
        bits = self.bits
        if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= MAX_BITS:
            raise ParameterError(f"bits is {bits!r}; it must be a whole number, 1..{MAX_BITS}")


Action: TypeAlias = Wait | Transmit


@runtime_checkable
class Policy(Protocol):
    """Decides in each slot with an idle channel; a pure function of the observation.

    A caller asks only when a transfer is possible, t(n) < T and t(n) < t_p; a policy asked at any other time
    waits.
    """

    @property
    def name(self) -> str:
        """The policy's name in results, such as "persistent-3"."""
        ...

    def decide(self, observation: Observation) -> Action:
        """The action for the slot that is observed."""
        ...
