"""One look for all figures: a column of an IEEE paper, legible in grey, the same bytes for the same data.

Only matplotlib's objects are used, never pyplot and its state. Two series differ in luminance, dashes and
marker at once, so that a figure survives a grey printer and readers who see few colours.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from latentcast.study.output import OutputFolder

__all__ = [
    "BOUNDS",
    "COLUMN_INCHES",
    "FORMATS",
    "INK",
    "LEGEND",
    "MUTED",
    "OURS",
    "STYLES",
    "SeriesStyle",
    "figure_style",
    "new_figure",
    "policy_label",
    "policy_styles",
    "save_figure",
]

COLUMN_INCHES = 3.5
"""Width of one column of an IEEE paper."""

FORMATS = ("svg", "pdf", "png")

INK = "#1b1f24"
MUTED = "#68707a"

_PNG_DPI = 300

# STIX is cut like Times, comes with matplotlib, and so needs no font of the machine. Type 42 puts the font
# into the PDF as outlines (Type 3 is refused by IEEE); SVG gets outlines, as browsers would substitute fonts.
_RC: Any = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dfe3e7",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "latentcast",
    "path.simplify": False,
}

# Neither dates nor versions, so that the same data gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}

LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0.0, 1.01, 1.0, 0.1),
    "mode": "expand",
    "borderaxespad": 0.0,
    "handlelength": 2.7,
    "handletextpad": 0.5,
    "columnspacing": 1.0,
    "labelspacing": 0.3,
}
"""Arguments of a legend above the axes, where it covers no data and is never cut off."""


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn.

    Attributes:
        colour: Of line, marker and band.
        dashes: matplotlib's line style.
        marker: matplotlib's marker.
        hollow: Whether the marker is an outline.
        width: Line width in points.
    """

    colour: str
    dashes: Any
    marker: str
    hollow: bool = False
    width: float = 1.2

    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "linestyle": self.dashes,
            "linewidth": self.width,
            "marker": self.marker,
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.9 if self.hollow else 0.5,
        }


OURS = SeriesStyle("#c4156b", "solid", "*", width=2.0)
"""The progressive scheme: the widest line, and above all others."""

STYLES: tuple[SeriesStyle, ...] = (
    SeriesStyle("#12264f", (0, (7.0, 1.2)), "o"),
    SeriesStyle("#9c1f2e", (0, (5.0, 1.6)), "s"),
    SeriesStyle("#2b7bb3", (0, (5.0, 1.4, 1.2, 1.4)), "^"),
    SeriesStyle("#cc7420", (0, (2.2, 1.3)), "D", hollow=True),
    SeriesStyle("#86a391", (0, (1.0, 1.1)), "v", width=1.4),
    SeriesStyle("#5b3a86", (0, (8.0, 2.0)), "P"),
    SeriesStyle("#3f6b35", (0, (6.0, 1.4, 1.2, 1.4, 1.2, 1.4)), "X"),
    SeriesStyle("#b0568f", (0, (3.0, 2.5)), "h", hollow=True),
)
"""Distinct styles, the first five in luminances that stay apart in grey."""

BOUNDS: dict[str, tuple[str, Any]] = {
    "limit_mse": ("Gaussian limit", "solid"),
    "clairvoyant_mse": ("Clairvoyant", (0, (1.0, 1.0))),
}
"""Label and dashes of each bound; thin lines without marks."""

_PAPER_POLICIES = ("lookahead", "persistent-3", "persistent-4", "persistent-8", "final-only")


_LABELS = {
    "progressive": "Progressive (ours)",
    "lookahead": "Look-ahead",
    "final-only": "Final-Only",
    "optimal": "Optimal",
}


def policy_label(policy: str) -> str:
    """A policy's name as the paper writes it; other names stay as they are.

    Example:
        >>> policy_label("persistent-3"), policy_label("final-only"), policy_label("my-scheme")
        ('Persistent-3 bit', 'Final-Only', 'my-scheme')
    """
    bits = policy.removeprefix("persistent-")
    if bits != policy and bits.isdigit():
        return f"Persistent-{bits} bit"
    return _LABELS.get(policy, policy)


def policy_styles(policies: Sequence[str]) -> dict[str, SeriesStyle]:
    """A style for every policy: ours and the paper's have fixed ones, others take what is free, in order.

    Beyond eight policies styles repeat.

    Example:
        >>> styles = policy_styles(["lookahead", "mine", "persistent-3"])
        >>> styles["lookahead"].marker, styles["persistent-3"].marker, styles["mine"].marker
        ('o', 's', '^')
    """
    styles = {name: STYLES[_PAPER_POLICIES.index(name)] for name in policies if name in _PAPER_POLICIES}
    styles |= {name: OURS for name in policies if name == "progressive"}
    free = [style for style in STYLES if style not in styles.values()] or list(STYLES)
    others = [name for name in policies if name not in styles]
    styles.update({name: free[number % len(free)] for number, name in enumerate(others)})
    return {name: styles[name] for name in policies}


@contextmanager
def figure_style() -> Iterator[None]:
    """Make and save figures inside this; matplotlib's settings are as before afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def new_figure(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of one paper column with axes side by side; call it inside `figure_style`.

    Args:
        height: Inches.
        columns: Number of axes.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(COLUMN_INCHES, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def save_figure(figure: Figure, out: OutputFolder, name: str) -> list[Path]:
    """Write a figure as SVG, PDF and PNG; the same data gives the same bytes.

    Args:
        figure: Made inside `figure_style`; call this inside it too.
        out: Where to.
        name: File name without its ending.

    Returns:
        The three files.

    Raises:
        OutputError: If a file cannot be written.
    """
    files = []
    for ending in FORMATS:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, dpi=_PNG_DPI, metadata=_METADATA[ending])
        files.append(out.write_bytes(f"{name}.{ending}", buffer.getvalue()))
    return files
