from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast.diffusion.gaussian import GaussianSource, natural_spectrum
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.catalog import make_policy, policy_names
from latentcast.policy.distortion import diffusion_distortion, total_distortion
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import episode_rates
from latentcast.study.episodes.model_block import model_block
from latentcast.study.limits import clairvoyant_distortion, gaussian_mmse, sequential_limit

PATH = NoisePath.stable_diffusion(50)

# The white source at the link's mean rate: SNR in dB, and the limit to the digits that are printed.
REFERENCE = [(-6, "0.065"), (-3, "0.0151"), (0, "0.00268"), (3, "0.00046"), (6, "0.000028")]


@pytest.mark.parametrize(("snr_db", "limit"), REFERENCE)
def test_reference_values(snr_db: int, limit: str) -> None:
    scenario = Scenario.paper(snr_db=float(snr_db))
    rates = np.full((1, 60), scenario.link.mean_rate_bits)
    (value,) = sequential_limit(
        rates, latent_size=16384, uplink=uplink_slots(rates, 8192), mmse=gaussian_mmse(PATH)
    )
    digits = len(limit) - 2
    assert value == pytest.approx(float(limit), abs=0.5000001 * 10.0**-digits)


def test_white_limit_is_the_recursion() -> None:
    rng = np.random.default_rng(0)
    rates, uplink = rng.random((20, 8)) * 30, rng.integers(1, 10, 20)
    mmse = 1.0 - NoisePath.stable_diffusion(5).alpha_bar
    expected = []
    for row, upload in zip(rates, uplink, strict=True):
        error = 1.0
        for slot in range(upload + 1, 9):
            floor = mmse[max(5 - (slot - upload - 1), 0)]
            error = floor + (error - floor) * 2 ** (-2 * row[slot - 1] / 16)
        expected.append(error)
    found = sequential_limit(rates, latent_size=16, uplink=uplink, mmse=mmse)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shaped", [False, True])
def test_limiting_cases(shaped: bool) -> None:
    variances, weights = np.unique(natural_spectrum(8, 8), return_counts=True)
    if not shaped:
        variances, weights = np.ones(1), np.ones(1, dtype=np.int64)
    mmse = gaussian_mmse(PATH, variances)

    def limit(rate: float, num_slots: int) -> list[float]:
        values = sequential_limit(
            np.full((2, num_slots), rate),
            latent_size=64,
            uplink=np.array([2, 5]),
            mmse=mmse,
            variances=variances,
            weights=weights,
        )
        return [float(value) for value in values]

    assert limit(0.0, 60) == pytest.approx([1.0, 1.0])
    assert limit(1e6, 2) == pytest.approx([1.0, 1.0])
    # With rate to spare, what the newest estimate does not know remains.
    average = mmse @ weights / weights.sum()
    assert limit(1e6, 20) == pytest.approx([average[33], average[36]])
    assert limit(1e6, 60) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_equal_bands_are_a_white_source() -> None:
    rates = Scenario.paper(snr_db=0.0).link.sample(5, 60, rng=np.random.default_rng(1))
    uplink = uplink_slots(rates, 8192)
    white = sequential_limit(rates, latent_size=16384, uplink=uplink, mmse=gaussian_mmse(PATH))
    bands = sequential_limit(
        rates,
        latent_size=16384,
        uplink=uplink,
        mmse=gaussian_mmse(PATH, np.ones(7)),
        variances=np.ones(7),
        weights=np.arange(1, 8),
    )
    assert bands == pytest.approx(white, rel=1e-9)


def test_one_slot_is_classical_reverse_waterfilling() -> None:
    # x_0 is there at once: bands of 4, 1 and 1/4 filled to the level 1/2 need 3/2 + 1/2 bits.
    found = sequential_limit(
        np.array([[0.0, 2.0]]),
        latent_size=3,
        uplink=np.array([0]),
        mmse=np.array([[0.0] * 3, [4.0, 1.0, 0.25]]),
        variances=[4.0, 1.0, 0.25],
    )
    assert found == pytest.approx([(0.5 + 0.5 + 0.25) / 3])


@pytest.mark.parametrize("seed", range(3))
def test_shaped_limit_is_the_convex_optimum(seed: int) -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    path = NoisePath.stable_diffusion(4)
    variances, shares = np.array([2.5, 0.8, 0.1]), np.array([0.3, 0.3, 0.4])
    variances = variances / (variances @ shares)
    mmse, bits = gaussian_mmse(path, variances), rng.uniform(0.1, 0.8, 6)

    def error(rates: np.ndarray) -> float:
        left = variances
        for slot, row in enumerate(rates.reshape(6, 3)):
            floor = mmse[max(4 - slot, 0)]
            left = floor + (left - floor) * 4.0**-row
        return float(left @ shares)

    optimum = minimize(
        error,
        np.repeat(bits, 3),
        bounds=[(0.0, None)] * 18,
        constraints={"type": "eq", "fun": lambda rates: rates.reshape(6, 3) @ shares - bits},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert optimum.success
    found = sequential_limit(
        bits[None] * 10,
        latent_size=10,
        uplink=np.array([0]),
        mmse=mmse,
        variances=variances,
        weights=shares,
    )
    assert found == pytest.approx([optimum.fun], rel=5e-4)


def test_shape_lowers_the_limit() -> None:
    variances, weights = np.unique(natural_spectrum(16, 16), return_counts=True)
    limit = partial(sequential_limit, np.full((1, 60), 256.0), latent_size=1024, uplink=np.array([2]))
    shaped = limit(mmse=gaussian_mmse(PATH, variances), variances=variances, weights=weights)
    assert shaped < limit(mmse=gaussian_mmse(PATH))


def test_mmse_is_the_sources_own_one_step_later() -> None:
    source = GaussianSource.natural((1, 8, 8), PATH)
    mmse = gaussian_mmse(PATH, natural_spectrum(8, 8).ravel()).mean(axis=1)
    # A source's estimate that comes with x_t was made from x_(t+1).
    assert source.mmse[:-1] == pytest.approx(mmse[1:], rel=1e-12)
    assert gaussian_mmse(PATH) == pytest.approx(1.0 - PATH.alpha_bar)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates_bits": np.ones(4)}, "rates_bits has shape"),
        ({"rates_bits": np.full((1, 4), np.inf)}, "non-finite"),
        ({"rates_bits": -np.ones((1, 4))}, "negative"),
        ({"uplink": np.array([1, 2])}, "uplink"),
        ({"mmse": np.array([1.0, 0.0])}, "nor rise"),
        ({"variances": 0.5}, "must not exceed"),
        ({"variances": np.ones(2)}, "one number per band"),
        ({"weights": 0.0}, "weights is 0.0"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "rates_bits": np.ones((1, 4)),
        "latent_size": 4,
        "uplink": np.array([1]),
        "mmse": np.array([0.0, 0.9]),
    }
    with pytest.raises(ParameterError, match=message):
        sequential_limit(**{**arguments, **changes})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="variances is 0"):
        gaussian_mmse(PATH, 0.0)


def best_schedule(scenario: Scenario, rates: list[float]) -> float:
    """Every schedule tried, slot by slot."""
    total = np.cumsum(rates)
    if total[-1] < scenario.uplink_bits:
        return float(diffusion_distortion(scenario.path, scenario.num_steps))
    uplink = int(np.argmax(total >= scenario.uplink_bits)) + 1

    def best(slot: int, reference: int, distortion: float) -> float:
        if slot > len(rates):
            return distortion
        found = best(slot + 1, reference, distortion)
        step = scenario.num_steps - min(slot - uplink - 1, scenario.num_steps)
        if step < reference:
            for bits in scenario.bit_levels:
                carried = np.cumsum(rates[slot - 1 :]) >= scenario.latent_size * bits
                if carried.any():
                    after = float(total_distortion(scenario.path, step, reference, bits))
                    found = min(found, best(slot + int(np.argmax(carried)) + 1, step, after))
        return found

    start = float(diffusion_distortion(scenario.path, scenario.num_steps))
    return best(uplink + 1, scenario.num_steps, start)


@given(
    num_steps=st.integers(1, 5),
    deadline_slots=st.integers(3, 7),
    levels=st.sampled_from([(1, 3), (2, 5, 16), (3, 4), (1, 2, 4)]),
    rates=st.lists(st.floats(0.0, 60.0), min_size=7, max_size=7),
)
def test_clairvoyant_is_the_best_of_all_schedules(
    num_steps: int, deadline_slots: int, levels: tuple[int, ...], rates: list[float]
) -> None:
    scenario = Scenario(
        latent_size=10,
        num_steps=num_steps,
        deadline_slots=deadline_slots,
        uplink_bits=20,
        bit_levels=levels,
        snr_db=0.0,
    )
    rates = rates[:deadline_slots]
    found = clairvoyant_distortion(scenario, np.array([rates]))
    assert found == pytest.approx([best_schedule(scenario, rates)], rel=1e-12)


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 6.0, 15.0])
def test_no_policy_beats_clairvoyance(snr_db: float) -> None:
    scenario = Scenario.paper(snr_db=snr_db)
    rates = episode_rates(RateLaw.prepare(scenario.link), 60, seed=1, block=0, count=200)
    bound = clairvoyant_distortion(scenario, rates) * (1.0 - 1e-12)
    policies = [make_policy(name, scenario) for name in policy_names(scenario)]
    for block in model_block(scenario, policies, rates):
        assert np.all(bound <= block.values["latent_mse"]), block.policy
    limit = sequential_limit(
        rates, latent_size=16384, uplink=uplink_slots(rates, 8192), mmse=gaussian_mmse(PATH)
    )
    assert limit.mean() < bound.mean()


def test_clairvoyant_checks_its_rates() -> None:
    scenario = Scenario.paper(snr_db=0.0)
    with pytest.raises(ParameterError, match=r"must be \(episodes, 60\)"):
        clairvoyant_distortion(scenario, np.ones((3, 59)))
    with pytest.raises(ParameterError, match="'panter-dite' or 'lloyd-max'"):
        clairvoyant_distortion(scenario, np.ones((3, 60)), base="shannon")  # type: ignore[arg-type]
    assert clairvoyant_distortion(scenario, np.ones((0, 60))).shape == (0,)
