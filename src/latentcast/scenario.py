"""One frozen object for everything that the paper fixes in its Section V-A."""

import math
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.diffusion.path import NUM_TRAINING_STEPS, NoisePath
from latentcast.errors import ParameterError
from latentcast.link.rayleigh import RayleighLink, SnrReference

__all__ = ["PAPER_LATENT_SIZE", "Scenario"]

PAPER_LATENT_SIZE = 16384

# The prompt's upload, one denoising step and one transfer need a slot each.
MIN_DEADLINE_SLOTS = 3
MAX_DEADLINE_SLOTS = 100_000
MAX_LATENT_SIZE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is generated, by when, and over which link (Section V-A of the paper).

    Attributes:
        latent_size: M, numbers in a latent.
        num_steps: T, denoising steps on Stable Diffusion's schedule, one per slot, 1..1000.
        deadline_slots: T_d, slots until the deadline, at least 3.
        uplink_bits: B_s, bits of the prompt, positive.
        bit_levels: B, bits per dimension to choose from, strictly increasing within 1..16; 16 is lossless
            (float16).
        quantile: q of the latency quantile (eq. 11), inside (0, 1).
        num_subchannels: K.
        symbols_per_slot: L, symbols of one sub-channel per slot.
        snr_db: average signal-to-noise ratio in dB, -60..100.
        snr_reference: "subchannel" or "total"; see `RayleighLink`.

    Raises:
        ParameterError: if a value is outside its range, not finite, or of another kind.

    Example:
        >>> scenario = Scenario.paper(snr_db=0.0)
        >>> scenario.latent_size, scenario.deadline_slots, round(scenario.link.mean_rate_bits, 1)
        (16384, 60, 4319.9)
        >>> Scenario(snr_db=float("nan"))
        Traceback (most recent call last):
        ...
        latentcast.errors.ParameterError: snr_db is nan; it must be a number of decibels, -60..100
    """

    latent_size: int = PAPER_LATENT_SIZE
    num_steps: int = 50
    deadline_slots: int = 60
    uplink_bits: float = 8192
    bit_levels: tuple[int, ...] = (3, 4, 8, 10, 16)
    quantile: float = 0.9
    num_subchannels: int = 60
    symbols_per_slot: float = 70.0
    snr_db: float
    snr_reference: SnrReference = "subchannel"

    def __post_init__(self) -> None:
        self._set_integer("latent_size", 1, MAX_LATENT_SIZE)
        self._set_integer("num_steps", 1, NUM_TRAINING_STEPS)
        self._set_integer("deadline_slots", MIN_DEADLINE_SLOTS, MAX_DEADLINE_SLOTS)
        self._set_real("uplink_bits", 0.0, math.inf)
        self._set_real("quantile", 0.0, 1.0)
        self._set_real("snr_db", -math.inf, math.inf, hint="it must be a number of decibels, -60..100")
        self._set_integer("num_subchannels", 1, 2**63)
        self._set_real("symbols_per_slot", 0.0, math.inf)
        object.__setattr__(self, "bit_levels", _checked_bit_levels(self.bit_levels))
        _ = self.link  # the link validates its own ranges

    @classmethod
    def paper(cls, *, snr_db: float, **changes: Any) -> "Scenario":
        """The paper's setting (Section V-A), with `changes` to any other attribute.

        Raises:
            ParameterError: as the constructor, and for an unknown attribute.

        Example:
            >>> Scenario.paper(snr_db=3.0, deadline_slots=61).deadline_slots
            61
        """
        return cls._changed({"snr_db": snr_db}, changes)

    def check_latent(self, size: int) -> None:
        """Raise where a latent has another size than this scenario's.

        Raises:
            ParameterError: if so.
        """
        if size != self.latent_size:
            raise ParameterError(
                f"the scenario is for latents of {self.latent_size} numbers, this one has {size}; "
                f"use Scenario.for_latent({size}, snr_db={self.snr_db:g})"
            )

    @classmethod
    def for_latent(cls, latent_size: int, *, snr_db: float, **changes: Any) -> "Scenario":
        """The paper's setting scaled to another latent, with `changes` to any other attribute.

        symbols_per_slot and uplink_bits are scaled by latent_size / 16384, so that an SNR means the same bits
        per dimension on every model; otherwise a small model finds every SNR easy.

        Raises:
            ParameterError: as the constructor, and for an unknown attribute.

        Example:
            >>> scenario = Scenario.for_latent(1024, snr_db=0.0)
            >>> scenario.symbols_per_slot, scenario.uplink_bits
            (4.375, 512)
        """
        size = _integer("latent_size", latent_size, 1, MAX_LATENT_SIZE)
        scale = size / PAPER_LATENT_SIZE
        scaled: dict[str, Any] = {"latent_size": size, "snr_db": snr_db}
        scaled["symbols_per_slot"] = cls.symbols_per_slot * scale
        uplink_bits = cls.uplink_bits * scale
        scaled["uplink_bits"] = int(uplink_bits) if uplink_bits.is_integer() else uplink_bits
        return cls._changed(scaled, changes)

    @classmethod
    def _changed(cls, values: dict[str, Any], changes: dict[str, Any]) -> "Scenario":
        known = [field.name for field in fields(cls)]
        for name in changes:
            if name not in known:
                raise ParameterError(f"a scenario has no attribute {name!r}; it has {', '.join(known)}")
        return cls(**{**values, **changes})

    @cached_property
    def link(self) -> RayleighLink:
        """The scenario's link."""
        return RayleighLink(
            num_subchannels=self.num_subchannels,
            symbols_per_slot=self.symbols_per_slot,
            snr_db=self.snr_db,
            snr_reference=self.snr_reference,
        )

    @cached_property
    def path(self) -> NoisePath:
        """The noise path: Stable Diffusion's schedule in num_steps steps."""
        return NoisePath.stable_diffusion(self.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain JSON values; `Scenario(**values)` makes the same scenario again.

        Example:
            >>> Scenario(**Scenario.paper(snr_db=0.0).to_dict()) == Scenario.paper(snr_db=0.0)
            True
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "bit_levels": list(self.bit_levels)}

    def _set_integer(self, name: str, low: int, high: int) -> None:
        object.__setattr__(self, name, _integer(name, getattr(self, name), low, high))

    def _set_real(self, name: str, low: float, high: float, hint: str | None = None) -> None:
        value = getattr(self, name)
        if hint is None:
            hint = (
                f"it must lie inside ({low:g}, {high:g})"
                if high < math.inf
                else "it must be positive and finite"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise ParameterError(f"{name} is {value!r}; {hint}")
        # Plain Python numbers, so that to_dict is JSON whatever the caller passed.
        number = int(value) if isinstance(value, (int, np.integer)) else float(value)
        # A whole number may be finite and yet beyond every float.
        if not low < number < high or abs(number) > sys.float_info.max:
            raise ParameterError(f"{name} is {value}; {hint}")
        object.__setattr__(self, name, number)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ParameterError(f"{name} is {value!r}; it must be a whole number, at least {low}")
    if not low <= value <= high:
        limit = f"{low}..{high}" if value > high else f"at least {low}"
        raise ParameterError(f"{name} is {value}; it must be {limit}")
    return int(value)


def _checked_bit_levels(levels: object) -> tuple[int, ...]:
    hint = f"they must be strictly increasing whole numbers, 1..{LOSSLESS_BITS}, such as (3, 4, 8, 10, 16)"
    if isinstance(levels, (str, bytes)) or not isinstance(levels, (tuple, list, range, np.ndarray)):
        raise ParameterError(f"bit_levels is {levels!r}; {hint}")
    values = tuple(levels)
    whole = all(isinstance(b, (int, np.integer)) and not isinstance(b, bool) for b in values)
    if not values or not whole or values[0] < 1 or values[-1] > LOSSLESS_BITS:
        raise ParameterError(f"bit_levels is {levels!r}; {hint}")
    if any(lower >= upper for lower, upper in pairwise(values)):
        raise ParameterError(f"bit_levels is {levels!r}; {hint}")
    return tuple(int(b) for b in values)
