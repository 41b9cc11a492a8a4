"""When passes of the progressive codec should end."""

import numpy as np
import pytest

from latentcast.errors import ParameterError
from latentcast.policy.passes import best_lengths
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario


def plans(policy: ProgressivePolicy) -> list[int]:
    return [
        policy.last_slot(slot=slot, error=error, uplink_slots=2)
        for slot in range(3, 61)
        for error in (1e-5, 1e-3, 0.1, 0.9)
    ]


def test_a_measured_mean_rate_replaces_the_links() -> None:
    scenario, better = Scenario.paper(snr_db=0.0), Scenario.paper(snr_db=6.0)
    measured = ProgressivePolicy(scenario, mean_rate_bits=better.link.mean_rate_bits)
    assert plans(measured) == plans(ProgressivePolicy(better))
    assert plans(measured) != plans(ProgressivePolicy(scenario))


@pytest.mark.parametrize("mean_rate_bits", [0.0, -1.0, np.nan, np.inf])
def test_impossible_mean_rates_are_refused(mean_rate_bits: float) -> None:
    with pytest.raises(ParameterError, match="must be a positive number of bits per slot"):
        ProgressivePolicy(Scenario.paper(snr_db=0.0), mean_rate_bits=mean_rate_bits)


def test_passes_are_the_best_of_all_plans() -> None:
    # Four slots with the target's error falling to 0: every sequence of passes and waits is tried.
    floors, left = np.array([0.4, 0.1, 0.0, 0.0]), np.array([0.6, 0.3, 0.12, 0.05])
    errors = np.geomspace(1e-4, 4.0, 4_000)
    table = best_lengths(floors, left, errors, 1)

    def after(slot: int, error: float, length: int) -> float:
        mean = float(floors[slot - 1 : slot - 1 + length].mean())
        return mean + max(error - mean, 0.0) * float(left[length - 1]) if mean < error else error

    def least(slot: int, error: float) -> float:
        if slot > 4:
            return error
        ends = [least(slot + length, after(slot, error, length)) for length in range(1, 6 - slot)]
        return min(least(slot + 1, error), *ends)

    def planned(slot: int, error: float) -> float:
        while slot <= 4:
            length = int(table[slot - 1, np.searchsorted(errors, error)])
            error = after(slot, error, length) if length > 0 else error
            slot += max(length, 1)
        return error

    for slot in (1, 2, 3, 4):
        for error in (0.02, 0.3, 0.9, 2.0):
            # The grid's cells are 0.3 % wide.
            assert planned(slot, error) == pytest.approx(least(slot, error), rel=5e-3)


def test_nothing_is_planned_before_the_first_slot() -> None:
    table = best_lengths(np.zeros(6), np.full(6, 0.5), np.geomspace(1e-3, 1.0, 50), 4)
    assert not table[:3].any()
    # Where three passes do not reach the least error of the grid, every slot counts.
    assert table[3:, 25:].all()
