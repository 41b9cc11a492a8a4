import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from latentcast.errors import ParameterError
from latentcast.link import rayleigh
from latentcast.link.rayleigh import RayleighLink, SnrReference, uplink_slots, waterfill


@pytest.mark.parametrize(
    ("snr_db", "mean", "std"), [(0.0, 4319.9, 559.5), (12.0, 14735.3, 890.2), (24.0, 30153.5, 989.0)]
)
def test_reference_rates(snr_db: float, mean: float, std: float) -> None:
    link = RayleighLink(snr_db=snr_db)
    assert link.mean_rate_bits == pytest.approx(mean, abs=0.05)
    assert link.std_rate_bits == pytest.approx(std, abs=0.05)


@pytest.mark.parametrize("snr_reference", ["subchannel", "total"])
@pytest.mark.parametrize("snr_db", [-60.0, -25.0, -3.0, 7.0, 30.0, 60.0, 100.0])
def test_ergodic_rates_are_the_papers_integrals(snr_db: float, snr_reference: SnrReference) -> None:
    num_subchannels, symbols = 17, 3.5
    link = RayleighLink(
        num_subchannels=num_subchannels, symbols_per_slot=symbols, snr_db=snr_db, snr_reference=snr_reference
    )
    mean_gain = 10 ** (snr_db / 10) / (num_subchannels if snr_reference == "total" else 1)

    # The paper's integrals over the gain, in units of its mean; the logarithmic variable resolves the
    # cut-off.
    def expect(function: object, start: float) -> float:
        def integrand(y: float) -> float:
            x = math.exp(y)
            return float(function(x) * x * math.exp(-x))  # type: ignore[operator]

        low, high = math.log(start), math.log(700.0)
        points = np.linspace(low, high, 40)[1:-1]
        return float(
            integrate.quad(integrand, low, high, points=points, limit=500, epsabs=0, epsrel=1e-12)[0]
        )

    def excess_power(log_cutoff: float) -> float:
        u = math.exp(log_cutoff)
        return expect(lambda x: (1 / u - 1 / x) / mean_gain, u) - 1.0

    cutoff = math.exp(optimize.brentq(excess_power, math.log(1e-12), math.log(40.0), xtol=1e-13))
    first = expect(lambda x: math.log2(x / cutoff), cutoff)
    second = expect(lambda x: math.log2(x / cutoff) ** 2, cutoff)
    assert link.mean_rate_bits == pytest.approx(symbols * num_subchannels * first, rel=1e-8)
    expected = symbols * math.sqrt(num_subchannels * (second - first**2))
    assert link.std_rate_bits == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("num_subchannels", [1, 300, 65536])
def test_ergodic_rates_of_hopelessly_spread_power(num_subchannels: int) -> None:
    link = RayleighLink(num_subchannels=num_subchannels, snr_db=-60.0, snr_reference="total")
    cutoff = optimize.brentq(
        lambda u: math.log(special.expn(2, u) / u / link.mean_snr), 1.0, 60.0, xtol=1e-13
    )
    assert link.mean_rate_bits == pytest.approx(
        70.0 * num_subchannels * special.exp1(cutoff) / math.log(2.0), rel=1e-9
    )


def test_total_reference_spreads_the_power() -> None:
    total = RayleighLink(num_subchannels=10, snr_db=13.0, snr_reference="total")
    single = RayleighLink(num_subchannels=10, snr_db=3.0)
    assert total.mean_rate_bits == pytest.approx(single.mean_rate_bits)
    draws = [link.sample(3, 4, rng=np.random.default_rng(1)) for link in (total, single)]
    assert draws[0] == pytest.approx(draws[1])


gains = st.lists(st.floats(0.0, 1e6, allow_subnormal=False), min_size=1, max_size=12)


@given(gains, st.floats(0.0, 1e4))
def test_waterfilling_meets_the_optimality_conditions(gain: list[float], power: float) -> None:
    allocation = waterfill(gain, power)
    g = np.array(gain)
    assert np.all(allocation >= 0.0)
    if not g.any():
        assert not allocation.any()
        return
    assert allocation.sum() == pytest.approx(power, rel=1e-9)
    with np.errstate(divide="ignore", over="ignore"):
        floors = 1.0 / g
    used = allocation > 0.0
    if used.any():
        levels = allocation[used] + floors[used]
        assert levels == pytest.approx(levels[0], rel=1e-9)
        assert np.all(floors[~used] >= levels[0] * (1 - 1e-9))


def test_waterfilling_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(5)
    for size in (1, 2, 3):
        gain = rng.exponential(1.0, size)
        best = waterfill(gain, 2.0)
        shares = rng.dirichlet(np.full(size, 0.5), size=20_000) * 2.0
        rates = np.log2(1.0 + shares * gain).sum(axis=1)
        optimum = np.log2(1.0 + best * gain).sum()
        assert rates.max() <= optimum + 1e-12
        assert rates.max() == pytest.approx(optimum, abs=1e-3)


def test_waterfilling_takes_batches_and_powers() -> None:
    rng = np.random.default_rng(3)
    gain = rng.exponential(1.0, (2, 3, 5))
    power = np.array([0.5, 1.0, 4.0])
    allocation = waterfill(gain, power)
    for i in range(2):
        for j in range(3):
            assert allocation[i, j] == pytest.approx(waterfill(gain[i, j], power[j]))
    assert waterfill(np.empty((0, 3)), 1.0).shape == (0, 3)


@pytest.mark.parametrize(
    ("gain", "power", "message"),
    [
        ([], 1.0, "last axis"),
        (1.0, 1.0, "last axis"),
        ([1.0, -1.0], 1.0, "gain_to_noise holds negative"),
        ([1.0, float("inf")], 1.0, "non-finite"),
        ([1.0], -1.0, "power is -1.0"),
        ([1.0], float("nan"), "power is nan"),
        ([[1.0], [2.0]], [1.0, 2.0, 3.0], "must broadcast"),
        (["x"], 1.0, "must be numbers"),
        ([1.0], "x", "must be numbers"),
        ([1j], 1.0, "must be numbers"),
    ],
)
def test_bad_waterfilling_is_refused(gain: list[float], power: float, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        waterfill(gain, power)


@pytest.mark.parametrize("snr_db", [-60.0, -10.0, 0.0, 15.0, 100.0])
def test_samples_are_waterfilled_rates_of_the_drawn_gains(snr_db: float) -> None:
    link = RayleighLink(num_subchannels=7, symbols_per_slot=2.5, snr_db=snr_db)
    rates = link.sample(4, 5, rng=np.random.default_rng(11))
    gain = np.random.default_rng(11).standard_exponential((4, 5, 7)) * 10 ** (snr_db / 10)
    expected = 2.5 * np.log1p(waterfill(gain, 7.0) * gain).sum(axis=-1) / math.log(2.0)
    assert rates == pytest.approx(expected, rel=1e-9)


def test_single_subchannel_gains_are_exponential() -> None:
    # With one sub-channel all power goes there, and the rate gives the gain back.
    link = RayleighLink(num_subchannels=1, symbols_per_slot=1.0, snr_db=3.0)
    rates = link.sample(40, 50, rng=np.random.default_rng(2))
    gain = (2.0 ** rates.ravel() - 1.0) / 10**0.3
    assert stats.kstest(gain, "expon").pvalue > 0.01


def test_samples_do_not_depend_on_batch_or_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    link = RayleighLink(num_subchannels=6, snr_db=0.0)
    many = link.sample(30, 9, rng=np.random.default_rng(4))
    few = link.sample(7, 9, rng=np.random.default_rng(4))
    monkeypatch.setattr(rayleigh, "CHUNK_GAINS", 6 * 4)
    chunked = link.sample(30, 9, rng=np.random.default_rng(4))
    assert np.array_equal(many[:7], few)
    assert np.array_equal(many, chunked)


def test_ergodic_mean_is_the_limit_of_many_subchannels() -> None:
    link = RayleighLink(num_subchannels=4000, symbols_per_slot=1.0, snr_db=0.0)
    rates = link.sample(1, 400, rng=np.random.default_rng(6))[0]
    error = rates.std(ddof=1) / math.sqrt(rates.size)
    assert rates.mean() == pytest.approx(link.mean_rate_bits, abs=4 * error + 2e-4 * link.mean_rate_bits)


def test_ergodic_spread_overstates_that_of_true_waterfilling() -> None:
    rates = RayleighLink(snr_db=0.0).sample(10, 1000, rng=np.random.default_rng(8))
    # The standard error of a standard deviation of n normal values is about std / sqrt(2 n).
    assert rates.std() == pytest.approx(315.0, abs=4 * 315.0 / math.sqrt(2 * rates.size) + 0.5)


def test_uplink_counts_slots_from_one() -> None:
    rates = [[8.0, 1.0, 1.0], [4.0, 3.0, 1.0], [1.0, 1.0, 1.0]]
    assert uplink_slots(rates, 8.0).tolist() == [1, 3, 4]


def test_links_are_values() -> None:
    assert RayleighLink(snr_db=1.0) == RayleighLink(snr_db=1.0)
    assert hash(RayleighLink(snr_db=1.0)) != hash(RayleighLink(snr_db=2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr_db": float("nan")}, "snr_db is nan"),
        ({"snr_db": 101.0}, r"-60\.\.100"),
        ({"snr_db": float("-inf")}, "snr_db is -inf"),
        ({"snr_db": "3"}, "snr_db is '3'"),
        ({"num_subchannels": 0}, "num_subchannels is 0"),
        ({"num_subchannels": 2.0}, "num_subchannels is 2.0"),
        ({"symbols_per_slot": 0.0}, "symbols_per_slot is 0.0"),
        ({"symbols_per_slot": float("inf")}, "symbols_per_slot is inf"),
        ({"snr_reference": "per-user"}, "'subchannel' or 'total'"),
    ],
)
def test_bad_links_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        RayleighLink(**{"snr_db": 0.0, **changes})  # type: ignore[arg-type]


def test_bad_sample_sizes_are_refused() -> None:
    with pytest.raises(ParameterError, match="num_slots 0"):
        RayleighLink(snr_db=0.0).sample(1, 0, rng=np.random.default_rng(0))
