"""The picture of live_over_link.py's table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentcast.study.figures.style import LEGEND, STYLES, figure_style, new_figure


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Two axes over the link's mean rate: error at the deadline, and the share that had a picture."""
    rates = [row["mean_kbit_per_second"] for row in rows]
    with figure_style():
        figure, axes = new_figure(5.0)
        figure.clear()
        errors, shares = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        del axes
        for style, key, label in (
            (STYLES[0], "live_mse", "live service"),
            (STYLES[2], "net_mse", "simulator, rates less headers"),
            (STYLES[4], "offered_mse", "simulator, no headers"),
            (STYLES[1], "final_mse", "compute, then send"),
        ):
            errors.plot(rates, [row[key] for row in rows], label=label, **style.line())
        errors.set_yscale("log")
        errors.set_ylabel("latent error at the deadline")
        errors.legend(ncols=2, **LEGEND)
        for style, key, label in (
            (STYLES[0], "share_with_picture", "live service"),
            (STYLES[4], "share_possible", "link could carry one"),
            (STYLES[1], "final_share_with_picture", "compute, then send"),
        ):
            shares.plot(rates, [row[key] for row in rows], label=label, **style.line())
        shares.set_xscale("log")
        shares.set_xticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
        shares.tick_params(axis="x", which="minor", labelbottom=False)
        shares.set_ylim(-0.05, 1.05)
        shares.set_xlabel("mean rate of the link, kbit/s")
        shares.set_ylabel("requests with a picture")
        for plot in (errors, shares):
            plot.grid(visible=True, which="major", linewidth=0.4, alpha=0.4)
        figure.savefig(file, dpi=200)
