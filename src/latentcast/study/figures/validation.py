"""Fig. 2: the analytical distortion models, predicted and simulated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from latentcast.delivery.timeline import Decode
from latentcast.study.figures.measure import (
    Estimate,
    Progress,
    Recorded,
    Validation,
    measure_validation,
)
from latentcast.study.figures.style import (
    INK,
    LEGEND,
    MUTED,
    STYLES,
    SeriesStyle,
    figure_style,
    new_figure,
    save_figure,
)
from latentcast.study.output import OutputFolder

__all__ = ["draw_validation", "plot_diffusion", "plot_quantization"]

# Two-sided 95 % of the normal law; recordings have dozens of trajectories or more.
_CONFIDENCE = 1.96

# Marker sizes in points: what is simulated in the paper's sense stands inside what the device carries.
_SMALL, _LARGE = 3.0, 5.4


def draw_validation(
    recording: Recorded,
    out: str | Path,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    bits: Sequence[int] = tuple(range(1, 11)),
    decode: Decode | None = None,
    num_pictures: int = 64,
    progress: Progress | None = None,
) -> Validation:
    """Measure and draw Fig. 2: `fig2a` and `fig2b` as SVG, PDF and PNG, and their numbers in `fig2.parquet`.

    Args:
        recording: Recorded trajectories.
        out: Folder.
        pairs: (t_p, t) of Fig. 2b; None for the default ones.
        bits: b of Fig. 2b, each 1..15.
        decode: The model's decoder, for 1/PSNR in Fig. 2a.
        num_pictures: Trajectories that are decoded.
        progress: Called with trajectories done and in all.

    Returns:
        The numbers.

    Raises:
        ParameterError: As `measure_validation`.
        OutputError: If the folder cannot be written.
    """
    folder = OutputFolder(out)
    validation = measure_validation(
        recording, pairs=pairs, bits=bits, decode=decode, num_pictures=num_pictures, progress=progress
    )
    folder.write_bytes("fig2.parquet", _parquet(validation))
    with figure_style():
        for name, plot in (("fig2a", plot_diffusion), ("fig2b", plot_quantization)):
            figure, (axes,) = new_figure(2.45)
            plot(axes, validation)
            save_figure(figure, folder, name)
    return validation


def plot_diffusion(axes: Axes, validation: Validation) -> None:
    """Fig. 2a: D_diff(t), predicted and simulated, and the picture's 1/PSNR on a second axis."""
    steps = np.arange(len(validation.predicted))
    every = max(1, len(steps) // 10)
    simulated, clean, picture = STYLES[2], STYLES[1], STYLES[3]
    _band(axes, steps, validation.simulated, simulated.colour)
    (simulated_line,) = axes.plot(
        steps,
        validation.simulated.mean,
        **{**simulated.line(), "linestyle": "solid"},
        markevery=every,
        label="$x_t$, simulated",
    )
    (predicted_line,) = axes.plot(
        steps,
        validation.predicted,
        color=INK,
        linewidth=1.0,
        linestyle=(0, (3.0, 2.0)),
        label="$x_t$, predicted",
    )
    _band(axes, steps, validation.clean, clean.colour)
    (clean_line,) = axes.plot(
        steps,
        validation.clean.mean,
        color=clean.colour,
        linewidth=0.8,
        label="clean estimate, simulated",
    )
    handles = [simulated_line, predicted_line, clean_line]
    # Generation runs from noise to the clean latent, left to right.
    axes.set_xlim(steps[-1], 0)
    axes.set_ylim(0.0, 1.05 * max(2.0, float(validation.simulated.mean.max())))
    axes.set_xlabel("Diffusion step $t$")
    axes.set_ylabel("Latent MSE to $x_0$")
    if validation.inverse_psnr is not None:
        right = axes.twinx()
        right.grid(False)
        _band(right, steps, validation.inverse_psnr, picture.colour)
        (line,) = right.plot(
            steps,
            validation.inverse_psnr.mean,
            **picture.line(),
            markevery=(every // 2, every),
            label="picture of $x_t$ (right axis)",
        )
        right.set_ylabel("1/PSNR of the picture (dB$^{-1}$)")
        right.set_ylim(0.0, 1.05 * float(validation.inverse_psnr.mean.max()))
        handles.append(line)
    axes.legend(handles=handles, ncols=2, **LEGEND)


def plot_quantization(axes: Axes, validation: Validation) -> None:
    """Fig. 2b: D_quant against bits, predicted (lines) and simulated (markers), a label at each line."""
    pairs = sorted(validation.quantization, key=lambda pair: float(pair.predicted[-1]))
    axes.set_yscale("log")
    for pair, style in zip(pairs, STYLES * len(pairs), strict=False):
        axes.plot(pair.bits, pair.predicted, color=style.colour, linestyle=style.dashes, linewidth=1.0)
        if pair.carried is not None:
            _points(axes, pair.bits, pair.carried, style, hollow=True)
        _points(axes, pair.bits, pair.simulated, style, hollow=False)
    axes.set_xticks(pairs[0].bits)
    axes.set_xlabel("Bits per dimension $b$")
    axes.set_ylabel("$D_{\\rm quant}(t, t_p, b)$")
    low, high = np.log10(axes.get_ylim())
    heights = (np.log10([pair.predicted[-1] for pair in pairs]) - low) / (high - low)
    # The labels' heading stands on the last of them.
    texts = [f"({pair.reference_step}, {pair.step})" for pair in pairs] + ["$(t_p, t)$"]
    colours = [style.colour for style, _ in zip(STYLES * len(pairs), pairs, strict=False)] + [MUTED]
    for text, colour, height in zip(texts, colours, _spread(np.append(heights, 0.0), 0.065), strict=True):
        _beside(axes, float(height), text, colour)
    mark: dict[str, Any] = {"color": INK, "linestyle": "none", "marker": "o", "markeredgewidth": 0.7}
    axes.plot([], [], color=INK, linewidth=1.0, label="predicted")
    axes.plot([], [], **mark, markersize=_SMALL, label="simulated")
    if any(pair.carried is not None for pair in pairs):
        label = "simulated, $\\hat{x}_{t_p}$ coded too"
        axes.plot([], [], **mark, markersize=_LARGE, markerfacecolor="white", label=label)
    axes.legend(ncols=3, **LEGEND)


def _spread(heights: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.float64]:
    """Rising heights moved up where needed, so that labels of height `gap` do not touch."""
    spread = heights.copy()
    for index in range(1, len(spread)):
        spread[index] = max(spread[index], spread[index - 1] + gap)
    return spread


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (1.0, height),
        xycoords="axes fraction",
        xytext=(3, 0),
        textcoords="offset points",
        color=colour,
        fontsize=7,
        va="center",
        annotation_clip=False,
    )


def _points(
    axes: Axes, bits: npt.NDArray[np.int64], values: Estimate, style: SeriesStyle, *, hollow: bool
) -> None:
    axes.errorbar(
        bits,
        values.mean,
        yerr=np.nan_to_num(_CONFIDENCE * values.standard_error),
        color=style.colour,
        linestyle="none",
        marker=style.marker,
        markersize=_LARGE if hollow else _SMALL,
        markerfacecolor="white" if hollow else style.colour,
        markeredgewidth=0.7,
        elinewidth=0.7,
    )


def _band(axes: Axes, steps: npt.NDArray[np.int64], values: Estimate, colour: str) -> None:
    spread = _CONFIDENCE * np.nan_to_num(values.standard_error)
    axes.fill_between(steps, values.mean - spread, values.mean + spread, color=colour, alpha=0.2, linewidth=0)


def _parquet(validation: Validation) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("figure", pa.string()),
            ("quantity", pa.string()),
            ("step", pa.int32()),
            ("reference_step", pa.int32()),
            ("bits", pa.int32()),
            ("mean", pa.float64()),
            ("standard_error", pa.float64()),
            ("count", pa.int64()),
        ]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(validation.rows()), schema), buffer)
    return buffer.getvalue()
