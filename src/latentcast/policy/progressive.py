"""Our policy: how many slots a pass of the progressive codec should take, by dynamic programming.

The progressive codec fills every slot with a packet that refines part of the latent towards the newest
estimate of x_0. What is left to decide is how finely: a pass over all coefficients may be fine and take many
slots, in which most of what the device holds grows stale, or coarse and quick. With V the error of what the
device holds, m_n = mmse(t(n)) that of the newest estimate, and r bits per dimension and slot, a pass from
slot n over h slots spends rho = h r bits on every coefficient and leaves

    V' = mean over the pass of [ m_j + (V - m_j) delta(rho) ],

delta(rho) being what trellis-coded quantisation leaves of a unit variance at rho bits (measured with the
entropy tables). The best h for every slot and error follows by backward induction from the deadline; rates to
come count with their mean, and every slot's own rate is known when its packet is made. The derivation and the
gains are in docs/coding.md.
"""

import math
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentcast.codec.calibration import Calibration
from latentcast.codec.entropy import MAX_CLASS, class_deviation, entropy_model
from latentcast.codec.progressive import MIN_CLASS, group_size
from latentcast.errors import ParameterError
from latentcast.policy.passes import best_lengths
from latentcast.scenario import Scenario

__all__ = ["ProgressivePolicy", "remaining_variance"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int16]

MAX_PASS_SLOTS = 128
_ERRORS = np.geomspace(1e-14, 4.0, 160)
_LOG_ERRORS = np.log(_ERRORS)
# A packet's header, and what its flags and the cut symbol at its end cost, in bits.
_PACKET_BITS = 40.0
# By how much slots to come are counted short of their mean, in slots for every doubling of their number. Bits
# that fail to come make the last groups of a pass coarser, and the error grows exponentially with them; bits
# left over only make them finer. The price is ln 2 times a slot's variance over its coefficients, summed over
# the slots: 0.01 to 0.05 of a slot's bits times the harmonic number of slots.
_RESERVE = 0.03
# A group's scale class, in bits.
_GROUP_BITS = 2.5


@cache
def _remaining_table() -> tuple[FloatArray, FloatArray]:
    """Rates and the logarithms of the variance that they leave, from class `MIN_CLASS` upwards."""
    model = entropy_model(0)
    numbers = range(MIN_CLASS, MAX_CLASS + 1)
    variance = np.array([class_deviation(number) ** 2 for number in numbers])
    return model.rate_bits[MIN_CLASS:], np.log(model.distortion[MIN_CLASS:] / variance)


def remaining_variance(rate_bits: ArrayLike) -> FloatArray:
    """delta(rho): what coding leaves of a unit variance at rho bits per coefficient.

    Below the least rate that is used, only as many coefficients are coded as the bits allow.

    Args:
        rate_bits: rho, 0 or more, any shape.

    Returns:
        float64 of the same shape, falling from 1; about 0.6 dB above 2^(-2 rho).

    Example:
        >>> remaining_variance([0.0, 2.0]).round(3).tolist()
        [1.0, 0.071]
    """
    rates, logs = _remaining_table()
    rho = np.asarray(rate_bits, np.float64)
    share = np.minimum(rho / rates[0], 1.0)
    coded = np.exp(np.interp(rho, rates, logs))
    return np.asarray(1.0 - share * (1.0 - coded))


class ProgressivePolicy:
    """Decides, when a pass begins, in which slot it should end.

    Args:
        scenario: the setting.
        calibration: how the server estimates x_0 at every step, and how well; None for white Gaussian
            latents, whose estimate depends on the schedule alone.
        mean_rate_bits: what a slot to come carries on average, positive; None for the scenario's link. A live
            link plans on what it has measured.

    Raises:
        ParameterError: if the calibration is for another number of steps, or the rate is not positive.

    Example:
        >>> policy = ProgressivePolicy(Scenario.paper(snr_db=0.0))
        >>> policy.last_slot(slot=53, error=0.05, uplink_slots=2)  # x_0 is there: one pass until the deadline
        60
    """

    name = "progressive"

    def __init__(
        self,
        scenario: Scenario,
        calibration: Calibration | None = None,
        *,
        mean_rate_bits: float | None = None,
    ) -> None:
        self.calibration = Calibration.white(scenario.path) if calibration is None else calibration
        self._scenario = scenario
        self._mmse = self.calibration.mmse
        if self._mmse.shape != (scenario.num_steps + 1,):
            raise ParameterError(
                f"the calibration is for {self._mmse.size - 1} steps, the scenario has {scenario.num_steps}; "
                f"calibrate the model with {scenario.num_steps} steps"
            )
        if mean_rate_bits is not None and not 0.0 < mean_rate_bits < np.inf:
            raise ParameterError(
                f"mean_rate_bits is {mean_rate_bits}; it must be a positive number of bits per slot, or None "
                "for the link's own mean"
            )
        groups = scenario.latent_size / group_size(scenario.latent_size)
        self._mean_bits = scenario.link.mean_rate_bits if mean_rate_bits is None else float(mean_rate_bits)
        self._rate_bits = max(self._mean_bits - _PACKET_BITS, 0.0) / scenario.latent_size
        self._class_bits = groups * _GROUP_BITS / scenario.latent_size
        self._tables: dict[int, IntArray] = {}

    def last_slot(self, *, slot: int, error: float, uplink_slots: int) -> int:
        """The slot in which a pass that begins now should end; the slot before this one to wait.

        Args:
            slot: n, 1-based, up to the deadline.
            error: mean squared error of what the device holds, V.
            uplink_slots: T_ul.
        """
        table = self._tables.get(uplink_slots)
        if table is None:
            table = self._tables[uplink_slots] = self._induct(uplink_slots)
        index = int(np.searchsorted(_LOG_ERRORS, np.log(max(error, _ERRORS[0]))))
        return slot - 1 + int(table[slot - 1, min(index, _ERRORS.size - 1)])

    def horizon_bits(self, *, slot: int, last_slot: int, rate_bits: float) -> float:
        """Net bits from this slot to the end of a pass: this slot's, and the mean of those to come.

        Args:
            slot: n.
            last_slot: in which the pass ends.
            rate_bits: R_n, what this slot carries.
        """
        to_come = last_slot - slot
        sure = to_come - _RESERVE * math.log2(1 + to_come)
        return rate_bits + max(sure * self._mean_bits - to_come * _PACKET_BITS, 0.0)

    def _induct(self, uplink_slots: int) -> IntArray:
        """Best pass lengths, int16 (T_d, errors); 0 is to wait."""
        slots = np.arange(1, self._scenario.deadline_slots + 1)
        steps = self._scenario.num_steps - np.clip(slots - uplink_slots - 1, 0, self._scenario.num_steps)
        lengths = slots[:MAX_PASS_SLOTS]
        left = remaining_variance(np.maximum(lengths * self._rate_bits - self._class_bits, 0.0))
        table = best_lengths(self._mmse[steps], left, _ERRORS, uplink_slots + 1)
        # A server keeps many of these.
        return np.asarray(table, np.int16)
