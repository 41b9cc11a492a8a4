"""The online estimate of rate and spread, over synthetic links in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from latentcast.errors import ParameterError, ProtocolError
from latentcast.live.rate import RateEstimator
from latentcast.scenario import Scenario
from virtual_link import VirtualLink

SLOT = 0.05


@dataclass
class Run:
    """What the estimator said at the beginning of every slot, and what came through."""

    rate: NDArray[np.float64]
    spread_bits: NDArray[np.float64]
    received: int
    estimator: RateEstimator
    most_in_flight: int = 0
    arrivals: list[float] = field(default_factory=list)


def run(
    bytes_per_slot: ArrayLike,
    *,
    seconds: float,
    rtt: float = 0.02,
    jitter: float = 0.0,
    clock: Callable[[float], float] = lambda now: now,
    busy: Callable[[float], bool] = lambda now: True,
    first: int = 0,
) -> Run:
    """Send as the live server does: half a slot at a time, within a window of a round trip and a slot."""
    link = VirtualLink(bytes_per_slot, slot_seconds=SLOT, delay_seconds=rtt / 2)
    rng = np.random.default_rng(1)
    estimator = RateEstimator(slot_seconds=SLOT, rtt_seconds=rtt)
    events: list[tuple[float, int, tuple[int, int]]] = []
    rates, spreads = [], []
    received, last_ack, now, next_slot = first, 0.0, 0.0, 0.0
    result = Run(np.empty(0), np.empty(0), 0, estimator)
    if first:
        # As if so many bytes had gone before.
        estimator._sent = estimator._arrived = first

    def fill() -> None:
        while busy(now):
            rate = estimator.rate(now)
            window, size = 600, 300
            if rate is not None:
                window = max(int(rate * (estimator.rtt_seconds + estimator.lateness_seconds + SLOT)), window)
                size = int(np.clip(rate * SLOT / 2, size, 65536))
            if estimator.in_flight + size > window:
                return
            for part in [1000] * (size // 1000) + [size % 1000]:
                if part:
                    estimator.sent(part, now)
                    heapq.heappush(events, (link.send(part, now), 0, (part, 0)))
            result.most_in_flight = max(result.most_in_flight, estimator.in_flight)

    while now < seconds:
        if not events or events[0][0] > next_slot:
            now, next_slot = next_slot, next_slot + SLOT
            rates.append(estimator.rate(now) or 0.0)
            spreads.append(estimator.spread_bits(now))
            fill()
            continue
        now, kind, what = heapq.heappop(events)
        if kind == 0:
            received += what[0]
            result.arrivals.append(now)
            last_ack = max(last_ack, now + rtt / 2 + float(rng.exponential(jitter)))
            stamp = int(clock(now) * 1e6) % 2**32
            heapq.heappush(events, (last_ack, 1, (received % 2**32, stamp)))
        else:
            estimator.acknowledged(*what, now)
            fill()
    result.rate, result.spread_bits = np.array(rates), np.array(spreads)
    result.received = received - first
    return result


@pytest.mark.parametrize("bytes_per_slot", [100.0, 5000.0, 200_000.0])
@pytest.mark.parametrize("rtt", [0.0, 0.02, 0.2])
def test_a_constant_link_is_found_and_filled(bytes_per_slot: float, rtt: float) -> None:
    result = run([bytes_per_slot], seconds=4.0, rtt=rtt)
    true = bytes_per_slot / SLOT
    assert result.rate[-20:] == pytest.approx(true, rel=0.02)
    assert result.estimator.mean_rate == pytest.approx(true, rel=0.05)
    assert result.spread_bits[-1] < 0.05 * 8 * bytes_per_slot
    # Once found, the link is never idle for long, and little waits in it.
    assert sum(arrival > 2.0 for arrival in result.arrivals) > 0
    largest = max(600.0, true * (rtt + SLOT) * 1.1)
    assert result.most_in_flight <= largest


def test_start_takes_a_few_round_trips() -> None:
    # From 300 bytes in 20 ms to 2 MB/s, about 2 ** 7 times as much.
    result = run([100_000.0], seconds=0.6)
    assert result.rate[1] > 50_000
    assert result.rate[6] > 0.8 * 2e6


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 6.0])
@pytest.mark.parametrize("rtt", [0.01, 0.05])
def test_rayleigh_fading(snr_db: float, rtt: float) -> None:
    link = Scenario.paper(snr_db=snr_db).link
    drawn = link.sample(1, 400, rng=np.random.default_rng(1))[0] / 8
    result = run(drawn, seconds=15.0, rtt=rtt)
    relative = result.rate[20:] / (drawn.mean() / SLOT)
    # A memory of 8 slots averages over 16: the estimate spreads by a quarter of what a slot does.
    variation = float(drawn.std() / drawn.mean())
    assert relative.mean() == pytest.approx(1.0, abs=0.015)
    assert relative.std() < 0.4 * variation
    # Slots lie across samples of two: 1 - 1/6 of the variance is seen; from about 8 at a time.
    assert result.spread_bits[50:].mean() == pytest.approx(8 * drawn.std(), rel=0.25)
    assert result.received > 0.97 * drawn[:300].sum()


def test_an_outage_is_seen_and_survived() -> None:
    rates = np.full(200, 2000.0)
    rates[40:100] = 0.0
    result = run(rates, seconds=10.0, rtt=0.04)
    before, after = result.rate[39], result.rate[101:]
    assert before == pytest.approx(40_000, rel=0.02)
    # It falls while nothing comes, to almost nothing.
    assert np.all(np.diff(result.rate[42:99]) < 0.0)
    assert result.rate[60] < 0.25 * before
    assert result.rate[99] < 0.02 * before
    # As soon as something comes it is worth trusting again.
    assert after[2] > 0.5 * before
    assert after[20] > 0.9 * before
    assert result.received > 0.9 * 140 * 2000


def test_a_deep_fade_is_followed() -> None:
    rates = np.full(200, 4000.0)
    rates[60:] = 400.0
    result = run(rates, seconds=8.0)
    assert result.rate[59] == pytest.approx(80_000, rel=0.02)
    # Four memories later e^-4 of the difference is left.
    assert result.rate[60 + 32] == pytest.approx(8_000 + 72_000 * np.exp(-4.0), rel=0.05)
    assert result.rate[-1] == pytest.approx(8_000, rel=0.02)


def test_a_better_link_is_found() -> None:
    rates = np.full(200, 400.0)
    rates[60:] = 40_000.0
    result = run(rates, seconds=6.0)
    assert result.rate[60 + 24] > 0.8 * 800_000


def test_time_without_work_says_nothing() -> None:
    result = run([2000.0], seconds=8.0, busy=lambda now: not 2.0 < now < 6.0)
    assert result.rate[40:] == pytest.approx(40_000, rel=0.05)


def test_a_trickle_never_lowers_the_estimate() -> None:
    estimator = RateEstimator(slot_seconds=SLOT, rtt_seconds=0.0)
    for number in range(1, 41):
        estimator.sent(500, now=0.01 * (number - 1))
        estimator.acknowledged(500 * number, clock_us=10_000 * number, now=0.01 * number)
    before = estimator.rate(0.4)
    assert before == pytest.approx(50_000, rel=0.05)
    for number in range(41, 61):
        now = 0.4 + number - 40.0
        estimator.sent(10, now)
        estimator.acknowledged(20_000 + 10 * (number - 40), clock_us=int((now + 0.005) * 1e6), now=now + 0.01)
    assert estimator.rate(30.0) == before


@pytest.mark.parametrize(
    ("clock", "worst", "lasting"),
    [
        pytest.param(lambda now: now + 4290.0, 0.35, 0.1, id="wraps"),
        pytest.param(lambda now: now + (3600.0 if now > 2.0 else 0.0), 0.35, 0.1, id="an hour ahead"),
        pytest.param(lambda now: now + 5000.0 - (3600.0 if now > 2.0 else 0.0), 0.35, 0.1, id="an hour back"),
        pytest.param(lambda now: now + 10.0 + (0.3 if now > 2.0 else 0.0), 0.35, 0.1, id="a little ahead"),
        pytest.param(lambda now: now + 10.0 - (0.3 if now > 2.0 else 0.0), 0.35, 0.1, id="a little back"),
        pytest.param(lambda now: 7.0, 0.35, 0.1, id="stands still"),
        pytest.param(lambda now: 1.0001 * now, 0.35, 0.1, id="drifts"),
        pytest.param(lambda now: (now * 7919.0) % 97.0, 0.8, 0.5, id="nonsense"),
    ],
)
def test_no_clock_does_harm(clock: Callable[[float], float], worst: float, lasting: float) -> None:
    result = run([2000.0], seconds=5.0, clock=clock)
    assert result.rate[10:] == pytest.approx(40_000, rel=worst)
    assert result.rate[80:] == pytest.approx(40_000, rel=lasting)
    assert result.received > 0.9 * 5.0 * 40_000


def test_counts_wrap() -> None:
    result = run([2000.0], seconds=3.0, first=2**32 - 50_000)
    assert result.rate[-1] == pytest.approx(40_000, rel=0.02)


def test_late_acknowledgements_widen_the_window() -> None:
    # 20 ms of jitter on a way back of 10: the link stays in use, and what is kept in it grows with that.
    result = run([5000.0], seconds=10.0, jitter=0.02)
    assert 0.01 < result.estimator.lateness_seconds < 0.2
    assert result.received > 0.7 * 10.0 * 100_000
    assert np.median(result.rate[50:]) == pytest.approx(100_000, rel=0.4)


def test_old_acknowledgements_change_nothing_and_false_ones_are_refused() -> None:
    estimator = RateEstimator(slot_seconds=SLOT, rtt_seconds=0.01)
    with pytest.raises(ProtocolError, match="1 more than were sent"):
        estimator.acknowledged(1, 0, 0.0)
    for now in (0.0, 0.1):
        estimator.sent(100, now)
    assert estimator.acknowledged(100, 1_000, 0.15) == 100
    state = vars(estimator).copy()
    assert estimator.acknowledged(100, 9_000, 0.2) == 0
    assert estimator.acknowledged(50, 9_000, 0.2) == 0
    with pytest.raises(ProtocolError, match="ACK says that 201 bytes arrived, 1 more"):
        estimator.acknowledged(201, 9_000, 0.2)
    assert vars(estimator) == state
    assert (estimator.in_flight, estimator.num_in_flight) == (100, 1)


def test_a_new_connection_counts_anew_and_remembers_the_link() -> None:
    estimator = RateEstimator(slot_seconds=SLOT, rtt_seconds=0.01)
    for number in (1, 2, 3):
        estimator.sent(500, 0.1 * number)
        estimator.acknowledged(500 * number, 100_000 * number, 0.1 * number + 0.1)
    estimator.sent(500, 0.5)
    before = estimator.rate(0.5)
    estimator.reconnected(0.03)
    assert (estimator.in_flight, estimator.rtt_seconds) == (0, 0.03)
    assert estimator.rate(100.0) == before
    estimator.sent(500, 100.0)
    assert estimator.acknowledged(500, 5, 100.1) == 500


@pytest.mark.parametrize(
    ("slot_seconds", "rtt_seconds"), [(0.0, 0.0), (float("inf"), 0.0), (0.1, -1.0), (0.1, float("nan"))]
)
def test_bad_times_are_refused(slot_seconds: float, rtt_seconds: float) -> None:
    with pytest.raises(ParameterError, match="must be"):
        RateEstimator(slot_seconds=slot_seconds, rtt_seconds=rtt_seconds)


def lone_messages(rate: float, *, ahead: int = 0, held_up: float = 0.0, number: int = 1) -> RateEstimator:
    """An estimator after messages of 150 bytes, each sent when the one before has been acknowledged.

    Both directions carry `rate` bytes per second; `ahead` bytes go out just before the first message, which
    may be held up.
    """
    network, ack = 54, 16
    estimator = RateEstimator(slot_seconds=SLOT, rtt_seconds=2 * (9 + network) / rate, overhead_bytes=network)
    now = arrived = 0.0
    if ahead:
        estimator.sent_ahead(ahead, now)
        arrived = (ahead + network) / rate
    for count in range(1, number + 1):
        estimator.sent(150, now)
        arrived = max(arrived, now) + (150 + network) / rate + (held_up if count == 1 else 0.0)
        now = arrived + (ack + network) / rate
        estimator.acknowledged(150 * count, int(arrived * 1e6), now)
    return estimator


@pytest.mark.parametrize("rate", [500.0, 5000.0])
def test_what_goes_ahead_does_not_make_a_link_look_slow(rate: float) -> None:
    # An ACK is 7 bytes longer than a PING, and READY's own header 54: of some 500 bytes.
    assert lone_messages(rate, ahead=300).rate(1e9) == pytest.approx(rate, rel=0.1)


def test_a_link_that_was_taken_for_slow_is_found_out_by_lone_messages() -> None:
    # Nothing is under way most of the time, so that no interval between acknowledgements tells the rate.
    assert (lone_messages(1000.0, held_up=2.0).rate(1e9) or 0.0) < 200.0
    assert lone_messages(1000.0, held_up=2.0, number=9).rate(1e9) == pytest.approx(1000.0, rel=0.2)
