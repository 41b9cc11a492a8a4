"""Where the device's decoder of a model is: an ONNX file that turns latents into pictures without torch.

A server hands it to devices, which run it with any ONNX runtime, in a browser too. Its input "latent" is
float32 (batch, channels, height, width) at unit variance as the network sees it, its output "picture" float32
(batch, 3, 8 height, 8 width) for most models, red, green and blue in 0..1. `latentcast model export` writes
it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from latentcast.diffusion.loading import file_of_model
from latentcast.errors import ModelError

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "decoder_tag", "device_decoder_file", "device_decoder_place"]

INPUT_NAME = "latent"
OUTPUT_NAME = "picture"


def decoder_tag(content: bytes) -> str:
    """The entity tag under which a server hands out a decoder: two files of one tag are the same.

    Example:
        >>> decoder_tag(b"")
        '"e3b0c44298fc1c149afbf4c8996fb924"'
    """
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def device_decoder_place(model: str | Path) -> Path:
    """Where a model's device decoder is kept: in its folder, or in the user's cache for one of the hub.

    Args:
        model: "scenes", a folder, or a hub id.

    Returns:
        The path, whether there is such a file or not.

    Raises:
        ModelError: If there is no such model.

    Example:
        >>> device_decoder_place("owner/name").name
        'device-decoder-owner--name.onnx'
    """
    return file_of_model(model, "device_decoder.onnx")


def device_decoder_file(model: str | Path) -> Path:
    """The device decoder of a model.

    Args:
        model: "scenes", a folder, or a hub id.

    Returns:
        An ONNX file that exists.

    Raises:
        ModelError: If there is no such model, or its decoder has not been exported.

    Example:
        >>> device_decoder_file("scenes").name
        'device_decoder.onnx'
    """
    file = device_decoder_place(model)
    if not file.is_file():
        raise ModelError(
            f"{model} has no device decoder at {file}; write it with: latentcast model export {model}"
        )
    return file
