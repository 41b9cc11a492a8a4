"""Picture metrics by name, as studies and result files call them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from latentcast.errors import ParameterError
from latentcast.study.metrics.flip import flip
from latentcast.study.metrics.pairs import FloatArray, PictureArray
from latentcast.study.metrics.psnr import psnr
from latentcast.study.metrics.ssim import ms_ssim, ssim

__all__ = ["METRICS", "Direction", "MetricKind", "PictureMetric", "make_metric"]

Direction: TypeAlias = Literal["higher", "lower"]
Score: TypeAlias = Callable[..., FloatArray]

# Large enough for every metric.
NO_PICTURES = np.zeros((0, 64, 64, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class MetricKind:
    """What is known of a metric by its name alone.

    Attributes:
        column: Its column in a study's table.
        direction: Whether "higher" or "lower" is better.
        label: Its name in figures, with the unit.
        options: The options that `make_metric` takes for it.
    """

    column: str
    direction: Direction
    label: str
    options: tuple[str, ...] = ()


METRICS = {
    "psnr": MetricKind(column="psnr_db", direction="higher", label="PSNR (dB)"),
    "ssim": MetricKind(column="ssim", direction="higher", label="SSIM"),
    "ms-ssim": MetricKind(column="ms_ssim", direction="higher", label="MS-SSIM"),
    "flip": MetricKind(column="flip", direction="lower", label="FLIP", options=("pixels_per_degree",)),
    "lpips": MetricKind(
        column="lpips", direction="lower", label="LPIPS", options=("backbone", "linear", "net")
    ),
}
"""The metrics by name."""


@dataclass(frozen=True, kw_only=True)
class PictureMetric:
    """A metric with its options set; call it with two batches of pictures, the wanted ones first.

    Made by `make_metric`.

    Attributes:
        name: Its name in `METRICS`.
        score: Takes reference and picture, uint8 (n, height, width, 3), and gives float64 (n,).
    """

    name: str
    score: Callable[[PictureArray, PictureArray], FloatArray] = field(repr=False)

    @property
    def kind(self) -> MetricKind:
        """What its name says."""
        return METRICS[self.name]

    def __call__(self, reference: PictureArray, picture: PictureArray) -> FloatArray:
        """Score pictures against what they should be; float64 (n,)."""
        return self.score(reference, picture)


def make_metric(name: str, **options: Any) -> PictureMetric:
    """The metric of a name.

    Args:
        name: One of `METRICS`.
        options: `flip`: pixels_per_degree; `lpips`: backbone and linear, the files of its weights, and net.

    Raises:
        ParameterError: If there is no such metric or option, an option's value is refused, or LPIPS lacks a
            file or PyTorch.

    Example:
        >>> metric = make_metric("flip", pixels_per_degree=40.0)
        >>> black = np.zeros((1, 8, 8, 3), np.uint8)
        >>> metric(black, black).tolist(), metric.kind.direction
        ([0.0], 'lower')
        >>> make_metric("sharpness")
        Traceback (most recent call last):
        ...
        latentcast.errors.ParameterError: unknown metric 'sharpness'; choose psnr, ssim, ms-ssim, flip, lpips
    """
    if name not in METRICS:
        raise ParameterError(f"unknown metric {name!r}; choose {', '.join(METRICS)}")
    known = METRICS[name].options
    for option in options:
        if option not in known:
            hint = f"it has {', '.join(known)}" if known else "it has none"
            raise ParameterError(f"metric {name} has no option {option!r}; {hint}")
    score = _lpips(**options) if name == "lpips" else partial(_SCORES[name], **options)
    # A refused value shows now, not after the first episodes.
    score(NO_PICTURES, NO_PICTURES)
    return PictureMetric(name=name, score=score)


_SCORES: dict[str, Score] = {"psnr": psnr, "ssim": ssim, "ms-ssim": ms_ssim, "flip": flip}


def _lpips(**options: Any) -> Score:
    # torch takes seconds to import, and no other metric needs it.
    try:
        from latentcast.study.metrics.lpips import Lpips
    except ImportError as error:
        raise ParameterError(
            "metric lpips needs PyTorch; install it with: pip install 'latentcast[models]'"
        ) from error
    return Lpips(**options)
