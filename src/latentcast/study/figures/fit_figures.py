"""A model's fit to the theory, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from latentcast.study.figures.fit import Fit
from latentcast.study.figures.style import (
    INK,
    LEGEND,
    STYLES,
    figure_style,
    new_figure,
    save_figure,
)
from latentcast.study.output import OutputFolder

__all__ = ["draw_fit", "plot_distortion", "plot_refinements", "plot_spectrum"]

_THEORY: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": (0, (3.0, 2.0))}

# Lines of t_p that a small axes has room for.
_MAX_LINES = 5


def draw_fit(fit: Fit, out: OutputFolder) -> list[Path]:
    """Draw what `measure_fit` found: three figures as SVG, PDF and PNG.

    Args:
        fit: The numbers.
        out: Folder.

    Returns:
        The files.

    Raises:
        OutputError: If the folder cannot be written.
    """
    files = []
    with figure_style():
        figure, (axes,) = new_figure(2.45)
        plot_distortion(axes, fit)
        files += save_figure(figure, out, "fit-distortion")
        figure, (left, right) = new_figure(2.3, columns=2)
        plot_refinements(left, right, fit)
        files += save_figure(figure, out, "fit-refinements")
        figure, (axes,) = new_figure(2.45)
        plot_spectrum(axes, fit)
        files += save_figure(figure, out, "fit-spectrum")
    return files


def plot_distortion(axes: Axes, fit: Fit) -> None:
    """D_diff(t) and mmse(t), measured and in theory."""
    steps = np.arange(len(fit.predicted))
    every = max(1, len(steps) // 10)
    axes.plot(steps, fit.predicted, **_THEORY, label="theory")
    axes.plot(steps, fit.white_mmse, **_THEORY)
    rows = ((fit.simulated.mean, STYLES[2], "$x_t$"), (fit.mmse, STYLES[1], "best estimate from $x_t$"))
    for values, style, label in rows:
        axes.plot(steps, values, **{**style.line(), "linestyle": "solid"}, markevery=every, label=label)
    # Generation runs from noise to the clean latent, left to right.
    axes.set_xlim(steps[-1], 0)
    axes.set_ylim(0.0, 1.05 * max(2.0, float(fit.simulated.mean.max())))
    axes.set_xlabel("Diffusion step $t$")
    axes.set_ylabel("Latent MSE to $x_0$")
    axes.legend(ncols=3, **LEGEND)


def plot_refinements(left: Axes, right: Axes, fit: Fit) -> None:
    """Variance (left) and kurtosis (right) of the standardised refinements against t, a line for each t_p."""
    references = sorted({item.reference_step for item in fit.refinements}, reverse=True)
    chosen = references[:: max(1, -(-len(references) // _MAX_LINES))]
    for axes, theory, label in ((left, 1.0, "Variance / $\\sigma^2$"), (right, 3.0, "Kurtosis")):
        axes.axhline(theory, **_THEORY)
        axes.set_xlim(references[0], 0)
        axes.set_xlabel("Diffusion step $t$")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for high, style in zip(chosen, STYLES, strict=False):
        items = [item for item in fit.refinements if item.reference_step == high]
        steps = [item.step for item in items]
        line = {**style.line(), "markersize": 3.0}
        left.plot(steps, [item.variance for item in items], **line)
        right.plot(steps, [item.kurtosis for item in items], **line, label=f"$t_p = {high}$")
    # As far from the theory on either side as the farthest point, but never so close as to magnify noise.
    off = 1.2 * max(abs(item.variance - 1.0) for item in fit.refinements)
    left.set_ylim(max(0.0, 1.0 - max(off, 0.1)), 1.0 + max(off, 0.1))
    right.set_yscale("log")
    right.yaxis.set_major_formatter(ScalarFormatter())
    right.yaxis.set_minor_formatter(NullFormatter())
    top = max(item.kurtosis for item in fit.refinements)
    right.set_yticks([tick for tick in (2, 3, 5, 10, 20, 50, 100) if tick <= 1.2 * max(top, 5.0)])
    right.legend(loc="upper left", handlelength=2.2, borderaxespad=0.3, labelspacing=0.2, frameon=False)


def plot_spectrum(axes: Axes, fit: Fit) -> None:
    """Power of x_t by radial frequency, measured and as the forward process makes it of x_0's."""
    axes.set_yscale("log")
    for spectrum, style in zip(fit.spectra, STYLES, strict=False):
        axes.plot(
            fit.frequencies,
            spectrum.measured,
            **{**style.line(), "linestyle": "none", "markersize": 3.5},
            label=f"$t = {spectrum.step}$",
        )
        axes.plot(fit.frequencies, spectrum.predicted, color=style.colour, linewidth=1.0)
    axes.set_xlabel("Radial frequency (half cycles per place)")
    axes.set_ylabel("Power")
    axes.legend(ncols=len(fit.spectra), **{**LEGEND, "handlelength": 1.0, "columnspacing": 0.8})
