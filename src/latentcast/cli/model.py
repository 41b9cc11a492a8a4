"""What `latentcast model` does to look at, train and export models, once its arguments are parsed."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentcast.cli import console
from latentcast.cli.packages import needs
from latentcast.diffusion.device_decoder import device_decoder_place
from latentcast.diffusion.loading import EMBEDDED, quiet_logs
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.errors import ModelError, ParameterError
from latentcast.study.metrics.ssim import ssim
from latentcast.study.output import OutputFolder

__all__ = ["print_model", "run_model_export", "run_model_info", "run_model_train"]

DENOISER, JUDGE, DEVICE_DECODER = STAGES = ("denoiser", "judge", "device-decoder")


def run_model_info(name: str, *, as_json: bool) -> None:
    """Print what a model is, and its card.

    Raises:
        ModelError: If it cannot be loaded.
    """
    description = load_pipeline(name).describe()
    card = None
    if description["model_card"] is not None:
        try:
            card = Path(description["model_card"]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read {description['model_card']}: {error}") from error
    if as_json:
        console.print_json({**description, "model_card_text": card})
    else:
        print_model(description, card)


def run_model_train(
    name: str,
    out: Path,
    *,
    only: str | None,
    device: str,
    picture_size: int | None,
    minutes: float | None,
    as_json: bool,
) -> None:
    """Train the embedded model anew, or only its denoiser, or judge it, or make its decoder for devices.

    Raises:
        ParameterError: If another model, or a stage that cannot be made alone, is asked for.
        PausedError: When the minutes are over.
        LatentcastError: If the folder cannot be written, or training fails.
    """
    if name != EMBEDDED:
        raise ParameterError(f"cannot train {name!r}; the only model that latentcast trains is {EMBEDDED!r}")
    if only not in (None, *STAGES):
        raise ParameterError(f"--only is {only!r}; the stages that can be made alone are {', '.join(STAGES)}")
    if only is not None and picture_size is not None:
        raise ParameterError("--picture-size is that of a new model; the one in --out has its own")
    stop_at = None if minutes is None else time.monotonic() + 60.0 * minutes
    OutputFolder(out)
    with needs("training needs", "models"), quiet_logs():
        from latentcast.diffusion.scenes.denoiser_training import retrain_denoiser
        from latentcast.diffusion.scenes.device_training import train_device_decoder
        from latentcast.diffusion.scenes.judging import judge_model
        from latentcast.diffusion.scenes.plan import plan_for
        from latentcast.diffusion.scenes.training import train
    with console.StageProgress.show() as progress:
        if only is None:
            plan = plan_for(device, picture_size)
            made = train(
                out, device=device, similarity=ssim, progress=progress, plan=plan, stop_at=stop_at
            ).to_dict()
        elif only == DENOISER:
            made = retrain_denoiser(
                out, device=device, similarity=ssim, progress=progress, stop_at=stop_at
            ).to_dict()
        elif only == JUDGE:
            made = judge_model(
                out, device=device, similarity=ssim, progress=progress, stop_at=stop_at
            ).to_dict()
        else:
            made = asdict(
                train_device_decoder(out, device=device, similarity=ssim, progress=progress, stop_at=stop_at)
            )
    if as_json:
        console.print_json({"model": str(out), **made})
    else:
        card = out / "README.md"
        console.print_text(card.read_text(encoding="utf-8").strip() + "\n")
        console.print_files([card])


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
        console.print_sentence(
            f"{report.num_parameters:,} parameters in {report.num_bytes / 1e6:.2f} MB; the picture differs "
            f"from torch's by at most {255.0 * report.max_difference:.2g} of 255 grey levels."
        )
        console.print_files([report.file])


def print_model(description: dict[str, Any], card: str | None) -> None:
    """What a model is, and its card."""
    schedule = description["noise_schedule"]
    shape = " x ".join(map(str, description["latent_shape"]))
    console.print_facts(
        {
            "model": description["model"],
            "pipeline": description["pipeline"],
            "folder": description["folder"] or "(from the hub)",
            "latent": f"{shape} = {description['latent_size']} numbers",
            "picture": f"{description['picture_size'][1]} x {description['picture_size'][0]} pixels",
            **{f"parameters, {name}": f"{count:,}" for name, count in description["parameters"].items()},
            "noise schedule": (
                f"{schedule['beta_schedule']} beta {schedule['beta_start']:g} to {schedule['beta_end']:g} in "
                f"{schedule['training_steps']} training steps, predicts {schedule['prediction_type']}"
            ),
            "guidance scale": f"{description['guidance_scale']:g}",
            "model card": description["model_card"] or "(none)",
        }
    )
    if card is not None:
        console.print_text("\n" + card.strip())
