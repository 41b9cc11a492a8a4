"""The model card: how the embedded model was made and how well it does, in figures from the run itself."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.diffusion.scenes.composition import ALL_LOOKS
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.sheets import picture_sheet
from latentcast.diffusion.scenes.verdict import Hits, Scores

__all__ = [
    "FIT_SECTION",
    "GUIDANCE_SCALE",
    "Findings",
    "Judged",
    "drop_section",
    "psnr_db",
    "write_card",
    "write_section",
]

GUIDANCE_SCALE = 3.0
"""Of classifier-free guidance, in the pictures that are judged and by default."""

FIT_SECTION = "Fit to the theory"
"""Heading of what `latentcast model fit` measures."""

_LOSSES = "losses"
_SHEET_COLUMNS = 8
_SHEET_ROWS = 8
_SHEET_PIXELS = 128

# Sections that other commands measure; they stay while the weights do.
_OTHERS = (FIT_SECTION, "The device's decoder")
# The section before which others are put.
_LAST = "## Limits\n"


def psnr_db(original: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio."""
    error = np.mean((original.astype(np.float32) - other) ** 2, axis=(1, 2, 3))
    return float(np.mean(10.0 * np.log10(255.0**2 / np.maximum(error, 1e-9))))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge says of one kind of generated pictures.

    Attributes:
        scores: how many show what was asked.
        distance: Frechet distance to renders of as many other scenes of the kind.
        floor: the same from renders of the very scenes that were asked for.
    """

    scores: Scores
    distance: float
    floor: float


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found out about a model.

    Args:
        autoencoder_psnr_db: mean over held-out renders.
        autoencoder_ssim: the same as structural similarity.
        ceiling: the judge's scores on held-out renders.
        judged: what it says of generated pictures, by the kind of their prompts, "seen" and "held-out".
        plan: that the model was trained by.
    """

    autoencoder_psnr_db: float
    autoencoder_ssim: float
    ceiling: Scores
    judged: dict[str, Judged]
    plan: TrainingPlan

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the plan."""
        values = asdict(self)
        del values["plan"]
        return values


def _percent(hits: Hits) -> str:
    return f"{100 * hits.share:.0f} % of {hits.asked}" if hits.asked else "none asked"


def _table(findings: Findings) -> str:
    """A row for each thing that can be right; columns for kinds of compositions and the ceiling."""
    columns = {
        **{f"{name} compositions": judged.scores for name, judged in findings.judged.items()},
        "ceiling": findings.ceiling,
    }
    if len(findings.judged) == 1:
        columns = {"generated": findings.judged["seen"].scores, "ceiling": findings.ceiling}
    rows = [
        (
            f"{n} object{'s' if n > 1 else ''}: number, colours and shapes",
            [scores.objects[n] for scores in columns.values()],
        )
        for n in (1, 2, 3)
    ]
    rows += [
        (
            f"told relations, of pictures with the right {n} objects",
            [scores.relations[n] for scores in columns.values()],
        )
        for n in (2, 3)
    ]
    rows += [
        ("floor", [scores.floor for scores in columns.values()]),
        ("sky", [scores.sky for scores in columns.values()]),
    ]
    lines = [f"| what is right | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(map(_percent, cells))} |" for name, cells in rows]
    return "\n".join(lines)


def _compositions(plan: TrainingPlan) -> str:
    if not plan.held_out_looks:
        return (
            f"The model was trained on all {len(ALL_LOOKS)} compositions\nof colour and shape, so none of "
            "these prompts asks for one that is new to it."
        )
    return (
        f"Of the {len(ALL_LOOKS)} compositions of colour and shape the denoiser never saw "
        f"{', '.join(plan.held_out_looks)}; a prompt counts as held out when it asks for any of them."
    )


def _distances(findings: Findings) -> str:
    lines = ["| prompts | pictures | generated | floor |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} compositions | {judged.scores.num_pictures} | {judged.distance:.2f} | {judged.floor:.2f} |"
        for name, judged in findings.judged.items()
    ]
    return "\n".join(lines)


def write_card(
    folder: Path,
    findings: Findings,
    samples: npt.NDArray[np.uint8],
    sentences: list[str],
    curves: list[Path],
    *,
    anew: bool,
) -> None:
    """Write README.md and its pictures, samples.jpg and those in losses, into a model folder.

    Args:
        folder: the pipeline folder.
        findings: the numbers.
        samples: uint8 (num, H, W, 3), generated pictures in order of generation, none left out.
        sentences: their prompts.
        curves: pictures of the losses of the stages that were run, as in text-loss.png.
        anew: whether all weights are new; else other stages' curves, and what other commands measured of the
            weights, stay in the card.
    """
    ceiling, plan = findings.ceiling, findings.plan
    shown = min(_SHEET_COLUMNS * _SHEET_ROWS, len(samples))
    sheet = [_small(picture) for picture in samples[:shown]]
    picture_sheet(np.stack(sheet), _SHEET_COLUMNS).save(folder / "samples.jpg", quality=85)
    stages = _write_curves(folder / _LOSSES, curves, anew=anew)
    numbers = _numbers(plan)
    prompts = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(sentences[:shown]))
    size, num_judged = (
        plan.picture_size,
        sum(judged.scores.num_pictures for judged in findings.judged.values()),
    )
    kept = {} if anew else _sections(folder, _OTHERS)
    text = f"""# scenes: the embedded model of latentcast

A text-conditional latent diffusion model of rendered scenes: one to three spheres, cubes and cylinders, matte
or glossy, in eight colours on three floors under three skies; {size} x {size} pixels, latents of
4 x {size // 8} x {size // 8}. It is an ordinary diffusers `StableDiffusionPipeline` folder in float16 with
Stable Diffusion's noise schedule; the network predicts v. It was trained from nothing by `latentcast model
train scenes` on pictures that the repository's own renderer drew.

![Uncurated samples](samples.jpg)

The first {shown} pictures generated for judging, none left out.

## How well it follows its prompts

Judged by a detector of objects that was trained on renders only; its own score on {ceiling.num_pictures}
held-out renders is the ceiling. {num_judged} generated pictures, a third each with one, two and three
objects, 50 steps of ancestral DDPM, guidance {GUIDANCE_SCALE:g}; prompts name every colour, shape, clear
relation, the floor and the sky. {_compositions(plan)}

{_table(findings)}

Frechet distance in the judge's features between generated pictures and renders of as many other scenes; the
floor is that between renders of the scenes that were asked for and those. It has no scale but the floor's.

{_distances(findings)}

Autoencoder on {ceiling.num_pictures} held-out renders: PSNR {findings.autoencoder_psnr_db:.1f} dB, SSIM
{findings.autoencoder_ssim:.3f}.

## How it was made

Exponential moving average of the weights.

| number | value |
| --- | --- |
{numbers}

{_curve_table(stages)}

{"".join(f"## {name}{chr(10)}{chr(10)}{body}{chr(10)}{chr(10)}" for name, body in kept.items())}## Limits

It knows a few dozen words; `latentcast` brings other prompts into its language and says what it changed.
Every object more makes it likelier that a shape is wrong or that an object comes twice, and now and then a
relation that was told does not hold. Some edges bend, and white things on pale ground can be faint. It never
saw two things alike in one picture. No pictures of people, places or art were used in training.

## Prompts of the sheet, in reading order

{prompts}
"""
    _replace(folder / "README.md", text)


def _numbers(plan: TrainingPlan) -> str:
    """Rows of a plan, less the device's decoder's: it may be made anew, and has a section of its own."""
    rows = plan.to_dict()
    rows |= {f"seed of {name}": seed for name, seed in rows.pop("seeds").items() if "device" not in name}
    return "\n".join(
        f"| {name.replace('_', ' ')} | {_plain(value)} |"
        for name, value in rows.items()
        if not name.startswith("device_")
    )


def _plain(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """No larger than the sheet has room for."""
    if len(picture) <= _SHEET_PIXELS:
        return picture
    return np.asarray(
        Image.fromarray(picture).resize((_SHEET_PIXELS, _SHEET_PIXELS), Image.Resampling.LANCZOS)
    )


def _write_curves(folder: Path, curves: list[Path], *, anew: bool) -> list[str]:
    """Keep the curves of stages that were run, and tell of which stages there are some."""
    folder.mkdir(exist_ok=True)
    run = {file.stem.removesuffix("-loss"): file for file in curves}
    for stage, file in run.items():
        # Few colours, since they are lines.
        Image.open(file).convert("RGB").quantize(16).save(folder / f"{stage}.png", optimize=True)
    for file in folder.glob("*.png"):
        if anew and file.stem not in run:
            file.unlink()
    return sorted(file.stem for file in folder.glob("*.png"))


def _curve_table(stages: list[str]) -> str:
    """Two curves to a row."""
    if not stages:
        return ""
    lines = ["| loss of the stage | |", "| --- | --- |"]
    for i in range(0, len(stages), 2):
        cells = [f"{stage} ![Loss of {stage}]({_LOSSES}/{stage}.png)" for stage in stages[i : i + 2]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sections(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Those sections of the card that it has."""
    file = folder / "README.md"
    parts = re.split(r"(?m)^## ", file.read_text(encoding="utf-8")) if file.exists() else []
    found = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    return {name: found[name] for name in names if name in found}


def drop_section(folder: Path, heading: str) -> None:
    """Take a section out of the card, if it has it."""
    file = folder / "README.md"
    parts = re.split(r"(?m)^(?=## )", file.read_text(encoding="utf-8")) if file.exists() else []
    if kept := [part for part in parts if part.partition("\n")[0] != f"## {heading}"]:
        _replace(file, "".join(kept))


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
    _replace(file, "".join(parts).rstrip() + "\n")


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
