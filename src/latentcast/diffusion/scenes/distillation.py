"""Training of the device's decoder, towards the originals of renders and the autoencoder's other pictures.

It sees latents as a device holds them, from good to very coarse, and is asked for the picture of the final
latent: so it learns to show what is known and to leave out what is noise.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.diffusion.scenes.autoencoder import encode_both_ways
from latentcast.diffusion.scenes.captions import full_caption
from latentcast.diffusion.scenes.coded import EarlyEstimates, Latents, LatentSpectrum
from latentcast.diffusion.scenes.course import Course
from latentcast.diffusion.scenes.dataset import both_ways, sample_scene
from latentcast.diffusion.scenes.descent import Descent
from latentcast.diffusion.scenes.distilled import DeviceDecoder
from latentcast.diffusion.scenes.fidelity import fidelity_loss
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.precision import autocast, compiled
from latentcast.diffusion.scenes.progress import Progress, StageProgress
from latentcast.diffusion.scenes.sheets import picture_sheet

__all__ = ["distil"]

Pictures = npt.NDArray[np.uint8]

# Of every batch, such shares are generated pictures, seen early, and renders' coarse latents. The others are
# fine, which is what the device ends with and where the decoder's own error counts.
_GENERATED_SHARE = 1 / 8
_COARSE_SHARE = 1 / 8
# Water levels of the coding noise, its decimal logarithm uniform: from the autoencoder's own noise to a blur.
_FINEST, _FINE, _COARSEST = 1e-5, 1e-3, 1.0
# Earlier estimates hold nothing worth showing.
_EARLIEST_SHARE = 0.9
_SHEET_LEVELS = (0.0, 0.01, 0.1, 0.4)


def distil(
    model: DiffusersModel,
    pictures: Pictures,
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str,
    progress: Progress,
    stop_at: float | None = None,
) -> DeviceDecoder:
    """Train a small decoder for a model's latents.

    Args:
        model: the embedded model, as it is shipped.
        pictures: renders, uint8 (num, H, W, 3); their mirror images are learned from, too.
        folder: where latents, checkpoint, loss curve and sample sheet lie; an interrupted run goes on there.
        plan: batch, updates, generated pictures, and the seed of weights, batches, noise and those pictures.
        device: "cpu" or "cuda".
        progress: called with (stage, done, total, text).
        stop_at: time.monotonic() at which to pause.

    Returns:
        The trained decoder.

    Raises:
        ModelError: if latents or checkpoint in the folder are of something else.
        PausedError: when its time is over.
    """
    seed, num_updates, batch_size = plan.seeds.device_decoder, plan.device_updates, plan.device_batch

    latents = encode_both_ways(
        model.pipe.vae,
        pictures,
        folder,
        device=device,
        progress=partial(progress, "latents"),
        stop_at=stop_at,
    )
    runs = _generate(
        model,
        plan.device_generated,
        folder / "generated.npz",
        seed,
        plan.num_at_once,
        partial(progress, "device-generated"),
    )
    targets = model.decode(runs.final)

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    spectrum = LatentSpectrum.of(latents)
    decoder = DeviceDecoder(plan.device_widths, plan.device_blocks).to(device).train()
    cast(Any, decoder).to(memory_format=torch.channels_last)
    forward = compiled(decoder.layers, device)
    descent = Descent(decoder, num_updates)
    state = {"decoder": decoder, **descent.optimisers}
    course = Course(
        folder / "device-decoder.pt", state, rng, num_updates, partial(progress, "device-decoder"), stop_at
    )
    for update in course:
        inputs, wanted = _batch(latents, pictures, runs, targets, spectrum, batch_size, rng)
        with autocast(device):
            held = torch.from_numpy(inputs).to(device, memory_format=torch.channels_last)
            output = forward(held).float()
        target = torch.from_numpy(wanted).to(device).permute(0, 3, 1, 2).float().div(255.0)
        loss = fidelity_loss(output - target)
        descent.update(update, loss)
        course.note(loss.item())
    cast(Any, decoder).to(memory_format=torch.contiguous_format)
    _sheet(model, decoder, latents, pictures, spectrum, folder / "device-decoder-samples.png", device)
    return decoder.eval()


def _batch(
    latents: Latents,
    pictures: Pictures,
    runs: EarlyEstimates,
    targets: Pictures,
    spectrum: LatentSpectrum,
    batch_size: int,
    rng: np.random.Generator,
) -> tuple[Latents, Pictures]:
    """Latents as held, and the picture that each should give."""
    num_generated = round(_GENERATED_SHARE * batch_size)
    num_coarse = round(_COARSE_SHARE * batch_size)
    rendered = rng.integers(len(latents), size=batch_size - num_generated)
    generated = rng.integers(len(runs.final), size=num_generated)
    # Half of them late, as they are when all went well.
    share = rng.random(num_generated) * rng.choice([0.0, _EARLIEST_SHARE], num_generated)
    known = runs.estimates[generated, (share * runs.estimates.shape[1]).astype(int)]
    sent = np.concatenate([latents[rendered], known])
    lowest, highest = np.full(batch_size, _FINEST), np.full(batch_size, _FINE)
    lowest[:num_coarse], highest[:num_coarse] = _FINE, _COARSEST
    level = 10.0 ** rng.uniform(np.log10(lowest), np.log10(highest))
    wanted = np.concatenate([both_ways(pictures, rendered), targets[generated]])
    return spectrum.coded(sent, level, rng), wanted


def _generate(
    model: DiffusersModel, count: int, path: Path, seed: int, at_once: int, progress: StageProgress
) -> EarlyEstimates:
    """Generate pictures of new scenes' captions, and keep the estimates of every step; resumable."""
    children = np.random.SeedSequence(seed).spawn(count)
    final: list[Latents] = []
    estimates: list[Latents] = []
    if path.exists():
        with np.load(path) as kept:
            final, estimates = list(kept["final"][:count]), list(kept["estimates"][:count])
    while len(final) < count:
        some = children[len(final) : len(final) + at_once]
        rngs = [np.random.default_rng(child) for child in some]
        captions = [full_caption(sample_scene(rng), rng) for rng in rngs]
        steps = list(model.steps(captions, [int(rng.integers(1 << 62)) for rng in rngs]))
        # Indexed by t = 0..T-1; at t = T nothing is known.
        ordered = np.stack([step.clean_estimate for step in reversed(steps[1:])], axis=1)
        final += list(steps[-1].sample)
        estimates += list(ordered)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, final=np.stack(final), estimates=np.stack(estimates))
        partial.replace(path)
        progress(len(final), count, "")
    return EarlyEstimates.of(np.stack(final), np.stack(estimates))


@torch.no_grad()
def _sheet(
    model: DiffusersModel,
    decoder: DeviceDecoder,
    latents: Latents,
    pictures: Pictures,
    spectrum: LatentSpectrum,
    path: Path,
    device: str,
) -> None:
    """Rows of originals, then of both decoders' pictures at growing distortion."""
    shown = min(8, len(latents))
    rng = np.random.default_rng(0)
    rows = [np.asarray(pictures[:shown])]
    for level in _SHEET_LEVELS:
        held = latents[:shown]
        if level > 0.0:
            held = spectrum.coded(held, np.full(shown, level), rng)
        small = decoder(torch.from_numpy(held).to(device)).mul(255.0).round().to(torch.uint8)
        rows += [model.decode(held), small.permute(0, 2, 3, 1).cpu().numpy()]
    picture_sheet(np.concatenate(rows), shown).save(path)
