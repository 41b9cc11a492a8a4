"""Any diffusers text-to-image latent pipeline as a source of latents.

Stable Diffusion, the embedded model and others take the same way.

The pipeline's own call denoises, with the ancestral sampler of the paper's eq. 3 built from its own scheduler
configuration, so whatever a pipeline does with its prompt and its guidance stays as its authors meant it.
torch and diffusers are imported when a model is loaded, not before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.callback import StepCallback, scheduler_path
from latentcast.diffusion.loading import (
    EMBEDDED,
    ancestral_scheduler,
    configured_guidance,
    find_model,
    load_components,
)
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape, Step, seed_stream, shared_noise
from latentcast.diffusion.worker import pulled
from latentcast.errors import LatentcastError, ModelError, ParameterError

__all__ = ["DiffusersModel", "Reading", "load_pipeline", "read_prompt", "sampler_seed"]

# Pictures decoded at once: bounds the memory of a long strip.
_DECODE_BATCH = 8


@dataclass(frozen=True)
class Reading:
    """How a model understands a prompt.

    Attributes:
        caption: The sentence that the model is given.
        notes: What was understood in another sense than written, one sentence each.
    """

    caption: str
    notes: tuple[str, ...] = ()


def read_prompt(model: str | Path, prompt: str, seed: int = 0) -> Reading:
    """How a model understands a prompt: the embedded one in its own vocabulary, others as it stands.

    Args:
        model: Name of the model; it need not be loaded.
        prompt: What is asked for.
        seed: Of what the embedded model chooses where an empty prompt leaves it the choice.

    Returns:
        The caption that the model is given, with remarks.

    Raises:
        ParameterError: If the embedded model knows nothing of what is asked for; it says what it knows.

    Example:
        >>> read_prompt("owner/name", "a lighthouse").caption
        'a lighthouse'
    """
    if model != EMBEDDED:
        return Reading(prompt)
    from latentcast.diffusion.scenes.reading import interpret

    interpretation = interpret(prompt, seed)
    return Reading(interpretation.caption, tuple(interpretation.notes))


def load_pipeline(
    name: str | Path = EMBEDDED,
    device: str = "cpu",
    *,
    num_steps: int = 50,
    guidance_scale: float | None = None,
) -> DiffusersModel:
    """Load a text-to-image latent diffusion pipeline.

    Args:
        name: "scenes" (the embedded model), the folder of a diffusers pipeline, or a hub id "owner/name".
        device: "cpu", "cuda" or another torch device.
        num_steps: T, the number of denoising steps.
        guidance_scale: Weight of the prompt; None for `guidance_scale` in the folder's `latentcast.json`, and
            Stable Diffusion's 7.5 where there is none.

    Returns:
        The model, ready to denoise and to decode.

    Raises:
        ModelError: If packages, weights or the device are missing, or the pipeline is not one that works on
            latents of unit variance.
        ParameterError: If an argument is out of range.

    Example:
        The model's trajectory of one prompt::

            model = load_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5", "cuda")
            trajectory = Trajectory.record(model.source, "a lighthouse at dusk", seed=0)
    """
    location = find_model(name)
    if guidance_scale is None:
        guidance_scale = configured_guidance(location)
    if not 0.0 <= guidance_scale <= 100.0:
        raise ParameterError(f"guidance_scale is {guidance_scale}; it must be 0 to 100")
    pipe = load_components(location, device)
    pipe.scheduler = ancestral_scheduler(pipe.scheduler, num_steps)
    return DiffusersModel(str(name), pipe, num_steps, float(guidance_scale), location)


class DiffusersModel:
    """A loaded pipeline: a `LatentSource` with a decoder. Made by `load_pipeline`.

    Attributes:
        name: The name that it was loaded by.
        folder: Where its files are, None for a hub id.
        pipe: The diffusers pipeline itself.
        latent_shape: (channels, height, width) of a latent.
        picture_size: (height, width) of a decoded picture in pixels.
        path: Noise path of its scheduler on the T steps.
        guidance_scale: Weight of the prompt in use.
    """

    def __init__(
        self, name: str, pipe: Any, num_steps: int, guidance_scale: float, location: str | Path
    ) -> None:
        self.name = name
        self.folder = location if isinstance(location, Path) else None
        self.pipe = pipe
        self.guidance_scale = guidance_scale
        config = _denoiser(pipe).config
        scaling_factor = getattr(pipe.vae.config, "scaling_factor", None)
        if not scaling_factor:
            raise ModelError(f"the VAE of {name} has scaling_factor {scaling_factor}; it must not be 0")
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.latent_shape: LatentShape = (int(config.in_channels), int(height), int(width))
        factor = int(pipe.vae_scale_factor)
        self.picture_size = (int(height) * factor, int(width) * factor)
        pipe.scheduler.set_timesteps(num_steps)
        self.path: NoisePath = scheduler_path(pipe.scheduler)
        self._busy = threading.Lock()

    @property
    def source(self) -> DiffusersModel:
        """The model as a `LatentSource`."""
        return self

    def read_prompt(self, prompt: str, seed: int = 0) -> Reading:
        """How the model understands a prompt; see the function of the same name."""
        return read_prompt(self.name, prompt, seed)

    def steps(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Step]:
        """Denoise one request per prompt and seed; see `LatentSource.steps`.

        The pipeline runs in a thread of its own, at most two steps ahead of the consumer; closing the
        iterator stops it at its next step.

        Raises:
            ParameterError: If there are not as many prompts as seeds, or none, or a prompt is not understood.
            ModelError: If the pipeline fails, or is still busy with an earlier iterator.
        """
        if len(prompts) != len(seeds) or not seeds:
            raise ParameterError(
                f"got {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt"
            )
        captions = [self.read_prompt(text, seed).caption for text, seed in zip(prompts, seeds, strict=True)]
        return self._steps(captions, seeds)

    def _steps(self, captions: list[str], seeds: Sequence[int]) -> Iterator[Step]:
        if not self._busy.acquire(blocking=False):
            raise ModelError(f"{self.name} is still denoising; finish or close the earlier iterator first")
        try:
            noise = np.stack([shared_noise(seed, self.latent_shape) for seed in seeds])
            yield Step(self.path.num_steps, noise, np.zeros_like(noise))

            def produce(push: Callable[[Step], None]) -> None:
                self._denoise(captions, seeds, noise, push)

            yield from pulled(produce, name=f"latentcast {self.name}")
        except (LatentcastError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ModelError(f"{self.name} failed while denoising: {_one_line(error)}") from error
        finally:
            self._busy.release()

    def _denoise(
        self,
        captions: list[str],
        seeds: Sequence[int],
        noise: npt.NDArray[np.float32],
        push: Callable[[Step], None],
    ) -> None:
        import torch

        denoiser = _denoiser(self.pipe)
        self.pipe(
            prompt=captions,
            num_inference_steps=self.path.num_steps,
            guidance_scale=self.guidance_scale,
            # On the CPU whatever the device is, so that every device draws the same noise.
            generator=[torch.Generator("cpu").manual_seed(sampler_seed(seed)) for seed in seeds],
            latents=torch.from_numpy(noise.copy()).to(denoiser.device, denoiser.dtype),
            output_type="latent",
            callback_on_step_end=StepCallback(self.pipe, push),
        )

    def decode(self, latents: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Decode latents to pictures with the VAE.

        Args:
            latents: float (batch, channels, height, width), at unit variance as the network sees them.

        Returns:
            uint8 array (batch, height, width, 3).

        Raises:
            ParameterError: If the latents are not of the model's shape.
            ModelError: If the decoder fails.
        """
        import torch

        array = np.asarray(latents, np.float32)
        if array.ndim != 4 or array.shape[1:] != self.latent_shape:
            raise ParameterError(
                f"latents have shape {array.shape}; they must be (batch, *{self.latent_shape})"
            )
        vae = self.pipe.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        pictures = []
        try:
            with torch.inference_mode():
                for start in range(0, len(array), _DECODE_BATCH):
                    chunk = torch.tensor(array[start : start + _DECODE_BATCH]).to(vae.device, vae.dtype)
                    picture = vae.decode(chunk / vae.config.scaling_factor + shift, return_dict=False)[0]
                    levels = (picture.float() * 127.5 + 127.5).round().clamp(0, 255)
                    pictures.append(levels.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy())
        except RuntimeError as error:
            raise ModelError(f"{self.name} failed while decoding: {_one_line(error)}") from error
        return np.concatenate(pictures) if pictures else np.zeros((0, *self.picture_size, 3), np.uint8)

    def describe(self) -> dict[str, Any]:
        """The model in plain JSON values: shapes, parameters per component, noise schedule, guidance."""
        from torch import nn

        schedule = self.pipe.scheduler.config
        card = self.folder / "README.md" if self.folder is not None else None
        return {
            "model": self.name,
            "pipeline": type(self.pipe).__name__,
            "folder": None if self.folder is None else str(self.folder),
            "latent_shape": list(self.latent_shape),
            "latent_size": int(np.prod(self.latent_shape)),
            "picture_size": list(self.picture_size),
            "parameters": {
                name: sum(parameter.numel() for parameter in component.parameters())
                for name, component in sorted(self.pipe.components.items())
                if isinstance(component, nn.Module)
            },
            "noise_schedule": {
                "training_steps": int(schedule.num_train_timesteps),
                "beta_schedule": schedule.beta_schedule,
                "beta_start": float(schedule.beta_start),
                "beta_end": float(schedule.beta_end),
                "prediction_type": schedule.prediction_type,
                "num_steps": self.path.num_steps,
                "alpha_bar_at_noise": float(self.path.alpha_bar[-1]),
            },
            "guidance_scale": self.guidance_scale,
            "model_card": str(card) if card is not None and card.is_file() else None,
        }


def _denoiser(pipe: Any) -> Any:
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    config = getattr(denoiser, "config", None)
    if getattr(config, "sample_size", None) is None or getattr(pipe, "vae", None) is None:
        raise ModelError(
            f"{type(pipe).__name__} is not a latent text-to-image pipeline with a U-Net and a VAE"
        )
    return denoiser


def sampler_seed(seed: int) -> int:
    """The torch seed of a request's sampler noise, the same on every device and in every batch."""
    return int(seed_stream(seed, "sampler").generate_state(1, np.uint64)[0] >> np.uint64(1))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
