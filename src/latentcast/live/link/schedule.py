"""What a link carries over time: bits per second, constant within each slot, repeated for ever."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.source import seed_stream
from latentcast.errors import ParameterError
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario

__all__ = ["RateSchedule"]

# Slots drawn before a Rayleigh schedule repeats itself: five minutes of 30 ms.
RAYLEIGH_SLOTS = 10_000
MAX_SLOT_MS = 60_000.0
MAX_RATE_BITS_PER_SECOND = 1e11


@dataclass(frozen=True, kw_only=True, eq=False)
class RateSchedule:
    """A link's rate as a step function of time, from 0 on; after its last slot it begins again.

    Attributes:
        slot_seconds: length of a slot, positive.
        rates_bits_per_second: rate in each slot, float64 (slots,), finite, 0 or more; 0 is an outage.
        label: what it is, in words.

    Raises:
        ParameterError: if a value is out of its range.

    Example:
        >>> schedule = RateSchedule.steps([(1.0, 8000.0), (0.5, 0.0)])
        >>> schedule.carried_bits(0.0, 1.25), schedule.seconds_of(8000.0), schedule.seconds_of(8001.0)
        (8000.0, 1.0, 1.500125)
    """

    slot_seconds: float
    rates_bits_per_second: npt.NDArray[np.float64] = field(repr=False)
    label: str = "schedule"

    def __post_init__(self) -> None:
        _number("slot_seconds", self.slot_seconds, MAX_SLOT_MS / 1000.0)
        try:
            rates = np.array(self.rates_bits_per_second, np.float64)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"rates_bits_per_second must be an array of numbers: {error}") from None
        if rates.ndim != 1 or rates.size == 0:
            raise ParameterError(
                f"rates_bits_per_second has shape {rates.shape}; it needs one rate per slot, and a slot"
            )
        if not np.all((rates >= 0.0) & (rates <= MAX_RATE_BITS_PER_SECOND)):
            raise ParameterError(
                f"rates_bits_per_second must lie within 0..{MAX_RATE_BITS_PER_SECOND:g} bits per second"
            )
        rates.flags.writeable = False
        object.__setattr__(self, "rates_bits_per_second", rates)

    @classmethod
    def constant(cls, rate_bits_per_second: float) -> RateSchedule:
        """The same rate for ever.

        Example:
            >>> RateSchedule.constant(64_000).label
            '64 kbit/s'
        """
        rate = _number("rate_bits_per_second", rate_bits_per_second, MAX_RATE_BITS_PER_SECOND, zero=True)
        return cls(
            slot_seconds=1.0,
            rates_bits_per_second=np.array([rate]),
            label=f"{rate / 1000:g} kbit/s",
        )

    @classmethod
    def steps(
        cls, parts: Sequence[tuple[float, float]], *, slot_ms: float = 10.0, label: str = "steps"
    ) -> RateSchedule:
        """A rate for a time, then another for another, and so on.

        Args:
            parts: pairs of seconds and bits per second; each duration is rounded to whole slots.
            slot_ms: length of a slot.
            label: what it is, in words.

        Raises:
            ParameterError: if there is no part, or one shorter than half a slot.
        """
        slot_seconds = _number("slot_ms", slot_ms, MAX_SLOT_MS) / 1000.0
        counts = [round(_number("seconds", seconds, 86_400.0) / slot_seconds) for seconds, _ in parts]
        if not counts or min(counts) < 1:
            raise ParameterError(
                f"parts is {parts!r}; it needs pairs of seconds, at least a slot, and bits per second"
            )
        return cls(
            slot_seconds=slot_seconds,
            rates_bits_per_second=np.repeat([rate for _, rate in parts], counts),
            label=label,
        )

    @classmethod
    def rayleigh(
        cls,
        *,
        snr_db: float,
        latent_size: int = PAPER_LATENT_SIZE,
        slot_ms: float = 30.0,
        seed: int = 0,
        num_slots: int = RAYLEIGH_SLOTS,
    ) -> RateSchedule:
        """A new Rayleigh draw in every slot, waterfilled: the link of the paper in real time (Section II-A).

        The rates are those that `latentcast deliver` draws at the same seed, R_n bits in slot n.

        Args:
            snr_db: average signal-to-noise ratio of a sub-channel in dB.
            latent_size: M; the symbols of a slot are scaled to it as in `Scenario.for_latent`.
            slot_ms: length of a slot.
            seed: root seed of the draws.
            num_slots: slots drawn before the schedule repeats.

        Raises:
            ParameterError: if a value is out of its range.

        Example:
            >>> from latentcast.delivery.deliver import draw_rates
            >>> schedule = RateSchedule.rayleigh(snr_db=0.0, latent_size=1024, seed=3)
            >>> rates = draw_rates(Scenario.for_latent(1024, snr_db=0.0), seed=3)
            >>> bool(np.allclose(schedule.slot_bits(0.0, 0.030, 60), rates))
            True
        """
        slot_seconds = _number("slot_ms", slot_ms, MAX_SLOT_MS) / 1000.0
        link = Scenario.for_latent(latent_size, snr_db=snr_db).link
        rng = np.random.Generator(np.random.PCG64(seed_stream(seed, "channel")))
        return cls(
            slot_seconds=slot_seconds,
            rates_bits_per_second=link.sample(1, num_slots, rng=rng)[0] / slot_seconds,
            label=f"Rayleigh, {snr_db:g} dB",
        )

    def with_outage(self, start_seconds: float, duration_seconds: float) -> RateSchedule:
        """The same, but with nothing carried in the slots that an outage touches, once per repetition.

        Example:
            >>> cut = RateSchedule.steps([(1.0, 8000.0)]).with_outage(0.5, 0.1)
            >>> cut.rate_bits_per_second(0.55), round(cut.carried_bits(0.0, 1.0))
            (0.0, 7200)
        """
        slots = np.arange(self.rates_bits_per_second.size) * self.slot_seconds
        # A thousandth of a slot, so that rounding does not lengthen the outage by a slot.
        margin = 1e-3 * self.slot_seconds
        cut = (slots + self.slot_seconds > start_seconds + margin) & (
            slots < start_seconds + duration_seconds - margin
        )
        return RateSchedule(
            slot_seconds=self.slot_seconds,
            rates_bits_per_second=np.where(cut, 0.0, self.rates_bits_per_second),
            label=f"{self.label}, out from {start_seconds:g} s for {duration_seconds:g} s",
        )

    @property
    def period_seconds(self) -> float:
        """Time after which the schedule repeats."""
        return self.slot_seconds * self.rates_bits_per_second.size

    @property
    def mean_bits_per_second(self) -> float:
        """Rate on average over a repetition."""
        return float(self.rates_bits_per_second.mean())

    def rate_bits_per_second(self, seconds: float) -> float:
        """The rate at a time."""
        slot = math.floor(seconds / self.slot_seconds) % self.rates_bits_per_second.size
        return float(self.rates_bits_per_second[slot])

    def carried_bits(self, start_seconds: float, end_seconds: float) -> float:
        """Bits that the link carries from one time to another, both 0 or later."""
        return self._until(end_seconds) - self._until(start_seconds)

    def seconds_of(self, bits: float) -> float:
        """The first time by which so many bits have been carried since time 0; infinite if they never are."""
        sums = self._sums
        if bits <= 0.0:
            return 0.0
        if sums[-1] == 0.0:
            return math.inf
        rounds = math.ceil(bits / sums[-1]) - 1
        rest = min(max(bits - rounds * sums[-1], 0.0), sums[-1])
        slot = max(bisect_left(sums, rest) - 1, 0)
        into = (rest - sums[slot]) / max(sums[slot + 1] - sums[slot], 1e-300)
        return rounds * self.period_seconds + (slot + min(into, 1.0)) * self.slot_seconds

    def slot_bits(self, start_seconds: float, slot_seconds: float, num_slots: int) -> npt.NDArray[np.float64]:
        """Bits carried in each of some consecutive slots of another length, float64 (num_slots,)."""
        edges = [self._until(start_seconds + slot * slot_seconds) for slot in range(num_slots + 1)]
        return np.diff(edges)

    @cached_property
    def _sums(self) -> list[float]:
        """Bits carried up to each slot's beginning and the end; searched faster than an array, one by one."""
        sums: list[float] = np.cumsum(self.rates_bits_per_second * self.slot_seconds).tolist()
        return [0.0, *sums]

    def _until(self, seconds: float) -> float:
        """Bits carried since time 0."""
        sums = self._sums
        slots = max(seconds, 0.0) / self.slot_seconds
        rounds, place = divmod(slots, len(sums) - 1)
        slot = min(int(place), len(sums) - 2)
        return rounds * sums[-1] + sums[slot] + (place - slot) * (sums[slot + 1] - sums[slot])


def _number(name: str, value: float, high: float, *, zero: bool = False) -> float:
    """The value, if it is positive, or 0 where that is allowed, and at most `high`."""
    hint = f"it must be a number, {'0 or more' if zero else 'more than 0'} and at most {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ParameterError(f"{name} is {value!r}; {hint}")
    if not (0.0 < value <= high or (zero and value == 0.0)):
        raise ParameterError(f"{name} is {value}; {hint}")
    return float(value)
