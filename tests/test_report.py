"""The report: one file that needs nothing else, well formed, and honest about what it was given."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from finished_study import Recorded, decode, write_study
from latentcast.delivery.deliver import deliver
from latentcast.errors import ParameterError
from latentcast.link.law import RateLaw
from latentcast.policy.base import Policy
from latentcast.policy.catalog import make_policy
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import episode_rates
from latentcast.study.figures.examples import make_examples
from latentcast.study.figures.report import write_report

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks nesting and collects what matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def policies(scenario: Scenario) -> list[Policy]:
    return [make_policy(name, scenario) for name in ("lookahead", "final-only")]


def scenario() -> Scenario:
    return Scenario.for_latent(1024, snr_db=0.0)


def test_examples_are_episodes_of_the_study() -> None:
    recording, sizes = Recorded(2), []

    def counting(latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        sizes.append(len(latents))
        return decode(latents)

    seen: list[tuple[int, int]] = []
    made = make_examples(
        recording,
        scenario(),
        policies,
        [0.0, 12.0],
        decode=counting,
        seed=7,
        episodes=(0, 3),
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(1, 2), (2, 2)]
    assert sizes == [5, 5]  # x_0 and four devices, decoded together
    shown = made[1].shown
    assert [(item.snr_db, item.policy) for item in shown] == [
        (snr_db, name) for snr_db in (0.0, 12.0) for name in ("lookahead", "final-only")
    ]
    # Episode 3 delivers trajectory 3 mod 2 over the study's own rates.
    setting = Scenario.for_latent(1024, snr_db=12.0)
    rates = episode_rates(RateLaw.prepare(setting.link), 60, seed=7, block=0)[3]
    trajectory = recording.trajectory(1)
    timeline = deliver(trajectory, setting, make_policy("lookahead", setting), rates_bits=rates)
    assert shown[2].latent_mse == timeline.latent_mse
    assert np.array_equal(shown[2].picture, decode(timeline.held[-1].latent[None])[0])
    assert np.array_equal(made[1].wanted, decode(trajectory.samples[:1])[0])


@pytest.mark.parametrize(("snrs", "episodes"), [([], (0,)), ([0.0], ()), ([0.0], (-1,))])
def test_what_examples_refuse(snrs: Sequence[float], episodes: Sequence[int]) -> None:
    with pytest.raises(ParameterError, match="examples need SNRs, episodes of 0 or more"):
        make_examples(Recorded(1), scenario(), policies, snrs, decode=decode, seed=0, episodes=episodes)


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_study(study)
    examples = make_examples(Recorded(1), scenario(), policies, [0.0], decode=decode, seed=0, episodes=(0,))
    path = write_report(study, title="A <study> & more", examples=examples)
    assert path == study / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.attributes:
        assert tag not in {"script", "iframe", "link"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
        if tag == "img":
            assert attributes["alt"]
    assert not re.search(r"url\(|@import|https?:", re.sub(r'"data:[^"]*"', "", text))
    assert sum(tag == "img" for tag, _ in page.attributes) == 4 + 3  # four figures, x_0 and two devices
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.attributes
    assert "A <study> & more" in page.words
    assert "50 episodes each" in page.words
    assert "versions.numpy" in page.words
    targets = {attributes["href"] for tag, attributes in page.attributes if tag == "a"}
    anchors = {f"#{attributes['id']}" for _, attributes in page.attributes if "id" in attributes}
    assert targets == anchors
    # The same study gives the same page.
    before = path.read_bytes()
    assert write_report(study, title="A <study> & more", examples=examples).read_bytes() == before


def test_tables_hold_the_means(tmp_path: Path) -> None:
    study = tmp_path / "study"
    columns = write_study(study, pictures=())
    words = Page(write_report(study).read_text(encoding="utf-8")).words
    rows = (columns["snr_db"] == 0.0) & (columns["policy"] == "persistent-8")
    values = columns["latent_mse"][rows]
    half_width = 2.009575 * values.std(ddof=1) / 50**0.5
    digits = 1 - int(np.floor(np.log10(half_width)))
    assert f"{values.mean():.{digits}f} ± {half_width:.{digits}f}" in words
    assert "PSNR" not in words
    assert all(label in words for label in ("Look-ahead", "Persistent-8 bit"))


def test_the_first_policy_is_set_against_the_others(tmp_path: Path) -> None:
    write_study(tmp_path / "study", pictures=())

    def row(policy: str, snr_db: float, mean: float, low: float | None, high: float | None) -> dict[str, Any]:
        known = {"policy": policy, "snr_db": snr_db, "quantity": "latent_mse", "mean": mean}
        return known | {"pairs": 0 if low is None else 9, "difference_low": low, "difference_high": high}

    summary = [row("lookahead", 0, 0.1, None, None), row("lookahead", 10, 0.001, None, None)]
    summary += [row("final-only", 0, 1.0, 0.1, 0.2), row("final-only", 10, 0.01, -0.2, -0.1)]
    text = write_report(tmp_path / "study", summary=summary).read_text(encoding="utf-8")
    words = Page(text).words
    assert "Look-ahead against the others" in words
    assert "≥ 1.5" in words
    assert "1 / 0 / 1 (10 dB)" in words


def test_a_missing_figure_is_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    with pytest.raises(ParameterError, match=r"cannot read figure .*fig2a\.svg.*draw it first"):
        write_report(tmp_path, figures=[tmp_path / "fig2a.svg"])
