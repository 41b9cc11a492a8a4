import math

import numpy as np
import pytest
from scipy import special

from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.link.rayleigh import RayleighLink, SnrReference, waterfill

# Error in probability that the lattice may leave: three times how far random shifts of it spread at -60 dB.
LATTICE_ERROR = 4e-3


def law_of(num_subchannels: int, snr_db: float, reference: SnrReference = "subchannel") -> RateLaw:
    return RateLaw.prepare(
        RayleighLink(
            num_subchannels=num_subchannels, symbols_per_slot=2.5, snr_db=snr_db, snr_reference=reference
        )
    )


def nats(law: RateLaw, bits: np.ndarray) -> np.ndarray:
    return np.asarray(bits / law.link.symbols_per_slot * math.log(2.0))


UNIFORM = np.concatenate((np.geomspace(1e-9, 1e-3, 20), np.linspace(0.002, 0.998, 500)))


@pytest.mark.parametrize("snr_db", [-60.0, -5.0, 10.0, 40.0, 100.0])
def test_one_subchannel_has_its_closed_form(snr_db: float) -> None:
    # R = L log2(1 + Gamma g) with exponential g.
    law = law_of(1, snr_db)
    gain = np.expm1(nats(law, law.quantile(UNIFORM))) / 10 ** (snr_db / 10)
    assert -np.expm1(-gain) == pytest.approx(UNIFORM, abs=3e-5)
    exact_mean = -special.expi(-(10 ** (-snr_db / 10))) * math.exp(min(10 ** (-snr_db / 10), 700.0))
    if snr_db > -20.0:  # below, the closed form itself overflows
        assert nats(law, np.array(law.mean_bits)) == pytest.approx(exact_mean, rel=2e-5)
    else:
        assert nats(law, np.array(law.mean_bits)) == pytest.approx(10 ** (snr_db / 10), rel=2e-5)
        assert law.std_bits == pytest.approx(law.mean_bits, rel=2e-4)


@pytest.mark.parametrize("num_subchannels", [2, 5, 60])
def test_at_very_low_snr_the_best_subchannel_takes_all(num_subchannels: int) -> None:
    # A second sub-channel is active with a chance below K^2 times the snr.
    law = law_of(num_subchannels, -60.0)
    best = np.expm1(nats(law, law.quantile(UNIFORM))) / (1e-6 * num_subchannels)
    assert (-np.expm1(-best)) ** num_subchannels == pytest.approx(UNIFORM, abs=LATTICE_ERROR)
    mean, variance = (sum(1 / j**power for j in range(1, num_subchannels + 1)) for power in (1, 2))
    scale = law.link.symbols_per_slot * 1e-6 * num_subchannels / math.log(2.0)
    assert law.mean_bits == pytest.approx(scale * mean, rel=3e-4)
    assert law.std_bits == pytest.approx(scale * math.sqrt(variance), rel=1e-2)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 15.0])
def test_two_subchannels_by_quadrature(snr_db: float) -> None:
    law, snr = law_of(2, snr_db), 10 ** (snr_db / 10)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for uniform in (0.05, 0.3, 0.5, 0.8, 0.99):
        rate = float(nats(law, law.quantile(uniform)))
        # P(R <= r) = int P(g2 <= h(g1)) e^-g1 dg1, up to the g1 that alone exceeds r; h by bisection.
        end = math.expm1(rate) / (2.0 * snr)
        first = 0.5 * end * (nodes + 1.0)
        low, high = np.zeros_like(first), np.full_like(first, end)
        for _ in range(60):
            second = 0.5 * (low + high)
            gains = snr * np.stack((first, second), axis=-1)
            reached = np.log1p(waterfill(gains, 2.0) * gains).sum(axis=-1) > rate
            low, high = np.where(reached, low, second), np.where(reached, second, high)
        exact = 0.5 * end * float(weights @ (np.exp(-first) * -np.expm1(-low)))
        assert uniform == pytest.approx(exact, abs=3e-4)


LINKS: list[tuple[int, float, SnrReference]] = [
    (60, 0.0, "subchannel"),
    (60, 12.0, "subchannel"),
    (60, 0.0, "total"),
    (3, -7.0, "subchannel"),
    (12, 35.0, "subchannel"),
    (200, 3.0, "subchannel"),
]


@pytest.mark.parametrize(("num_subchannels", "snr_db", "reference"), LINKS)
def test_law_is_that_of_drawn_slots(num_subchannels: int, snr_db: float, reference: SnrReference) -> None:
    law, count = law_of(num_subchannels, snr_db, reference), 40_000
    drawn = np.sort(law.link.sample(count, 1, rng=np.random.default_rng(12)).ravel())
    distance = np.abs(law.cdf(drawn) - (np.arange(count) + 0.5) / count).max()
    # Kolmogorov's distance exceeds 1.95 / sqrt(n) once in a thousand times.
    assert distance < 1.95 / math.sqrt(count) + LATTICE_ERROR
    error = drawn.std() / math.sqrt(count)
    assert law.mean_bits == pytest.approx(drawn.mean(), abs=4 * error + 1e-4 * law.mean_bits)
    kurtosis = ((drawn - drawn.mean()) ** 4).mean() / drawn.var() ** 2
    assert law.std_bits == pytest.approx(
        drawn.std(), rel=4 * math.sqrt((kurtosis - 1.0) / (4 * count)) + 5e-3
    )


def test_both_conventions_and_symbols_scale() -> None:
    total, single = law_of(10, 13.0, "total"), law_of(10, 3.0)
    assert total.table == pytest.approx(single.table)
    other = RateLaw.prepare(RayleighLink(num_subchannels=10, symbols_per_slot=5.0, snr_db=3.0))
    assert other.table == pytest.approx(2.0 * single.table)


def test_quantile_and_cdf_are_inverse_and_rising() -> None:
    law = law_of(4, 5.0)
    uniform = np.random.default_rng(1).random((30, 7))
    rates = law.quantile(uniform)
    assert rates.shape == (30, 7)
    assert law.cdf(rates) == pytest.approx(uniform, abs=1e-9)
    assert np.all(np.diff(law.table) >= 0.0)
    assert law.quantile([0.0, 1.0]).tolist() == [law.table[0], law.table[-1]]
    assert law.cdf([0.0, 1e9]).tolist() == [0.0, 1.0]


def test_laws_are_prepared_once_and_alike() -> None:
    link = RayleighLink(num_subchannels=7, snr_db=1.0)
    law = RateLaw.prepare(link)
    assert RateLaw.prepare(RayleighLink(num_subchannels=7, snr_db=1.0)) is law
    from latentcast.link.law import _prepare

    assert np.array_equal(_prepare.__wrapped__(link).table, law.table)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_bad_probabilities_are_refused(bad: float) -> None:
    with pytest.raises(ParameterError, match=r"within 0\.\.1"):
        law_of(1, 0.0).quantile([0.5, bad])


def test_transfers_of_exponential_slots_have_gamma_sums() -> None:
    # At -60 dB the rate of one sub-channel is proportional to its gain, to within 1e-5.
    law = law_of(1, -60.0)
    for size in (0.3, 4.0, 12.0):
        counts = np.arange(1, 31)
        assert law.transfer_slots_cdf(size * law.mean_bits, 30) == pytest.approx(
            special.gammaincc(counts, size), abs=2e-4
        )


@pytest.mark.parametrize(("num_subchannels", "snr_db"), [(60, 0.0), (60, 12.0), (3, 20.0)])
def test_transfer_times_are_those_of_drawn_slots(num_subchannels: int, snr_db: float) -> None:
    law, count, slots = law_of(num_subchannels, snr_db), 4000, 12
    sums = np.cumsum(law.link.sample(count, slots, rng=np.random.default_rng(4)), axis=1)
    for bits in law.mean_bits * np.array([0.9, 3.02, 8.4]):
        chances = law.transfer_slots_cdf(float(bits), slots)
        drawn = (sums >= bits).mean(axis=0)
        tolerance = 4 * np.sqrt(chances * (1 - chances) / count) + 1e-3
        assert np.all(np.abs(chances - drawn) <= tolerance)


def test_transfer_times_at_the_ends() -> None:
    law = law_of(60, 0.0)
    assert law.transfer_slots_cdf(0.0, 3).tolist() == [1.0, 1.0, 1.0]
    assert law.transfer_slots_cdf(1e12, 5).tolist() == [0.0] * 5
    bits = law.mean_bits * 1000
    long = law.transfer_slots_cdf(bits, 1100)
    # A sum of a thousand slots is normal; half are through at its mean.
    assert long[999] == pytest.approx(0.5, abs=0.01)
    assert np.all(np.diff(long) >= 0.0)
    assert law.transfer_slots_cdf(bits, 1001)[-2:] == pytest.approx(long[999:1001], abs=1e-9)


@pytest.mark.parametrize(
    ("bits", "slots", "message"),
    [
        (-1.0, 3, "bits is -1.0"),
        (float("nan"), 3, "bits is nan"),
        (1.0, 0, "max_slots is 0"),
        (1.0, 2.0, "2.0"),
    ],
)
def test_bad_transfers_are_refused(bits: float, slots: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        law_of(1, 0.0).transfer_slots_cdf(bits, slots)
