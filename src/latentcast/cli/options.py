"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "BatchSize",
    "Deadline",
    "Device",
    "Model",
    "ModelArgument",
    "Prompt",
    "PromptFile",
    "Seed",
    "SnrDb",
    "Steps",
]

_MODELS = "scenes, the folder of a diffusers pipeline, or a hub id."

Prompt = Annotated[str, typer.Argument(help="The picture, in words.", show_default=False)]
Model = Annotated[str, typer.Option(help=_MODELS)]
ModelArgument = Annotated[str, typer.Argument(help=_MODELS)]
PromptFile = Annotated[
    str | None, typer.Option(help="A .txt, .csv or .parquet file of prompts such as the model will get.")
]
SnrDb = Annotated[
    float, typer.Option("--snr-db", help="Average signal-to-noise ratio of a sub-channel in dB.")
]
Deadline = Annotated[int, typer.Option(help="Slots until the deadline; one denoising step takes one slot.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Seed = Annotated[int, typer.Option(help="Root seed of noise, sampler and channel.")]
BatchSize = Annotated[int, typer.Option(help="Prompts denoised at once.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
