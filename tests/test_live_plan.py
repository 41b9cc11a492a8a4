"""Passes over a live link."""

import pytest

from latentcast.codec.calibration import Calibration
from latentcast.diffusion.path import NoisePath
from latentcast.live import plan
from latentcast.live.plan import LivePlan


@pytest.mark.parametrize("step", [30, 1, 0])
def test_where_a_slot_carries_the_whole_latent_every_pass_is_one_and_no_table_is_made(step: int) -> None:
    live = LivePlan(Calibration.white(NoisePath.stable_diffusion(50)), 1024, deadline_slots=60)
    made = plan._policy.cache_info().misses
    for slot in (5, 30, 59):
        live.observe(step=step, mean_bits=16.0 * 1024, packet_bits=2000.0)
        assert live.last_slot(slot=slot, error=0.1, uplink_slots=0) == slot
    assert plan._policy.cache_info().misses == made
    live.observe(step=0, mean_bits=400.0, packet_bits=300.0)
    assert live.last_slot(slot=50, error=0.1, uplink_slots=0) > 50


def test_a_rate_that_wobbles_is_planned_once_and_one_that_moves_anew() -> None:
    live = LivePlan(Calibration.white(NoisePath.stable_diffusion(50)), 1024, deadline_slots=60)

    def tables_for(octaves: float) -> int:
        before = plan._policy.cache_info().misses
        live.observe(step=20, mean_bits=2.0 ** (9.5 + octaves), packet_bits=300.0)
        live.last_slot(slot=32, error=0.3, uplink_slots=0)
        return plan._policy.cache_info().misses - before

    assert tables_for(0.0) == 1
    # Planned rates are a quarter of an octave apart: these are over half of that away, and below four fifths.
    assert [tables_for(octaves) for octaves in (0.15, -0.15, 0.18)] == [0, 0, 0]
    assert tables_for(0.5) == 1
