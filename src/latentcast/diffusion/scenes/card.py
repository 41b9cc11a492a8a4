"""The model card: how the embedded model was made and how well it does, in figures from the run itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.scenes.judge import Scores
from latentcast.diffusion.scenes.sheets import picture_sheet

__all__ = ["Findings", "psnr_db", "write_card", "write_section"]

_SHEET_COLUMNS = 8
_SHEET_ROWS = 8

# The section before which others are put.
_LAST = "## Limits\n"


def psnr_db(original: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio."""
    error = np.mean((original.astype(np.float32) - other) ** 2, axis=(1, 2, 3))
    return float(np.mean(10.0 * np.log10(255.0**2 / np.maximum(error, 1e-9))))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a training run found out about its model.

    Args:
        autoencoder_psnr_db: mean over held-out renders.
        num_held_out: renders that training never saw.
        ceiling: the judge's scores on them.
        reached: its scores on generated pictures.
        guidance_scale: of the generated pictures.
        plan: the training plan's numbers and seeds.
    """

    autoencoder_psnr_db: float
    num_held_out: int
    ceiling: Scores
    reached: Scores
    guidance_scale: float
    plan: Mapping[str, Any]


def write_card(
    folder: Path, findings: Findings, samples: npt.NDArray[np.uint8], sentences: list[str]
) -> None:
    """Write README.md and its picture, samples.jpg, into a model folder.

    Args:
        folder: the pipeline folder.
        findings: the numbers.
        samples: uint8 (num, H, W, 3), generated pictures in order of generation, none left out.
        sentences: their prompts.
    """
    reached, ceiling, plan = findings.reached, findings.ceiling, findings.plan
    shown = _SHEET_COLUMNS * _SHEET_ROWS
    picture_sheet(samples[:shown], _SHEET_COLUMNS).save(folder / "samples.jpg", quality=90)
    rows = [
        (
            f"{n} object{'s' if n > 1 else ''}: count, colours and shapes",
            reached.objects[n],
            ceiling.objects[n],
        )
        for n in (1, 2, 3)
    ]
    rows += [
        ("relation, of two-object scenes with the right objects", reached.relation, ceiling.relation),
        ("floor", reached.floor, ceiling.floor),
        ("sky", reached.sky, ceiling.sky),
    ]
    table = "\n".join(f"| {name} | {_percent(got)} | {_percent(best)} |" for name, got, best in rows)
    rows_made = [(name, value) for name, value in plan.items() if name != "seeds"]
    rows_made += [(f"seed of {name}", value) for name, value in plan["seeds"].items()]
    numbers = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in rows_made)
    prompts = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(sentences[:shown]))
    text = f"""# scenes: the embedded model of latentcast

A text-conditional latent diffusion model of rendered scenes: one to three spheres, cubes and cylinders in
eight colours on three floors under three skies; 128 x 128 pixels, latents of 4 x 16 x 16. It is an ordinary
diffusers `StableDiffusionPipeline` folder in float16 with Stable Diffusion's noise schedule; the network
predicts v. It was trained from nothing by `latentcast model train scenes` on pictures that the repository's
own renderer drew.

![Uncurated samples](samples.jpg)

The first {shown} pictures generated for judging, none left out.

## How well it follows its prompts

Judged by a classifier that was trained on renders only; its own score on {ceiling.num_pictures} held-out
renders is the ceiling. {reached.num_pictures} generated pictures, a third each with one, two and three
objects, 50 steps of ancestral DDPM, guidance {findings.guidance_scale:g}; prompts name every colour,
shape, clear relation, the floor and the sky.

| what is right | generated | ceiling |
| --- | --- | --- |
{table}

Autoencoder on {findings.num_held_out} held-out renders: PSNR {findings.autoencoder_psnr_db:.1f} dB.

## How it was made

Float32 weights with bfloat16 arithmetic where it is safe; exponential moving average of the weights.

| number | value |
| --- | --- |
{numbers}

## Limits

It knows a few dozen words; `latentcast` brings other prompts into its language and says what it changed.
Binding colours to shapes gets harder with every object, and relations are learned only in part. No pictures
of people, places or art were used in training.

## Prompts of the sheet, in reading order

{prompts}
"""
    (folder / "README.md").write_text(text)


def write_section(folder: Path, heading: str, body: str) -> None:
    """Write a section of the card, in place of the one with this heading or before the limits.

    Args:
        folder: the pipeline folder, with its README.md.
        heading: without the marks.
        body: Markdown.
    """
    file = folder / "README.md"
    title = f"## {heading}\n"
    parts = re.split(r"(?m)^(?=## )", file.read_text(encoding="utf-8")) if file.exists() else [""]
    names = [part.partition("\n")[0] + "\n" for part in parts]
    section = f"{title}\n{body.strip()}\n\n"
    if title in names:
        parts[names.index(title)] = section
    else:
        # The limits and the sheet's prompts stay at the end.
        place = names.index(_LAST) if _LAST in names else len(parts)
        parts.insert(place, section)
    partial = folder / ".README.md.part"
    partial.write_text("".join(parts).rstrip() + "\n", encoding="utf-8")
    partial.replace(file)
