"""Figures and page of a study of the limit: errors beside the bound, and the distance to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latentcast.study.figures.page import Section, figures_list, number, provenance_list, table, write_page
from latentcast.study.figures.style import (
    INK,
    LEGEND,
    MUTED,
    OURS,
    STYLES,
    SeriesStyle,
    figure_style,
    new_figure,
    policy_label,
    policy_styles,
    save_figure,
)
from latentcast.study.limit import LimitRow
from latentcast.study.output import OutputFolder

__all__ = ["draw_limit", "plot_errors", "plot_gaps", "write_limit_report"]

Cases = Mapping[str, Sequence[LimitRow]]

TARGET_DB = 3.0

_PAPER = "lookahead"
_CAPTIONS = {
    "limit": "The first case: mean latent MSE at the deadline, and the sequential rate-distortion limit on "
    "the same rates.",
    "limit-gap": "Distance to the limit in every case: ours in full lines, the paper's dashed and hollow. "
    "Bars are two standard errors, and the thin line is 3 dB.",
}


def draw_limit(cases: Cases, folder: OutputFolder) -> dict[str, list[Path]]:
    """Draw `limit` and `limit-gap` as SVG, PDF and PNG.

    Args:
        cases: Rows by case, by rising SNR; the first case is the headline.
        folder: Where to.

    Returns:
        The three files of each figure, by its name.

    Raises:
        OutputError: If a figure cannot be written.
    """
    files = {}
    with figure_style():
        figure, (axes,) = new_figure(2.6)
        plot_errors(axes, next(iter(cases.values())))
        files["limit"] = save_figure(figure, folder, "limit")
        figure, (axes,) = new_figure(2.6 + 0.14 * max(0, -(-len(cases) // 2) - 2))
        plot_gaps(axes, cases)
        files["limit-gap"] = save_figure(figure, folder, "limit-gap")
    return files


def plot_errors(axes: Axes, rows: Sequence[LimitRow]) -> None:
    """Errors of one case against SNR, with the limit."""
    snr_db = [row.snr_db for row in rows]
    styles = policy_styles(["progressive", _PAPER])
    for policy, values in (
        ("progressive", [row.ours for row in rows]),
        (_PAPER, [row.paper for row in rows]),
    ):
        axes.plot(snr_db, values, **styles[policy].line(), label=policy_label(policy), zorder=3)
    axes.plot(snr_db, [row.limit for row in rows], color=INK, linewidth=0.8, label="Sequential limit")
    axes.set_yscale("log")
    axes.set_xlabel("Average SNR (dB)")
    axes.set_ylabel("Latent MSE at the deadline")
    axes.legend(ncols=3, **LEGEND)


def plot_gaps(axes: Axes, cases: Cases) -> None:
    """Distance to the limit against SNR: all cases, ours and the paper's."""
    for style, (name, rows) in zip(_styles(len(cases)), cases.items(), strict=True):
        snr_db = [row.snr_db for row in rows]
        errors = 2.0 * np.nan_to_num([row.gap_error_db for row in rows])
        line = {**style.line(), "linestyle": "solid"}
        axes.errorbar(
            snr_db, [row.gap_db for row in rows], errors, **line, elinewidth=0.8, label=name, zorder=3
        )
        hollow = {**line, "linestyle": (0, (3.0, 2.0)), "linewidth": 0.8, "markerfacecolor": "white"}
        axes.plot(snr_db, [row.paper_gap_db for row in rows], **hollow)
    axes.axhline(TARGET_DB, color=MUTED, linewidth=0.7, zorder=1)
    axes.set_yscale("symlog", linthresh=4.0, linscale=1.5)
    highest = max(max(row.gap_db, row.paper_gap_db) for rows in cases.values() for row in rows)
    ticks = [tick for tick in (0, 1, 2, 3, 4, 10, 20, 40, 80) if tick <= highest]
    axes.set_yticks(ticks, map(str, ticks))
    axes.set_ylim(0.0, 1.3 * max(highest, TARGET_DB))
    axes.minorticks_off()
    axes.set_xlabel("Average SNR (dB)")
    axes.set_ylabel("Above the limit (dB)")
    axes.legend(ncols=2, **LEGEND)


def _styles(count: int) -> list[SeriesStyle]:
    return [OURS, *(STYLES[number % len(STYLES)] for number in range(count - 1))]


def write_limit_report(
    cases: Cases, folder: OutputFolder, *, title: str | None, provenance: dict[str, Any]
) -> Path:
    """Draw the figures, and write `report.html` with them, the numbers and where they come from.

    Raises:
        OutputError: If a file cannot be written.
    """
    drawn = draw_limit(cases, folder)
    captions = {paths[0]: _CAPTIONS[name] for name, paths in drawn.items()}
    first = next(iter(cases.values()))
    lead = (
        "Real packets of Gaussian latents, every byte counted, against what any code could have done with "
        f"the same rates; {len(cases)} cases, {first[0].episodes} episodes per SNR."
    )
    tables = "".join(_table(name, rows) for name, rows in cases.items())
    note = (
        "<p>Means over the episodes; ± is one standard error. Headers are the bytes, among all bytes, of "
        "headers and terminations.</p>\n"
    )
    sections = [
        Section("figures", "Figures", figures_list(captions)),
        Section("tables", "Tables", note + tables),
        Section("provenance", "Provenance", provenance_list(provenance)),
    ]
    return write_page(folder, title or folder.path.resolve().name, lead, sections)


def _table(name: str, rows: Sequence[LimitRow]) -> str:
    first = rows[0]
    return table(
        f"{name}: {first.source}, deadline of {first.deadline_slots} slots, {first.num_subchannels} "
        "sub-channels",
        ["SNR (dB)", "Limit", "Ours", "Above, dB", "Paper", "Above, dB", "Bytes", "Headers", "Packets"],
        [
            [
                f"{row.snr_db:g}",
                f"{row.limit:.3g}",
                number(row.ours, row.ours_error),
                number(row.gap_db, row.gap_error_db),
                number(row.paper, row.paper_error),
                f"{row.paper_gap_db:.1f}",
                f"{row.bytes:.0f}",
                f"{row.headers:.0f}",
                f"{row.packets:.1f}",
            ]
            for row in rows
        ],
    )
