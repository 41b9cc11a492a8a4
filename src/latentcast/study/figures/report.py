"""One page for one study: figures, example pictures, tables and provenance, in a file of its own.

The page asks no other host for anything: figures and pictures are data URIs, styles are inside.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.errors import ParameterError
from latentcast.study.figures.curves import Curves, read_curves, read_provenance
from latentcast.study.figures.deadline import METRIC_ORDER, draw_curves
from latentcast.study.figures.examples import ExampleEpisode, Picture
from latentcast.study.figures.style import policy_label
from latentcast.study.metrics.catalog import METRICS
from latentcast.study.output import OutputFolder

__all__ = ["write_report"]

FloatArray = npt.NDArray[np.float64]

# A phone's width in its own pixels is about this; larger pictures only make the file heavy.
_LONGEST_SIDE = 256

_CAPTIONS = {
    "fig2a": "Distortion of the intermediate samples: predicted by eq. 9 and simulated.",
    "fig2b": "Quantisation distortion: predicted by eq. 10 (lines) and simulated with the real codec.",
    "fig3a": "Latent MSE at the deadline against SNR. Bands are 95 % confidence intervals; a mean of zero "
    "stands on the lower edge.",
    "fig3b": "Quality of the picture shown at the deadline against SNR.",
    "calibration": "Predicted and measured error of what is held at the deadline, one mark per SNR; and the "
    "share of transfers that took longer than the predicted latency quantile. Dashed: a perfect prediction.",
}


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    body: str


def write_report(
    study: str | Path,
    *,
    title: str | None = None,
    examples: Sequence[ExampleEpisode] = (),
    figures: Sequence[str | Path] = (),
    quantile: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a finished study's figures and write `report.html` beside them.

    Args:
        study: Folder of a finished study; the figures go there too.
        title: Heading of the page; None for the folder's name.
        examples: Example pictures; see `make_examples`.
        figures: Further SVG files to show first, such as those of Fig. 2.
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
    sections = [_Section("figures", "Figures", _figures(vectors))]
    if examples:
        sections.append(_Section("pictures", "Pictures at the deadline", "".join(map(_example, examples))))
    sections.append(_Section("tables", "Tables", "".join(_tables(curves))))
    sections.append(_Section("provenance", "Provenance", _provenance(provenance)))
    page = _template().substitute(
        title=escape(title or study.resolve().name),
        lead=escape(_lead(curves)),
        contents="".join(f'<li><a href="#{part.anchor}">{part.title}</a></li>' for part in sections),
        sections="\n".join(
            f'<section id="{part.anchor}"><h2>{part.title}</h2>\n{part.body}</section>' for part in sections
        ),
    )
    return folder.write_bytes("report.html", page.encode())


def _template() -> Template:
    return Template(files("latentcast.study.figures").joinpath("report.html").read_text(encoding="utf-8"))


def _lead(curves: Curves) -> str:
    counts = curves.count["latent_mse"]
    return (
        f"{len(curves.policies)} policies on common channel draws, {len(curves.snr_db)} SNRs from "
        f"{curves.snr_db[0]:g} to {curves.snr_db[-1]:g} dB, {int(np.nanmax(counts)):,} episodes each."
    )


def _figures(paths: Sequence[Path]) -> str:
    return '<div class="figures">\n' + "\n".join(map(_figure, paths)) + "\n</div>\n"


def _figure(path: Path) -> str:
    try:
        source = _data_uri("image/svg+xml", path.read_bytes())
    except OSError as error:
        raise ParameterError(f"cannot read figure {path}: {error.strerror}; draw it first") from error
    name, _, metric = path.stem.partition("-")
    caption = _CAPTIONS.get(name, path.stem) + (f" In {METRICS[metric].label}." if metric in METRICS else "")
    # The caption says what the figure shows; as alternative text too it would be read twice.
    return (
        f'<figure><img src="{source}" alt="{escape(path.stem)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
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
        + _scrolling(
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
    heads = "".join(f'<th scope="col">{escape(policy_label(policy))}</th>' for policy in curves.policies)
    rows = []
    for column, snr_db in enumerate(curves.snr_db):
        cells = "".join(
            f"<td>{_number(mean[row, column], None if half_width is None else half_width[row, column])}</td>"
            for row in range(len(curves.policies))
        )
        rows.append(f'<tr><th scope="row">{snr_db:g}</th>{cells}</tr>')
    return _scrolling(
        f"<table><caption>{escape(caption)}</caption>"
        f'<thead><tr><th scope="col">SNR (dB)</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        caption,
    )


def _number(mean: float, half_width: float | None) -> str:
    """A mean with its interval, rounded to two digits of that; three digits where there is none.

    Example:
        >>> [_number(0.11512, 0.0049), _number(0.000227, 0.000043), _number(100.0, 0.0), _number(0.5, None)]
        ['0.1151 ± 0.0049', '(2.27 ± 0.43)e-4', '100', '0.5']
    """
    if np.isnan(mean):
        return "–"
    # A spread at the scale of rounding is none.
    if half_width is None or not half_width > 1e-9 * abs(mean):
        return f"{mean:.3g}"
    exponent = 0 if mean == 0.0 or 1e-3 <= abs(mean) < 1e6 else math.floor(math.log10(abs(mean)))
    value, spread = mean / 10.0**exponent, half_width / 10.0**exponent
    digits = max(0, 1 - math.floor(math.log10(spread)))
    text = f"{value:.{digits}f} ± {spread:.{digits}f}"
    return f"({text})e{exponent}" if exponent else text


def _provenance(provenance: dict[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _leaves("", provenance)
    )
    return f"<dl>{items}</dl>\n"


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested objects as dotted names; lists stay whole."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _scrolling(table: str, label: str) -> str:
    """A table that scrolls sideways on its own where it is wider than the page, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{table}</div>\n'


def _picture(picture: Picture, alternative: str) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return (
        f'<img src="{_data_uri("image/jpeg", buffer.getvalue())}" width="{image.width}" '
        f'height="{image.height}" alt="{escape(alternative)}">'
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
