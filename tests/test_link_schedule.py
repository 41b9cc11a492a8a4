"""Rate schedules: exact accounting of bits over time, and traces from files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.errors import ParameterError
from latentcast.link.rayleigh import RayleighLink
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.trace import OPPORTUNITY_BITS, read_trace

schedules = st.builds(
    lambda slot, rates: RateSchedule(slot_seconds=slot, rates_bits_per_second=np.array(rates)),
    st.sampled_from([0.001, 0.03, 0.5]),
    st.lists(st.one_of(st.just(0.0), st.floats(100.0, 1e7)), min_size=1, max_size=12),
)


@given(schedules, st.floats(0.0, 50.0), st.floats(0.0, 50.0))
def test_carried_bits_is_the_integral_of_the_rate(schedule: RateSchedule, start: float, end: float) -> None:
    start, end = sorted((start, end))
    # The mean rate of a fine grid of midpoints; each of its cells that holds an edge errs by one cell.
    cells = 4000
    at = start + (np.arange(cells) + 0.5) * (end - start) / cells
    rates = [schedule.rate_bits_per_second(float(t)) for t in at]
    edges = (end - start) / schedule.slot_seconds + 2
    tolerance = edges * max(rates) * (end - start) / cells + 1e-6
    assert abs(schedule.carried_bits(start, end) - np.mean(rates) * (end - start)) <= tolerance


@given(schedules, st.floats(0.001, 1e6))
def test_seconds_of_is_the_first_time_by_which_the_bits_are_through(
    schedule: RateSchedule, bits: float
) -> None:
    seconds = schedule.seconds_of(bits)
    if schedule.mean_bits_per_second == 0.0:
        assert seconds == np.inf
        return
    rounding = 1e-9 * (bits + schedule.mean_bits_per_second * schedule.period_seconds)
    assert schedule.carried_bits(0.0, seconds) == pytest.approx(bits, abs=rounding)
    # A little earlier they were not: the rate just before is positive.
    earlier = seconds - 1e-6 * schedule.slot_seconds
    slowest = min(rate for rate in schedule.rates_bits_per_second if rate > 0.0)
    missing = 0.9e-6 * schedule.slot_seconds * slowest
    assert schedule.carried_bits(0.0, max(earlier, 0.0)) <= bits - min(missing, bits) + rounding


def test_slot_bits_of_another_slotting_add_up() -> None:
    schedule = RateSchedule.rayleigh(snr_db=3.0, latent_size=1024, num_slots=50, seed=2)
    bits = schedule.slot_bits(0.011, 0.0237, 200)
    assert bits.shape == (200,)
    assert bits.sum() == pytest.approx(schedule.carried_bits(0.011, 0.011 + 200 * 0.0237))


def test_a_rayleigh_schedule_has_the_links_mean() -> None:
    link = RayleighLink(snr_db=3.0)
    schedule = RateSchedule.rayleigh(snr_db=3.0, slot_ms=20.0, num_slots=4000)
    bits = schedule.rates_bits_per_second * schedule.slot_seconds
    # The ergodic mean is that of many sub-channels; with 60 it differs by less than half a percent.
    error = 5.0 * bits.std() / np.sqrt(bits.size) + 0.005 * link.mean_rate_bits
    assert abs(bits.mean() - link.mean_rate_bits) < error
    again = RateSchedule.rayleigh(snr_db=3.0, slot_ms=20.0, num_slots=4000)
    assert np.array_equal(schedule.rates_bits_per_second, again.rates_bits_per_second)


def test_an_outage_carries_nothing_once_per_repetition() -> None:
    schedule = RateSchedule.steps([(1.0, 1000.0)], slot_ms=100.0).with_outage(0.3, 0.2)
    assert schedule.rates_bits_per_second.tolist() == [1000.0] * 3 + [0.0] * 2 + [1000.0] * 5
    assert schedule.seconds_of(300.0) == pytest.approx(0.3)
    assert schedule.seconds_of(301.0) == pytest.approx(0.501)
    assert schedule.carried_bits(1.3, 1.5) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateSchedule.constant(-1.0), "rate_bits_per_second is -1.0; it must be a number, 0 or more"),
        (lambda: RateSchedule.constant(float("nan")), "rate_bits_per_second is nan"),
        (lambda: RateSchedule.steps([]), "it needs pairs of seconds"),
        (lambda: RateSchedule.steps([(0.001, 5.0)], slot_ms=10.0), "at least a slot"),
        (lambda: RateSchedule.rayleigh(snr_db=3.0, slot_ms=0.0), "slot_ms is 0.0; it must be"),
        (lambda: RateSchedule.rayleigh(snr_db=300.0), "snr_db is 300.0"),
        (
            lambda: RateSchedule(slot_seconds=1.0, rates_bits_per_second=np.array([1.0, np.inf])),
            "must lie within 0..1e\\+11",
        ),
        (lambda: RateSchedule(slot_seconds=1.0, rates_bits_per_second=np.zeros((2, 2))), r"shape \(2, 2\)"),
    ],
)
def test_bad_schedules_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ParameterError, match=message):
        make()


@given(
    st.lists(st.integers(1, 4000), min_size=1, max_size=300).map(sorted),
    st.sampled_from([1.0, 7.0, 30.0, 250.0]),
)
def test_a_trace_carries_one_packet_per_line(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], slot_ms: float
) -> None:
    file = tmp_path_factory.mktemp("trace") / "link.trace"
    file.write_text("".join(f"{time}\n" for time in times))
    schedule = read_trace(file, slot_ms=slot_ms)
    assert schedule.period_seconds == pytest.approx(times[-1] / 1000.0)
    carried = schedule.carried_bits(0.0, schedule.period_seconds)
    assert carried == pytest.approx(len(times) * OPPORTUNITY_BITS)
    # At the end of each slot, exactly the deliveries up to it.
    for slot in range(1, schedule.rates_bits_per_second.size + 1):
        until = slot * schedule.slot_seconds
        through = sum(time <= until * 1000.0 + 1e-6 for time in times)
        # A delivery belongs to the millisecond that ends at its time, which a slot's edge may cut.
        about = sum(abs(time - until * 1000.0) < 1.0 for time in times)
        assert abs(schedule.carried_bits(0.0, until) / OPPORTUNITY_BITS - through) <= about + 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no time after 0"),
        (b"\n\n", "holds no time after 0"),
        (b"0\n0\n", "holds no time after 0"),
        (b"5\nx\n", "line 2 is 'x'; it must be a time in whole milliseconds"),
        (b"5\n-1\n", "line 2 is '-1'"),
        (b"1.5\n", "line 1 is '1.5'"),
        (b"1_0\n", "line 1 is '1_0'"),
        (b"9\n8\n", "line 2 is 8 after 9; times must not fall"),
        (b"99999999999999999999\n", "line 1 is '9999"),
        (b"\xff\xfe\x00", "line 1 is '\ufffd"),
    ],
)
def test_bad_traces_are_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.trace"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        read_trace(file)


def test_a_missing_trace_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"cannot read the trace .*nowhere: No such file"):
        read_trace(tmp_path / "nowhere")
    (tmp_path / "fine").write_text("30\n")
    with pytest.raises(ParameterError, match=r"slot_ms is 0\.5; for a trace"):
        read_trace(tmp_path / "fine", slot_ms=0.5)
