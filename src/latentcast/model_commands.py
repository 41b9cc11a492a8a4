"""What the commands about models do that need more than the model itself, once their arguments are parsed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from latentcast import console
from latentcast.diffusion.device_decoder import device_decoder_place
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.study.output import OutputFolder

__all__ = ["run_model_export"]


def run_model_export(name: str, out: Path | None, *, as_json: bool) -> None:
    """Write a model's decoder for devices as ONNX.

    Raises:
        LatentcastError: If anything is wrong; the file is written only when it has passed its check.
    """
    file = device_decoder_place(name) if out is None else out
    model = load_pipeline(name)
    folder = OutputFolder(file.parent)
    # torch is there once a model is loaded.
    from latentcast.diffusion.export import decoder_of, export_onnx

    report = export_onnx(decoder_of(model), model.latent_shape, folder.path / file.name)
    if as_json:
        console.print_json({**asdict(report), "file": str(report.file)})
    else:
        console.print_export(report)
