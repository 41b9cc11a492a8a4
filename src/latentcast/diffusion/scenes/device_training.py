"""The stage of training that makes the device's decoder, which can also be run alone on a model's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentcast.diffusion.device_decoder import device_decoder_place
from latentcast.diffusion.export import export_onnx, require_export_packages
from latentcast.diffusion.loading import require_device
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.agreement import Agreement, Similarity, measure_agreement, write_agreement
from latentcast.diffusion.scenes.autoencoder import encode_pictures
from latentcast.diffusion.scenes.dataset import held_out_renders, make_renders
from latentcast.diffusion.scenes.distillation import distil
from latentcast.diffusion.scenes.distilled import save_device_decoder
from latentcast.diffusion.scenes.judging import NUM_STEPS
from latentcast.diffusion.scenes.plan import TrainingPlan, plan_for
from latentcast.diffusion.scenes.progress import Progress
from latentcast.diffusion.scenes.training_record import recorded_plan, write_record

__all__ = ["DeviceDecoderFindings", "train_device_decoder"]


@dataclass(frozen=True, kw_only=True)
class DeviceDecoderFindings:
    """What became of the stage.

    Attributes:
        file: the ONNX file.
        num_bytes: its size.
        max_difference: largest difference between its picture and torch's, whose range is 0..1.
        agreement: how well it decodes.
    """

    file: str
    num_bytes: int
    max_difference: float
    agreement: Agreement


def train_device_decoder(
    out: Path,
    *,
    device: str,
    similarity: Similarity,
    progress: Progress,
    work: Path | None = None,
    plan: TrainingPlan | None = None,
    stop_at: float | None = None,
) -> DeviceDecoderFindings:
    """Distil the decoder of a trained model's folder; write it there as weights, as ONNX, and into the card.

    Args:
        out: folder of the embedded model.
        device: "cpu" or "cuda".
        similarity: SSIM, for the card.
        progress: called with (stage, done, total, text).
        work: folder for renders and checkpoints; `out` with ".work" appended where None. Renders that the
            training of the whole model left there are used.
        plan: how this decoder is made; the machine's own plan where None. All else is as the folder records.
        stop_at: time.monotonic() at which to pause.

    Returns:
        What was made and measured.

    Raises:
        ModelError: if the folder holds no pipeline, or packages are missing.
        PausedError: when the time is over; the next call goes on.
    """
    require_export_packages()
    require_device(device)
    plan = recorded_plan(out).with_stage(plan or plan_for(device), "device-decoder")
    work = work or out.with_name(out.name + ".work")
    model = load_pipeline(out, device, num_steps=NUM_STEPS)
    work.mkdir(parents=True, exist_ok=True)
    _, pictures = make_renders(work, plan, progress=progress, stop_at=stop_at)
    _, held_out = held_out_renders(work, plan, progress=progress, stop_at=stop_at)
    decoder = distil(
        model,
        pictures,
        work,
        plan,
        device=device,
        progress=progress,
        stop_at=stop_at,
    )
    save_device_decoder(decoder, out)
    report = export_onnx(decoder, model.latent_shape, device_decoder_place(out))
    agreement = measure_agreement(
        model,
        decoder,
        held_out,
        encode_pictures(model.pipe.vae, held_out, device=device),
        similarity,
        seed=plan.seeds.device_decoder,
        progress=partial(progress, "device-measured"),
    )
    write_agreement(out, agreement, report.num_bytes, plan)
    write_record(out, plan)
    return DeviceDecoderFindings(
        file=str(report.file),
        num_bytes=report.num_bytes,
        max_difference=report.max_difference,
        agreement=agreement,
    )
