"""The page of a study of deadlines: figures, example pictures, tables and provenance."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.study.figures.curves import Curves, read_curves, read_provenance
from latentcast.study.figures.deadline import METRIC_ORDER, draw_curves
from latentcast.study.figures.examples import ExampleEpisode, Picture
from latentcast.study.figures.page import (
    Section,
    data_uri,
    figures_list,
    number,
    provenance_list,
    scrolling,
    table,
    write_page,
)
from latentcast.study.figures.style import policy_label
from latentcast.study.metrics.catalog import METRICS
from latentcast.study.output import OutputFolder
from latentcast.study.runner.versus import LEVELS, Saving, Verdict, savings, verdicts

__all__ = ["write_report"]

FloatArray = npt.NDArray[np.float64]

# A phone's width in its own pixels is about this; larger pictures only make the file heavy.
_LONGEST_SIDE = 256

_CAPTIONS = {
    "fig2a": "Distortion of the intermediate samples: predicted by eq. 9 and simulated.",
    "fig2b": "Quantisation distortion: predicted by eq. 10 (lines) and simulated with the real codec.",
    "fig3a": "Latent MSE at the deadline against SNR. Bands are 95 % confidence intervals; a mean "
    "below the lower edge stands on it. Thin lines are bounds: the "
    "Gaussian limit is the sequential rate-distortion limit of a Gaussian source with the variances and "
    "errors of this one; the clairvoyant bound is that of the paper's codec with all rates known.",
    "fig3b": "Quality of the picture shown at the deadline against SNR.",
    "calibration": "Predicted and measured error of what is held at the deadline, one mark per SNR; and the "
    "share of transfers that took longer than the predicted latency quantile. Dashed: a perfect prediction.",
}


def write_report(
    study: str | Path,
    *,
    title: str | None = None,
    examples: Sequence[ExampleEpisode] = (),
    figures: Sequence[str | Path] = (),
    summary: Sequence[dict[str, Any]] = (),
    quantile: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a finished study's figures and write `report.html` beside them.

    Args:
        study: Folder of a finished study; the figures go there too.
        title: Heading of the page; None for the folder's name.
        examples: Example pictures; see `make_examples`.
        figures: Further SVG files to show first, such as those of Fig. 2.
        summary: The study's, for the comparison of the first policy with the others; empty for none.
        quantile: q of the study's latency quantile, to mark in the calibration figure.
        progress: Called with rows read and rows in all.

    Returns:
        The page.

    Raises:
        ParameterError: If the folder is no finished study, or a file is damaged.
        OutputError: If the folder cannot be written.
    """
    study = Path(study)
    provenance = read_provenance(study)
    curves = read_curves(study, progress=progress)
    folder = OutputFolder(study)
    drawn = draw_curves(curves, folder, quantile)
    vectors = [Path(path) for path in figures] + [paths[0] for paths in drawn.values()]
    sections = [Section("figures", "Figures", figures_list({path: _caption(path) for path in vectors}))]
    if len(curves.policies) > 1 and summary:
        title_against = f"{policy_label(curves.policies[0])} against the others"
        sections.append(Section("against", title_against, _against(summary)))
    if examples:
        sections.append(Section("pictures", "Pictures at the deadline", "".join(map(_example, examples))))
    sections.append(Section("tables", "Tables", "".join(_tables(curves))))
    sections.append(Section("provenance", "Provenance", provenance_list(provenance)))
    return write_page(folder, title or study.resolve().name, _lead(curves), sections)


def _caption(path: Path) -> str:
    name, _, metric = path.stem.partition("-")
    return _CAPTIONS.get(name, path.stem) + (f" In {METRICS[metric].label}." if metric in METRICS else "")


def _lead(curves: Curves) -> str:
    counts = curves.count["latent_mse"]
    return (
        f"{len(curves.policies)} policies on common channel draws, {len(curves.snr_db)} SNRs from "
        f"{curves.snr_db[0]:g} to {curves.snr_db[-1]:g} dB, {int(np.nanmax(counts)):,} episodes each."
    )


def _example(example: ExampleEpisode) -> str:
    policies = list(dict.fromkeys(item.policy for item in example.shown))
    snrs = list(dict.fromkeys(item.snr_db for item in example.shown))
    by_place = {(item.policy, item.snr_db): item for item in example.shown}
    rows = []
    for policy in policies:
        cells = []
        for snr_db in snrs:
            item = by_place[policy, snr_db]
            alternative = f"{policy_label(policy)} at {snr_db:g} dB"
            cells.append(
                f"<td>{_picture(item.picture, alternative)}"
                f"<small>t = {item.held_step}, MSE {item.latent_mse:.2g}</small></td>"
            )
        rows.append(f'<tr><th scope="row">{escape(policy_label(policy))}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{snr_db:g} dB</th>' for snr_db in snrs)
    return (
        f"<h3>Episode {example.episode}: {escape(example.prompt)}</h3>\n"
        f'<figure class="wanted">{_picture(example.wanted, "the picture of the final latent")}'
        "<figcaption>The picture of x<sub>0</sub>, as unlimited time delivers it.</figcaption></figure>\n"
        + scrolling(
            f'<table class="pictures"><caption>Shown at the deadline; below each, the step that the device '
            f"held and its latent MSE.</caption><thead><tr><td></td>{heads}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>",
            f"Pictures of episode {example.episode}",
        )
    )


def _tables(curves: Curves) -> Iterator[str]:
    def measured(column: str, caption: str, factor: float = 1.0) -> str:
        return _table(curves, caption, factor * curves.mean[column], factor * curves.half_width[column])

    yield "<p>Means over the episodes; ± is the half width of a 95 % confidence interval.</p>\n"
    yield measured("latent_mse", "Latent MSE at the deadline")
    for name in METRIC_ORDER:
        kind = METRICS[name]
        if kind.column in curves.metrics:
            yield measured(kind.column, f"{kind.label} at the deadline; {kind.direction} is better")
    yield measured("shown", "Episodes whose device had anything to show, in %", 100.0)
    if "first_slot" in curves.mean:
        yield measured("first_slot", "Slot of the first picture, among those episodes")
    yield measured("bits_sent", "Refinements delivered by the deadline, in kbit", 1e-3)
    for caption, upper, lower, factor in (
        ("Measured over predicted latent MSE", "latent_mse", "predicted_mse", 1.0),
        ("Slots taken over predicted latency quantile", "actual_slots", "quantile_slots", 1.0),
        ("Transfers that took longer than the quantile, in %", "late_transfers", "judged_transfers", 100.0),
    ):
        yield _table(curves, caption, factor * curves.ratio(upper, lower), None)


def _table(curves: Curves, caption: str, mean: FloatArray, half_width: FloatArray | None) -> str:
    spread = np.full(mean.shape, np.nan) if half_width is None else half_width
    rows = [
        [
            f"{snr_db:g}",
            *(
                number(value, None if half_width is None else error)
                for value, error in zip(mean[:, at].tolist(), spread[:, at].tolist(), strict=True)
            ),
        ]
        for at, snr_db in enumerate(curves.snr_db)
    ]
    return table(caption, ["SNR (dB)", *map(policy_label, curves.policies)], rows)


def _against(summary: Sequence[dict[str, Any]]) -> str:
    saved, found = savings(summary), verdicts(summary)
    policies = list(dict.fromkeys([*(s.policy for s in saved), *(v.policy for v in found)]))
    by_level = {(s.policy, s.latent_mse): s for s in saved}
    by_quantity = {(v.policy, v.quantity): v for v in found}
    labels = {kind.column: kind.label for kind in METRICS.values()} | {"latent_mse": "Latent MSE"}
    levels = [level for level in LEVELS if any((policy, level) in by_level for policy in policies)]
    quantities = list(dict.fromkeys(v.quantity for v in found))
    return table(
        "SNR saved at equal latent MSE, in dB; interpolated between the study's SNRs, with ≥ where one of "
        "the two lies beyond them",
        ["Latent MSE", *map(policy_label, policies)],
        [[f"{level:g}", *(_saved(by_level.get((policy, level))) for policy in policies)] for level in levels],
    ) + table(
        "SNRs at which it is better / equal / worse, by 95 % intervals of paired differences",
        ["Quantity", *map(policy_label, policies)],
        [
            [labels[name], *(_verdict(by_quantity.get((policy, name))) for policy in policies)]
            for name in quantities
        ],
    )


def _saved(saving: Saving | None) -> str:
    return "–" if saving is None else f"{'≥ ' if saving.at_least else ''}{saving.saved_db:.1f}"


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    worse = f" ({', '.join(f'{snr_db:g}' for snr_db in verdict.worse)} dB)" if verdict.worse else ""
    return f"{len(verdict.better)} / {len(verdict.equal)} / {len(verdict.worse)}{worse}"


def _picture(picture: Picture, alternative: str) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return (
        f'<img src="{data_uri("image/jpeg", buffer.getvalue())}" width="{image.width}" '
        f'height="{image.height}" alt="{escape(alternative)}">'
    )
