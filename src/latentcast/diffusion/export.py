"""Writing a model's decoder as ONNX, checked against torch.

The embedded model's is its small distilled one; that of any other pipeline is its VAE's decoder as it stands,
with the latent's scaling and shift folded in, so that a device needs to know nothing of the model.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from latentcast.diffusion.device_decoder import INPUT_NAME, OUTPUT_NAME
from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.errors import ModelError

__all__ = ["ExportReport", "decoder_of", "export_onnx", "require_export_packages"]

# Known to onnxruntime and to its WebAssembly build alike.
_OPSET = 18

# Half a grey level of 8 bits.
_TOLERANCE = 0.5 / 255.0

_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        file: the ONNX file.
        num_bytes: its size.
        num_parameters: numbers that were trained.
        max_difference: largest difference to torch's picture, whose range is 0..1.
    """

    file: Path
    num_bytes: int
    num_parameters: int
    max_difference: float


class _VaeDecoder(nn.Module):
    """A VAE's decoder from latents of unit variance to pictures in 0..1."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self._scale = 1.0 / float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        picture: torch.Tensor = self.vae.decode(latent * self._scale + self._shift, return_dict=False)[0]
        return (picture * 0.5 + 0.5).clamp(0.0, 1.0)


def require_export_packages() -> None:
    """Check that what an export needs is there.

    Raises:
        ModelError: If a package is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ModelError(
                f"writing ONNX needs the package {package}; "
                "install it with: pip install 'latentcast[models,export]'"
            )


def decoder_of(model: DiffusersModel) -> nn.Module:
    """What a device of this model runs: the distilled decoder where its folder has one, else the VAE's.

    Returns:
        A module from float32 (batch, channels, height, width) latents to pictures in 0..1.

    Raises:
        ModelError: If the distilled decoder's file is damaged.
    """
    from latentcast.diffusion.scenes.distilled import WEIGHTS_FILE, load_device_decoder

    if model.folder is not None and (model.folder / WEIGHTS_FILE).is_file():
        return load_device_decoder(model.folder)
    return _VaeDecoder(model.pipe.vae)


def export_onnx(decoder: nn.Module, latent_shape: tuple[int, int, int], file: Path) -> ExportReport:
    """Write a decoder as ONNX and compare it with torch on random latents, in batches of several sizes.

    Weights that are float16 numbers, as those of most published models, are stored as such.

    Args:
        decoder: from `decoder_of`.
        latent_shape: (channels, height, width).
        file: where to; only there once the check has passed.

    Raises:
        ModelError: If packages are missing, the network cannot be expressed, or the pictures differ by more
            than half a grey level.
    """
    require_export_packages()
    import onnx
    import onnxruntime

    decoder = decoder.to("cpu", torch.float32).eval()
    latents = torch.randn((max(_CHECKED_BATCHES), *latent_shape), generator=torch.Generator().manual_seed(0))
    partial = file.with_name(f".{file.name}.part")
    try:
        with _silent(), torch.no_grad():
            program = torch.onnx.export(
                decoder,
                (latents,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                # A size of 1 would be taken for a constant.
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=_OPSET,
                verbose=False,
            )
            assert program is not None
            graph = _without_traces(_halved(program.model_proto))
            onnx.save(graph, partial)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        difference = 0.0
        for size in _CHECKED_BATCHES:
            (picture,) = session.run([OUTPUT_NAME], {INPUT_NAME: latents[:size].numpy()})
            with torch.no_grad():
                wanted = decoder(latents[:size]).numpy()
            difference = max(difference, float(np.abs(picture - wanted).max()))
        if not difference <= _TOLERANCE:
            raise ModelError(
                f"the exported decoder differs from torch's by {difference:.2g} of a picture's range; "
                f"it must stay within {_TOLERANCE:.2g}"
            )
        partial.chmod(0o644)
        partial.replace(file)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"cannot write {file}: {error.strerror or error}") from error
    except Exception as error:  # whatever the libraries raise becomes our one error
        raise ModelError(f"cannot write the decoder as ONNX: {' '.join(str(error).split())[:300]}") from error
    finally:
        partial.unlink(missing_ok=True)
    return ExportReport(
        file=file,
        num_bytes=file.stat().st_size,
        num_parameters=sum(parameter.numel() for parameter in _decoding_part(decoder).parameters()),
        max_difference=difference,
    )


def _decoding_part(decoder: nn.Module) -> nn.Module:
    part = decoder.vae.decoder if isinstance(decoder, _VaeDecoder) else decoder
    assert isinstance(part, nn.Module)
    return part


def _halved(graph: Any) -> Any:
    """Store initialisers that hold float16 numbers as such; a Cast, folded at loading, widens them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for number, tensor in enumerate(graph.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        # Small constants are left alone: they cost nothing, and operators may want them as they are.
        if values.size < 16 or not np.array_equal(values.astype(np.float16).astype(np.float32), values):
            continue
        name = tensor.name
        graph.graph.initializer[number].CopyFrom(
            numpy_helper.from_array(values.astype(np.float16), f"{name}.float16")
        )
        casts.append(helper.make_node("Cast", [f"{name}.float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def _without_traces(graph: Any) -> Any:
    """Leave out where in the exporting machine's files every operator came from."""
    parts = graph.graph
    for item in (
        graph,
        parts,
        *parts.node,
        *parts.value_info,
        *parts.input,
        *parts.output,
        *parts.initializer,
    ):
        del item.metadata_props[:]
        item.doc_string = ""
    return graph


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's remarks on packages that are not needed, and on its own future, off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
