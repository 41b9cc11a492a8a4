"""What a session knows of the model that generates, and which codec a device gets of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from latentcast.codec.calibration import Calibration
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape
from latentcast.errors import ProtocolError
from latentcast.live.messages import CODECS, Request

__all__ = ["ServedModel", "choose_codec"]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a session knows of the model that generates.

    Attributes:
        name: As READY tells it.
        latent_shape: (channels, height, width).
        path: The noise path for T steps.
        calibration: The calibration for T steps; the same object for the same T, so that plans are shared.
        codecs: What is offered, of `messages.CODECS`.
    """

    name: str
    latent_shape: LatentShape
    path: Callable[[int], NoisePath]
    calibration: Callable[[int], Calibration]
    codecs: tuple[str, ...] = CODECS


def choose_codec(request: Request, model: ServedModel) -> str:
    """The first of the device's codecs that the model offers.

    Raises:
        ProtocolError: If there is none, or the device cannot decode the model's latents.

    Example:
        >>> from latentcast.diffusion.path import NoisePath
        >>> path = NoisePath.stable_diffusion
        >>> model = ServedModel(
        ...     name="m", latent_shape=(4, 8, 8), path=path, calibration=lambda n: Calibration.white(path(n))
        ... )
        >>> choose_codec(Request(prompt="", deadline_ms=9, codecs=("new/2", "final/1")), model)
        'final/1'
    """
    if request.latents is not None and model.latent_shape not in request.latents:
        raise ProtocolError(
            f"the device decodes latents of {', '.join(map(str, request.latents))}; the model {model.name} "
            f"makes {model.latent_shape}",
            code="unsupported",
        )
    for codec in request.codecs:
        if codec in model.codecs:
            return codec
    raise ProtocolError(
        f"the device decodes {', '.join(request.codecs)[:200]}; the server has {', '.join(model.codecs)}",
        code="unsupported",
    )
