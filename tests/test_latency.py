import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from latentcast.errors import ParameterError
from latentcast.link.latency import latency_quantile, transfer_slots
from latentcast.link.rayleigh import RayleighLink

PAPER_BITS = 16384 * np.array([3, 4, 8, 10, 16])


@pytest.mark.parametrize(("snr_db", "slots"), [(0.0, [12, 16, 32, 39, 62]), (12.0, [4, 5, 10, 12, 19])])
def test_reference_slots(snr_db: float, slots: list[int]) -> None:
    link = RayleighLink(snr_db=snr_db)
    rates = link.mean_rate_bits, link.std_rate_bits
    assert latency_quantile(PAPER_BITS, *rates, 0.9).tolist() == slots  # type: ignore[union-attr]
    assert [latency_quantile(float(bits), *rates, 0.9) for bits in PAPER_BITS] == slots


@given(st.floats(1.0, 1e7), st.floats(0.1, 1e5), st.floats(0.0, 3.0), st.floats(0.001, 0.999))
def test_answer_is_the_first_slot_count_at_the_quantile(
    bits: float, mean: float, relative_std: float, quantile: float
) -> None:
    slots = latency_quantile(bits, mean, relative_std * mean, quantile)
    score = -NormalDist().inv_cdf(quantile) * relative_std * mean

    def surplus(count: int) -> float:
        return mean * count + score * math.sqrt(count) - bits

    # Within rounding of an exact root either neighbour is right.
    assume(abs(surplus(slots)) > 1e-9 * bits)
    assert surplus(slots) > 0.0
    if slots > 1:
        assert surplus(slots - 1) < 1e-9 * bits


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_whole_numbers_of_slots_are_not_rounded_up(quantile: float) -> None:
    for mean in (0.1, 0.3, 1.0, 7.0, 4319.863486509808):
        counts = np.arange(1, 400)
        assert np.array_equal(latency_quantile(mean * counts, mean, 0.0, quantile), counts)


def test_quantile_covers_normal_rates() -> None:
    mean, std, quantile, bits = 100.0, 30.0, 0.9, 2000.0
    slots = latency_quantile(bits, mean, std, quantile)
    rng = np.random.default_rng(9)
    sums = rng.normal(mean, std, (20_000, slots)).sum(axis=1)
    fewer = rng.normal(mean, std, (20_000, slots - 1)).sum(axis=1)
    tolerance = 4 * math.sqrt(0.09 / 20_000)
    assert (sums >= bits).mean() > quantile - tolerance
    assert (fewer >= bits).mean() < quantile + tolerance


def test_papers_quantile_is_safe_on_the_true_channel() -> None:
    link = RayleighLink(snr_db=0.0)
    slots = latency_quantile(3 * 16384, link.mean_rate_bits, link.std_rate_bits, 0.9)
    rates = link.sample(400, slots, rng=np.random.default_rng(10))
    assert (rates.sum(axis=1) >= 3 * 16384).mean() > 0.9


def test_nothing_to_send_still_takes_a_slot() -> None:
    assert latency_quantile(0.0, 10.0, 0.0, 0.9) == 1
    assert latency_quantile(0.0, 10.0, 5.0, 0.1) == 1


def test_shapes_and_types() -> None:
    assert isinstance(latency_quantile(5, 1.0, 0.1, 0.9), int)
    answer = latency_quantile(np.ones((2, 3)), 1.0, 0.1, 0.9)
    assert isinstance(answer, np.ndarray)
    assert answer.shape == (2, 3)
    assert answer.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0, 0.1, 0.9), "bits is -1.0"),
        ((float("nan"), 1.0, 0.1, 0.9), "bits is nan"),
        (("x", 1.0, 0.1, 0.9), "bits is 'x'"),
        ((10**400, 1.0, 0.1, 0.9), "bits is 1000"),
        ((1.0, "x", 0.1, 0.9), "mean_rate_bits is 'x'"),
        ((1.0, 1.0, None, 0.9), "std_rate_bits is None"),
        ((1.0, 1.0, 0.1, "x"), "quantile is 'x'"),
        ((1.0, 0.0, 0.1, 0.9), "mean_rate_bits is 0.0"),
        ((1.0, float("inf"), 0.1, 0.9), "mean_rate_bits is inf"),
        ((1.0, 1.0, -0.1, 0.9), "std_rate_bits is -0.1"),
        ((1.0, 1.0, 0.1, 1.0), "quantile is 1.0"),
        ((1.0, 1.0, 0.1, float("nan")), "quantile is nan"),
        ((1e300, 1e-3, 0.1, 0.9), "more than"),
    ],
)
def test_bad_quantiles_are_refused(arguments: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        latency_quantile(*arguments)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 60), st.data())
def test_transfers_count_the_slots_of_the_definition(
    rates: list[int], bits: int, data: st.DataObject
) -> None:
    slot = data.draw(st.integers(1, len(rates)))
    carried = 0
    expected = len(rates) - slot + 2
    for count, rate in enumerate(rates[slot - 1 :], start=1):
        carried += rate
        if carried >= bits:
            expected = count
            break
    assert transfer_slots([float(rate) for rate in rates], bits, slot=slot) == expected


def test_transfers_are_vectorised() -> None:
    rates = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    assert transfer_slots(rates, [3.0, 5.0], slot=[1, 2]).tolist() == [2, 2]
    assert transfer_slots(rates, 0.0, slot=4).tolist() == [1, 1]


@pytest.mark.parametrize("slot", [0, 4, 1.5])
def test_bad_slots_are_refused(slot: int) -> None:
    with pytest.raises(ParameterError, match="slot is"):
        transfer_slots([1.0, 1.0, 1.0], 1.0, slot=slot)


def test_rates_need_slots() -> None:
    with pytest.raises(ParameterError, match="last axis"):
        transfer_slots([], 1.0)
