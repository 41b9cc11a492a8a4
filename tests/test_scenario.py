import json
import math

import numpy as np
import pytest

from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError
from latentcast.scenario import Scenario


def test_papers_values() -> None:
    scenario = Scenario.paper(snr_db=3.0)
    assert scenario.to_dict() == {
        "latent_size": 16384,
        "num_steps": 50,
        "deadline_slots": 60,
        "uplink_bits": 8192,
        "bit_levels": [3, 4, 8, 10, 16],
        "quantile": 0.9,
        "num_subchannels": 60,
        "symbols_per_slot": 70.0,
        "snr_db": 3.0,
        "snr_reference": "subchannel",
    }
    assert scenario.link.snr_db == 3.0
    assert scenario.path == NoisePath.stable_diffusion(50)


def test_link_follows_the_scenario() -> None:
    scenario = Scenario(
        snr_db=1.0, num_subchannels=4, symbols_per_slot=2.0, snr_reference="total", num_steps=7
    )
    link = scenario.link
    assert (link.num_subchannels, link.symbols_per_slot, link.snr_reference) == (4, 2.0, "total")
    assert scenario.path.num_steps == 7


@pytest.mark.parametrize("latent_size", [1, 1024, 1025, 16384, 65536])
def test_scaled_scenario_keeps_bits_per_dimension(latent_size: int) -> None:
    paper = Scenario.paper(snr_db=0.0)
    scaled = Scenario.for_latent(latent_size, snr_db=0.0)
    scale = latent_size / 16384
    assert scaled.link.mean_rate_bits == pytest.approx(paper.link.mean_rate_bits * scale)
    assert scaled.uplink_bits == pytest.approx(8192 * scale)
    assert Scenario.for_latent(16384, snr_db=0.0) == paper


def test_changes_win_over_the_scaled_values() -> None:
    scenario = Scenario.for_latent(1024, snr_db=0.0, uplink_bits=100, deadline_slots=30)
    assert (scenario.uplink_bits, scenario.deadline_slots, scenario.symbols_per_slot) == (100, 30, 4.375)


def test_a_scenario_survives_json() -> None:
    scenario = Scenario(snr_db=np.float32(1.5), latent_size=np.int64(64), bit_levels=np.array([2, 16]))  # type: ignore[arg-type]
    again = Scenario(**json.loads(json.dumps(scenario.to_dict())))
    assert again == scenario
    assert hash(again) == hash(scenario)
    assert again.bit_levels == (2, 16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("snr_db", math.nan),
        ("snr_db", math.inf),
        ("snr_db", -61.0),
        ("snr_db", 100.5),
        ("snr_db", None),
        ("latent_size", 0),
        ("latent_size", 10.0),
        ("latent_size", True),
        ("num_steps", 0),
        ("num_steps", 1001),
        ("deadline_slots", 2),
        ("deadline_slots", math.nan),
        ("deadline_slots", 10**9),
        ("uplink_bits", 0),
        ("uplink_bits", math.nan),
        ("uplink_bits", math.inf),
        ("uplink_bits", 10**400),
        ("quantile", 0.0),
        ("quantile", 1.0),
        ("quantile", math.nan),
        ("num_subchannels", 0),
        ("symbols_per_slot", -1.0),
        ("snr_reference", "both"),
        ("bit_levels", ()),
        ("bit_levels", (3, 3)),
        ("bit_levels", (4, 3)),
        ("bit_levels", (0, 3)),
        ("bit_levels", (3, 17)),
        ("bit_levels", (3.0,)),
        ("bit_levels", "34"),
        ("bit_levels", 3),
    ],
)
def test_bad_values_are_refused_with_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{name} is ") as caught:
        Scenario.paper(**{"snr_db": 0.0, name: value})  # type: ignore[arg-type]
    assert str(value) in str(caught.value)


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(ParameterError, match="no attribute 'deadline'; it has latent_size"):
        Scenario.paper(snr_db=0.0, deadline=60)
    with pytest.raises(ParameterError, match="latent_size is -1"):
        Scenario.for_latent(-1, snr_db=0.0)
