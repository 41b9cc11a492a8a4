"""The stage of training that makes the device's decoder, which can also be run alone on a model's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.device_decoder import device_decoder_place
from latentcast.diffusion.export import export_onnx, require_export_packages
from latentcast.diffusion.loading import require_device
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.agreement import Agreement, Similarity, measure_agreement, write_agreement
from latentcast.diffusion.scenes.autoencoder import encode_pictures
from latentcast.diffusion.scenes.dataset import draw_scenes, render_pictures
from latentcast.diffusion.scenes.distillation import distil
from latentcast.diffusion.scenes.distilled import save_device_decoder
from latentcast.diffusion.scenes.judging import NUM_STEPS, recorded_plan
from latentcast.diffusion.scenes.plan import TrainingPlan

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
    progress: Callable[[str, int, int, str], None],
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
        plan: how much of everything; the one that is recorded in the folder where None.
        stop_at: time.monotonic() at which to pause.

    Returns:
        What was made and measured.

    Raises:
        ModelError: if the folder holds no pipeline, or packages are missing.
        PausedError: when the time is over; the next call goes on.
    """
    require_export_packages()
    require_device(device)
    plan = plan or recorded_plan(out)
    work = work or out.with_name(out.name + ".work")
    model = load_pipeline(out, device, num_steps=NUM_STEPS)
    work.mkdir(parents=True, exist_ok=True)
    seeds = plan.seeds

    def renders(name: str, count: int, scenes: int, shadows: int) -> npt.NDArray[np.uint8]:
        # Only when no earlier stage has drawn them: laying out the scenes takes a while, too.
        def told(done: int, total: int) -> None:
            progress("render", done, total, "")

        file = work / name
        if file.exists():
            pictures: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r")
            return pictures[:count]
        return render_pictures(draw_scenes(count, scenes), file, shadows, told, plan.picture_size)

    from_training = "pictures.npy" if (work / "pictures.npy").exists() else "device-pictures.npy"
    decoder = distil(
        model,
        renders(from_training, plan.device_pictures, seeds.scenes, seeds.shadows),
        work,
        plan,
        device=device,
        progress=progress,
        stop_at=stop_at,
    )
    save_device_decoder(decoder, out)
    report = export_onnx(decoder, model.latent_shape, device_decoder_place(out))
    held_out = renders("held-out.npy", plan.num_held_out, seeds.held_out_scenes, seeds.held_out_shadows)
    agreement = measure_agreement(
        model,
        decoder,
        held_out,
        encode_pictures(model.pipe.vae, held_out, device=device),
        similarity,
        seed=seeds.device_decoder,
        progress=lambda done, total, text: progress("device-measured", done, total, text),
    )
    write_agreement(out, agreement, report.num_bytes)
    return DeviceDecoderFindings(
        file=str(report.file),
        num_bytes=report.num_bytes,
        max_difference=report.max_difference,
        agreement=agreement,
    )
