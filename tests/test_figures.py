"""Figures: their numbers, their look, the same bytes for the same data, and what a damaged study says."""

import io
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from finished_study import POLICIES, Recorded, decode, write_study
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.errors import ParameterError
from latentcast.study.figures import style
from latentcast.study.figures.curves import read_curves
from latentcast.study.figures.deadline import draw_deadline, plot_latent_mse
from latentcast.study.figures.measure import measure_validation
from latentcast.study.figures.validation import draw_validation, plot_quantization


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "fig3"
    write_study(folder)
    return folder


# Curves


def test_curves_are_means_with_students_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.stats import t

    columns = write_study(tmp_path / "study")
    # Batches that end within a group, so that moments are merged.
    monkeypatch.setattr("latentcast.study.figures.curves._BATCH_ROWS", 37)
    seen: list[tuple[int, int]] = []
    curves = read_curves(tmp_path / "study", progress=lambda done, total: seen.append((done, total)))
    assert curves.policies == POLICIES
    assert curves.snr_db == (0.0, 10.0, 20.0)
    assert curves.metrics == ("psnr_db", "flip")
    assert seen[-1] == (750, 750)
    rows = (columns["snr_db"] == 10.0) & (columns["policy"] == "persistent-4")
    for name in ("latent_mse", "flip"):
        values = columns[name][rows]
        mean, half_width = curves.policy(name, "persistent-4")
        assert mean[1] == pytest.approx(values.mean(), rel=1e-12)
        interval = t.interval(0.95, 49, values.mean(), values.std(ddof=1) / 50**0.5)
        assert half_width[1] == pytest.approx(interval[1] - values.mean(), rel=1e-9)
    shown = columns["first_slot"][rows] > 0
    assert curves.policy("shown", "persistent-4")[0][1] == pytest.approx(shown.mean())
    # The slot of the first picture is averaged over the episodes that had one.
    assert curves.policy("first_slot", "persistent-4")[0][1] == pytest.approx(9.0)


def test_curves_keep_small_spreads_of_large_numbers(tmp_path: Path) -> None:
    write_study(tmp_path / "study", episodes=4)
    table = pq.read_table(tmp_path / "study" / "episodes.parquet")
    values = 1e9 + np.tile([0.0, 1.0, 2.0, 3.0], 15)
    index = table.column_names.index("bits_sent")
    pq.write_table(
        table.set_column(index, "bits_sent", pa.array(values)), tmp_path / "study" / "episodes.parquet"
    )
    _, half_width = read_curves(tmp_path / "study").policy("bits_sent", "lookahead")
    assert half_width[0] == pytest.approx(3.182446 * np.std([0, 1, 2, 3], ddof=1) / 2, rel=1e-6)


def test_a_missing_combination_is_nan(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    table = pq.read_table(tmp_path / "study" / "episodes.parquet")
    pq.write_table(table.slice(0, 700), tmp_path / "study" / "episodes.parquet")
    mean, _ = read_curves(tmp_path / "study").policy("latent_mse", "final-only")
    assert np.isnan(mean[2])
    assert np.isfinite(mean[:2]).all()


def test_what_is_no_finished_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no finished study, it has no episodes\.parquet"):
        draw_deadline(tmp_path)
    write_study(tmp_path, drop="predicted_mse")
    with pytest.raises(ParameterError, match="lacks predicted_mse; make the study anew"):
        draw_deadline(tmp_path)
    (tmp_path / "episodes.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ParameterError, match="cannot read"):
        draw_deadline(tmp_path)
    write_study(tmp_path)
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(ParameterError, match=r"no provenance\.json"):
        draw_deadline(tmp_path)


# Look


def test_the_papers_policies_stay_apart_in_grey() -> None:
    styles = list(style.policy_styles(POLICIES).values())
    linear = [
        np.where(np.array(to_rgb(s.colour)) > 0.04, np.array(to_rgb(s.colour)) ** 2.2, 0) for s in styles
    ]
    lightness = sorted(116 * (rgb @ [0.2126, 0.7152, 0.0722]) ** (1 / 3) - 16 for rgb in linear)
    assert np.diff(lightness).min() > 6.0
    assert lightness[-1] < 75.0  # and from the paper
    assert len({s.marker for s in styles}) == len({str(s.dashes) for s in styles}) == len(styles)


def test_styles_do_not_depend_on_who_else_is_there() -> None:
    alone, together = style.policy_styles(["final-only"]), style.policy_styles(POLICIES)
    assert alone["final-only"] == together["final-only"]
    assert len(set(style.policy_styles([f"scheme-{number}" for number in range(8)]).values())) == 8


def test_figures_fit_a_column_and_hide_nothing(study: Path) -> None:
    curves = read_curves(study)
    with style.figure_style():
        figure, (axes,) = style.new_figure(2.6)
        plot_latent_mse(axes, curves)
        figure.draw_without_rendering()
        assert figure.get_figwidth() == 3.5
        legend = axes.get_legend()
        assert legend is not None
        box = legend.get_window_extent()
        assert [text.get_text() for text in legend.get_texts()][:2] == ["Look-ahead", "Persistent-3 bit"]
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert box.y0 >= axes.get_window_extent().y1
        assert axes.get_yscale() == "log"
        # The mean of zero stands on the lower edge.
        assert axes.get_lines()[0].get_ydata()[-1] == axes.get_ylim()[0]  # type: ignore[index]


def test_ours_comes_first_and_in_front_with_bounds_behind(tmp_path: Path) -> None:
    names = ("progressive", *POLICIES, "optimal")
    write_study(tmp_path / "study", policies=names, bounds=("limit_mse", "clairvoyant_mse"))
    curves = read_curves(tmp_path / "study")
    assert list(style.policy_styles(names)) == list(names)
    with style.figure_style():
        figure, (axes,) = style.new_figure(2.74)
        plot_latent_mse(axes, curves)
        figure.draw_without_rendering()
        legend = axes.get_legend()
        assert legend is not None
        labels = [text.get_text() for text in legend.get_texts()]
        assert (labels[0], labels[-2:]) == ("Progressive (ours)", ["Gaussian limit", "Clairvoyant"])
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert max(lines, key=lambda label: lines[label].get_zorder()) == "Progressive (ours)"
        assert max(lines, key=lambda label: lines[label].get_linewidth()) == "Progressive (ours)"
        assert lines["Gaussian limit"].get_ydata()[1] == pytest.approx(1e-5)  # type: ignore[index]
        boxes = [text.get_window_extent() for text in legend.get_texts()]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_labels_beside_the_lines_neither_touch_nor_leave_the_page() -> None:
    # (20, 5) and (50, 25) have nearly the same variance.
    validation = measure_validation(Recorded(2), pairs=[(40, 20), (50, 25), (20, 5)], bits=[1, 5, 10])
    with style.figure_style():
        figure, (axes,) = style.new_figure(2.45)
        plot_quantization(axes, validation)
        figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert len(boxes) == 4
        assert all(low.y1 <= high.y0 + 1.0 for low, high in pairwise(boxes))
        assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_the_same_data_gives_the_same_bytes_and_leaves_settings_alone(study: Path, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    first = draw_deadline(study, tmp_path / "a", quantile=0.9)
    second = draw_deadline(study, tmp_path / "b", quantile=0.9)
    assert list(first) == ["fig3a", "fig3b", "fig3b-psnr", "calibration"]
    for name, paths in first.items():
        assert [path.suffix for path in paths] == [".svg", ".pdf", ".png"]
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in second[name]]
    assert dict(mpl.rcParams) == before
    svg, pdf, png = (path.read_bytes() for path in first["fig3a"])
    assert b"<text" not in svg  # the fonts are outlines
    assert b"dc:date" not in svg
    assert b"/FontFile2" in pdf or b"/TrueType" in pdf or b"/Type0" in pdf
    assert b"/Type3" not in pdf
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (1050, 780)


def test_a_study_without_pictures_has_no_fig3b(tmp_path: Path) -> None:
    write_study(tmp_path / "study", pictures=())
    assert list(draw_deadline(tmp_path / "study")) == ["fig3a", "calibration"]


# Fig. 2


def test_prediction_holds_on_the_white_source(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    recorded = Recorded(6)
    validation = draw_validation(
        recorded, tmp_path, decode=decode, num_pictures=2, progress=lambda *at: seen.append(at)
    )
    assert seen == [(done, 6) for done in range(1, 7)]
    # A mean of 6 x 1024 squares of Gaussians is known to sqrt(2 / 6144) = 2 %; at t = T noise is 2 from x_0.
    assert validation.simulated.mean[1:50] == pytest.approx(validation.predicted[1:50], rel=0.1)
    assert validation.simulated.mean[50] == pytest.approx(2.0, rel=0.1)
    assert validation.clean.mean[10] == pytest.approx(
        GaussianSource((4, 16, 16), recorded.path).mmse[10], rel=0.1
    )
    assert validation.inverse_psnr is not None
    assert validation.inverse_psnr.count == 2
    for pair in validation.quantization:
        ratio = pair.simulated.mean / pair.predicted
        # Panter-Dite overstates the exact error by 12 % at 4 bits and under 1 % at 8.
        assert ratio[3] == pytest.approx(1 / 1.12, rel=0.1)
        assert ratio[7] == pytest.approx(1.0, rel=0.1)
        assert (pair.carried is None) == (pair.reference_step == 50)
    assert {path.name for path in tmp_path.iterdir()} == {
        "fig2.parquet", *(f"fig2{part}.{ending}" for part in "ab" for ending in style.FORMATS)
    }  # fmt: skip
    table = pq.read_table(tmp_path / "fig2.parquet").to_pydict()
    assert table["figure"].count("2a") == 4 * 51
    where = table["quantity"].index("simulated D_quant")
    assert table["mean"][where] == validation.quantization[0].simulated.mean[0]
    assert table["count"][where] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": [(20, 20)]}, r"pair \(20, 20\) is no \(t_p, t\)"),
        ({"pairs": [(51, 20)]}, r"t < t_p <= 50"),
        ({"pairs": []}, "at least one pair"),
        ({"bits": [16]}, "16 is lossless"),
    ],
)
def test_what_fig2_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        measure_validation(Recorded(1), **arguments)


def test_an_empty_recording_is_refused() -> None:
    with pytest.raises(ParameterError, match="no trajectory"):
        measure_validation(Recorded(0))
