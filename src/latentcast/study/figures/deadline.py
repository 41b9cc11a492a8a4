"""Fig. 3: quality at the deadline against SNR for every policy, and how well the models are calibrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from latentcast.study.figures.curves import Curves, read_curves
from latentcast.study.figures.style import (
    BOUNDS,
    INK,
    LEGEND,
    OURS,
    figure_style,
    new_figure,
    policy_label,
    policy_styles,
    save_figure,
)
from latentcast.study.metrics.catalog import METRICS
from latentcast.study.output import OutputFolder

__all__ = [
    "METRIC_ORDER",
    "draw_curves",
    "draw_deadline",
    "plot_distortion_calibration",
    "plot_latency_calibration",
    "plot_latent_mse",
    "plot_metric",
]

FloatArray = npt.NDArray[np.float64]

METRIC_ORDER = ("lpips", "flip", "ms-ssim", "ssim", "psnr")
"""Fig. 3b shows the first of these that was measured; the paper's is LPIPS."""

# Below this a latent MSE is float16's rounding or nothing.
_SMALLEST = 1e-8

_BOUND_LABELS = [label for label, _ in BOUNDS.values()]


def draw_deadline(
    study: str | Path,
    out: str | Path | None = None,
    *,
    quantile: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Draw a finished study: `fig3a`, `fig3b` and `calibration` as SVG, PDF and PNG.

    Fig. 3b needs a picture metric; further metrics become `fig3b-NAME`.

    Args:
        study: Folder of a finished study.
        out: Folder for the figures; None for the study's own.
        quantile: q of the study's latency quantile, to mark in the calibration; None marks nothing.
        progress: Called with rows read and rows in all.

    Returns:
        The three files of each figure, by its name.

    Raises:
        ParameterError: If the folder is no finished study, or its table is damaged or lacks columns.
        OutputError: If the figures cannot be written.
    """
    curves = read_curves(Path(study), progress=progress)
    return draw_curves(curves, OutputFolder(study if out is None else out), quantile)


def draw_curves(curves: Curves, folder: OutputFolder, quantile: float | None = None) -> dict[str, list[Path]]:
    """The figures of `draw_deadline` from curves that have been read."""
    files = {}
    with figure_style():
        figure, (axes,) = new_figure(_height(len(curves.policies) + len(_bounds(curves))))
        plot_latent_mse(axes, curves)
        files["fig3a"] = save_figure(figure, folder, "fig3a")
        measured = [name for name in METRIC_ORDER if METRICS[name].column in curves.metrics]
        for number, metric in enumerate(measured):
            name = f"fig3b-{metric}" if number else "fig3b"
            figure, (axes,) = new_figure(_height(len(curves.policies)))
            plot_metric(axes, curves, metric)
            files[name] = save_figure(figure, folder, name)
        figure, (left, right) = new_figure(2.1, columns=2)
        plot_distortion_calibration(left, curves)
        plot_latency_calibration(right, curves, quantile)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=3, handlelength=2.0, columnspacing=1.0
        )
        files["calibration"] = save_figure(figure, folder, "calibration")
    return files


def _height(entries: int) -> float:
    """Inches of a figure with so many entries in its legend."""
    return 2.6 + 0.14 * max(0, -(-entries // 3) - 2)


def _bounds(curves: Curves) -> list[str]:
    return [name for name in BOUNDS if name in curves.mean]


def plot_latent_mse(axes: Axes, curves: Curves) -> None:
    """Fig. 3a: latent MSE at the deadline, logarithmic; a mean below the lower edge stands on it.

    The bands are intervals of the mean's logarithm, with its error by the delta method: a plain interval of a
    mean that few episodes decide would reach below zero.
    """
    means = curves.mean["latent_mse"]
    positive = means[means > _SMALLEST]
    floor = 10.0 ** np.floor(np.log10(positive.min())) if positive.size else _SMALLEST
    axes.set_yscale("log")
    axes.set_ylim(floor, 2.0 * max(float(np.nanmax(means)), 10.0 * floor))
    for name in _bounds(curves):
        label, dashes = BOUNDS[name]
        # The same for every policy; below the axis the line leaves the figure.
        axes.plot(
            curves.snr_db,
            curves.mean[name][0],
            color=INK,
            linestyle=dashes,
            linewidth=0.8,
            label=label,
            zorder=1.5,
        )
    _against_snr(axes, curves, "latent_mse", floor=float(floor))
    axes.set_ylabel("Latent MSE at the deadline")


def plot_metric(axes: Axes, curves: Curves, metric: str) -> None:
    """Fig. 3b: a picture metric at the deadline.

    Args:
        axes: Where to draw.
        curves: Of a study that measured it.
        metric: Its name in `METRICS`.
    """
    kind = METRICS[metric]
    _against_snr(axes, curves, kind.column)
    axes.set_ylabel(f"{kind.label}, {kind.direction} is better")


def _against_snr(axes: Axes, curves: Curves, column: str, floor: float | None = None) -> None:
    """One line per policy; with `floor` for a logarithmic axis that begins there."""
    for policy, style in policy_styles(curves.policies).items():
        mean, half_width = curves.policy(column, policy)
        half_width = np.nan_to_num(half_width)
        if floor is None:
            low, high = mean - half_width, mean + half_width
        else:
            mean = np.maximum(mean, floor)
            ratio = np.exp(half_width / mean)
            low, high = np.maximum(mean / ratio, floor), mean * ratio
        front = 4.0 if style is OURS else 2.0
        axes.fill_between(curves.snr_db, low, high, color=style.colour, alpha=0.2, linewidth=0)
        axes.plot(
            curves.snr_db, mean, **style.line(), label=policy_label(policy), clip_on=False, zorder=front
        )
    margin = 0.02 * (curves.snr_db[-1] - curves.snr_db[0]) or 1.0
    axes.set_xlim(curves.snr_db[0] - margin, curves.snr_db[-1] + margin)
    axes.set_xlabel("Average SNR (dB)")
    handles, labels = axes.get_legend_handles_labels()
    # Policies first, in the study's order; bounds after them.
    order = sorted(range(len(labels)), key=lambda at: labels[at] in _BOUND_LABELS)
    axes.legend(
        [handles[at] for at in order],
        [labels[at] for at in order],
        ncols=3 if len(labels) > 4 else 2,
        **LEGEND,
    )


def plot_distortion_calibration(axes: Axes, curves: Curves) -> None:
    """Mean latent MSE at the deadline against what the distortion model predicts for what is held."""
    predicted, measured = curves.mean["predicted_mse"], curves.mean["latent_mse"]
    known = (predicted > _SMALLEST) & (measured > _SMALLEST)
    both = np.concatenate([predicted[known], measured[known]])
    low, high = (0.5 * both.min(), 2.0 * both.max()) if both.size else (_SMALLEST, 1.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot([low, high], [low, high], color=INK, linewidth=0.7, linestyle=(0, (4.0, 2.0)), zorder=1)
    for policy, style in policy_styles(curves.policies).items():
        row = curves.policies.index(policy)
        axes.plot(
            predicted[row][known[row]],
            measured[row][known[row]],
            **{**style.line(), "linestyle": "none"},
            markersize=3.0,
            label=policy_label(policy),
        )
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="Predicted MSE", ylabel="Measured MSE")


def plot_latency_calibration(axes: Axes, curves: Curves, quantile: float | None = None) -> None:
    """Share of transfers that took longer than the predicted latency quantile; 1 - q would be exact."""
    share = 100.0 * curves.ratio("late_transfers", "judged_transfers")
    for policy, style in policy_styles(curves.policies).items():
        axes.plot(
            curves.snr_db,
            share[curves.policies.index(policy)],
            **{**style.line(), "markersize": 3.0},
            clip_on=False,
        )
    if quantile is not None:
        axes.axhline(100.0 * (1.0 - quantile), color=INK, linewidth=0.7, linestyle=(0, (4.0, 2.0)), zorder=1)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Average SNR (dB)")
    axes.set_ylabel("Transfers past $\\hat{T}_q$ (%)")
