"""Pieces of a page for one study: sections, figures, tables and provenance, in a file that needs no other.

The page asks no other host for anything: figures and pictures are data URIs, styles are inside.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from latentcast.errors import ParameterError
from latentcast.study.output import OutputFolder

__all__ = [
    "Section",
    "data_uri",
    "figures_list",
    "number",
    "provenance_list",
    "scrolling",
    "table",
    "write_page",
]


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; the anchor is its address."""

    anchor: str
    title: str
    body: str


def write_page(folder: OutputFolder, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write `report.html`.

    Raises:
        OutputError: If it cannot be written.
    """
    template = Template(files("latentcast.study.figures").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(title),
        lead=escape(lead),
        contents="".join(f'<li><a href="#{part.anchor}">{part.title}</a></li>' for part in sections),
        sections="\n".join(
            f'<section id="{part.anchor}"><h2>{part.title}</h2>\n{part.body}</section>' for part in sections
        ),
    )
    return folder.write_bytes("report.html", page.encode())


def figures_list(captions: Mapping[Path, str]) -> str:
    """SVG files with their captions.

    Raises:
        ParameterError: If a file cannot be read.
    """
    return '<div class="figures">\n' + "\n".join(map(_figure, captions, captions.values())) + "\n</div>\n"


def _figure(path: Path, caption: str) -> str:
    try:
        source = data_uri("image/svg+xml", path.read_bytes())
    except OSError as error:
        raise ParameterError(f"cannot read figure {path}: {error.strerror}; draw it first") from error
    # The caption says what the figure shows; as alternative text too it would be read twice.
    return (
        f'<figure><img src="{source}" alt="{escape(path.stem)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways on its own where it is wider than the page, by keyboard too.

    Args:
        caption: Above it.
        heads: Of the columns.
        rows: Cells as plain text; the first of a row is its head.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return scrolling(
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>",
        caption,
    )


def scrolling(content: str, label: str) -> str:
    """A table in a frame that scrolls sideways."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>\n'


def number(mean: float, half_width: float | None) -> str:
    """A mean with its interval, rounded to two digits of that; three digits where there is none.

    Example:
        >>> [number(0.11512, 0.0049), number(0.000227, 0.000043), number(100.0, 0.0), number(0.5, None)]
        ['0.1151 ± 0.0049', '(2.27 ± 0.43)e-4', '100', '0.5']
    """
    if math.isnan(mean):
        return "–"
    # A spread at the scale of rounding is none.
    if half_width is None or not half_width > 1e-9 * abs(mean):
        return f"{mean:.3g}"
    exponent = 0 if mean == 0.0 or 1e-3 <= abs(mean) < 1e6 else math.floor(math.log10(abs(mean)))
    value, spread = mean / 10.0**exponent, half_width / 10.0**exponent
    digits = max(0, 1 - math.floor(math.log10(spread)))
    text = f"{value:.{digits}f} ± {spread:.{digits}f}"
    return f"({text})e{exponent}" if exponent else text


def provenance_list(provenance: dict[str, Any]) -> str:
    """Nested values as a list of dotted names."""
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


def data_uri(kind: str, data: bytes) -> str:
    """Bytes as an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
