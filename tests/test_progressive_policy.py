"""When passes of the progressive codec should end."""

import numpy as np
import pytest

from latentcast.errors import ParameterError
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
