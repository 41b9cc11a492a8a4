"""Step-level batching: one denoiser call for requests that stand at different steps.

`DiffusersModel.steps` denoises a batch that starts and ends together. A server's requests come and go, so
here every item has its own training step, its own number of steps and its own sampler noise, and a batch is
put together anew for every call. Written out is the loop of Stable Diffusion's pipeline, which is the reason
why only pipelines of that family are taken; the result for an item is that of `DiffusersModel.steps`,
whatever else is in the batch, up to the rounding of float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.callback import scheduler_path
from latentcast.diffusion.loading import ancestral_scheduler, quiet_logs
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel, sampler_seed
from latentcast.diffusion.source import FloatArray, LatentShape, Step, shared_noise
from latentcast.errors import LatentcastError, ModelError, ParameterError

__all__ = ["BatchedDenoiser", "Run"]

# Settings of a U-Net under which it needs more than a sample, a training step and the text.
_EXTRA_CONDITIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")

# Largest difference to the network that its twin may have, as a share of the largest output: 1e-5 is usual.
_AGREEMENT = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Schedule:
    """What eq. 3 needs at every step t = 1..T; entry 0 stands for nothing.

    With the network's output v, xhat0 = sample_weight x_t + output_weight v, and x_(t-1) = clean_gain xhat0 +
    sample_gain x_t + deviation z.
    """

    path: NoisePath
    training_steps: npt.NDArray[np.int64]
    coefficients: FloatArray  # (T + 1, 5), the columns in the order above


@dataclass(eq=False)
class Run:
    """One request on its way from noise to x_0. Made by `BatchedDenoiser.start`.

    Attributes:
        caption: What the network is told.
        seed: The root seed.
        num_steps: T.
        index: The step t that it stands at: T at the start, 0 when it is finished.
    """

    caption: str
    seed: int
    num_steps: int
    index: int = field(init=False)
    _sample: Any = field(init=False, repr=False)
    _text: Any = field(init=False, repr=False)
    _generator: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.index = self.num_steps

    @property
    def is_finished(self) -> bool:
        """Whether x_0 is reached."""
        return self.index == 0


class BatchedDenoiser:
    """Denoises runs at different steps together, with classifier-free guidance in the same call.

    It is for one thread at a time; the model itself stays usable. On a CPU, a twin of the network that needs
    less arithmetic takes its place (`twin`), and each of torch's threads takes a part of the batch:
    that leaves no core waiting, as sharing out every operation does.

    Args:
        model: A loaded pipeline of Stable Diffusion's kind.

    Raises:
        ModelError: If the denoiser needs other conditions than the text, or no step of an item's own.

    Example:
        Two requests, the second one starting a step later::

            denoiser = BatchedDenoiser(load_pipeline("scenes"))
            first = denoiser.start("a red sphere", seed=0, num_steps=50)
            denoiser.advance([first])
            second = denoiser.start("a blue cube", seed=1, num_steps=20)
            steps = denoiser.advance([first, second])
    """

    def __init__(self, model: DiffusersModel) -> None:
        import torch

        _require_plain_pipeline(model)
        self._model = model
        self._unet = model.pipe.unet
        # Both are looked for through all modules when they are asked for.
        self._device, self._dtype = self._unet.device, self._unet.dtype
        self._network: Any = self._unet
        self._helpers: ThreadPoolExecutor | None = None
        self._num_parts = 1
        if self._device.type == "cpu":
            self._network = _network_for_cpu(self._unet, self.latent_shape)
            self._num_parts = torch.get_num_threads()
        if self._num_parts > 1:
            self._helpers = ThreadPoolExecutor(
                self._num_parts, "latentcast denoiser", initializer=torch.set_num_threads, initargs=(1,)
            )
        self._guided = model.guidance_scale > 1.0
        self._empty_text: Any = None
        self._schedule = lru_cache(maxsize=16)(self._make_schedule)

    def close(self) -> None:
        """End the threads; nothing can be denoised after it."""
        if self._helpers is not None:
            self._helpers.shutdown()

    @property
    def latent_shape(self) -> LatentShape:
        """(channels, height, width) of a latent."""
        return self._model.latent_shape

    def path(self, num_steps: int) -> NoisePath:
        """The noise path of a run of so many steps."""
        return self._schedule(num_steps).path

    def start(self, caption: str, seed: int, num_steps: int) -> Run:
        """Begin a run: its initial noise, its text's embedding and a sampler noise of its own.

        Args:
            caption: What the network is told, as `read_prompt` gave it.
            seed: The root seed.
            num_steps: T of this run.

        Raises:
            ParameterError: If the seed or the number of steps is out of range.
            ModelError: If the text encoder fails.
        """
        import torch

        self._schedule(num_steps)
        run = Run(caption, seed, num_steps)
        noise = shared_noise(seed, self.latent_shape)[None]
        try:
            with torch.inference_mode():
                run._text, empty = self._encoded(caption)
                if self._guided and self._empty_text is None:
                    self._empty_text = empty
                run._sample = torch.from_numpy(noise.copy()).to(self._device, self._dtype)
        except Exception as error:  # whatever the libraries raise becomes our one error
            raise self._failure(error) from error
        # On the CPU whatever the device is, so that every device draws the same noise.
        run._generator = torch.Generator("cpu").manual_seed(sampler_seed(seed))
        return run

    def advance(self, runs: Sequence[Run]) -> list[Step]:
        """Take every run one step further, in one call of the network.

        Args:
            runs: At least one, each once, none finished.

        Returns:
            A step of batch size 1 for every run, in their order.

        Raises:
            ParameterError: If there is no run, one twice, or a finished one.
            ModelError: If the network fails; the runs stay where they were, save that their sampler noise
                has gone on where it failed late.
        """
        import torch

        if not runs or len({id(run) for run in runs}) < len(runs) or any(run.is_finished for run in runs):
            raise ParameterError(
                f"got {len(runs)} runs, {sum(run.is_finished for run in runs)} of them finished; "
                "give at least one, each once, and none that is finished"
            )
        try:
            with torch.inference_mode():
                samples, estimates = self._advance(runs)
                steps = zip(_to_numpy(samples), _to_numpy(estimates), strict=True)
                for run, sample in zip(runs, samples.split(1), strict=True):
                    run._sample = sample
                    run.index -= 1
        except LatentcastError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return [
            Step(run.index, sample[None], estimate[None])
            for run, (sample, estimate) in zip(runs, steps, strict=True)
        ]

    def _advance(self, runs: Sequence[Run]) -> tuple[Any, Any]:
        import torch

        device, dtype = self._device, self._dtype
        schedules = [self._schedule(run.num_steps) for run in runs]
        training_steps = torch.tensor(
            [int(schedule.training_steps[run.index]) for schedule, run in zip(schedules, runs, strict=True)],
            device=device,
        )
        rows = np.stack([s.coefficients[run.index] for s, run in zip(schedules, runs, strict=True)])
        sample = torch.cat([run._sample for run in runs])
        text = torch.cat([run._text for run in runs])
        if self._guided:
            without = self._empty_text.expand(len(runs), *self._empty_text.shape[1:])
            both = self._predicted(
                torch.cat([sample, sample]),
                torch.cat([training_steps, training_steps]),
                torch.cat([without, text]),
            )
            empty_output, output = both.chunk(2)
            output = empty_output + self._model.guidance_scale * (output - empty_output)
        else:
            output = self._predicted(sample, training_steps, text)
        weights = torch.from_numpy(rows).to(device, dtype)[:, :, None, None, None].unbind(1)
        sample_weight, output_weight, clean_gain, sample_gain, deviation = weights
        estimate = sample_weight * sample + output_weight * output
        # The last step draws nothing: x_0 is its estimate.
        fresh = [
            torch.randn(run._sample.shape, generator=run._generator)
            if run.index > 1
            else torch.zeros(run._sample.shape)
            for run in runs
        ]
        noise = torch.cat(fresh).to(device, dtype)
        return clean_gain * estimate + sample_gain * sample + deviation * noise, estimate

    def _predicted(self, sample: Any, training_steps: Any, text: Any) -> Any:
        """The network's output; every thread has a part of the rows."""
        import torch

        parts = min(self._num_parts, len(sample))
        if self._helpers is None or parts < 2:
            return _call(self._network, sample, training_steps, text)
        pieces = zip(*(tensor.tensor_split(parts) for tensor in (sample, training_steps, text)), strict=True)
        futures = [self._helpers.submit(_call, self._network, *piece) for piece in pieces]
        return torch.cat([future.result() for future in futures])

    def _encoded(self, caption: str) -> tuple[Any, Any]:
        """The caption's embedding, and that of no caption where guidance still lacks it."""
        if self._helpers is None:
            return self._encode(caption)
        return self._helpers.submit(self._encode, caption).result()

    def _encode(self, caption: str) -> tuple[Any, Any]:
        import torch

        # Text encoders would write two lines for each prompt that they cut short.
        with torch.inference_mode(), quiet_logs():
            text, empty = self._model.pipe.encode_prompt(
                caption, self._device, 1, self._guided and self._empty_text is None
            )
        return text, empty

    def _make_schedule(self, num_steps: int) -> _Schedule:
        scheduler = ancestral_scheduler(self._model.pipe.scheduler, num_steps)
        scheduler.set_timesteps(num_steps)
        steps = np.sort(np.array([int(step) for step in scheduler.timesteps], np.int64))
        alpha_bar = np.append(1.0, scheduler.alphas_cumprod.double().numpy()[steps])
        now, before = alpha_bar[1:], alpha_bar[:-1]
        alpha = now / before
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            weights = 1.0 / np.sqrt(now), -np.sqrt((1.0 - now) / now)
        elif kind == "v_prediction":
            weights = np.sqrt(now), -np.sqrt(1.0 - now)
        elif kind == "sample":
            weights = np.zeros_like(now), np.ones_like(now)
        else:
            raise ModelError(
                f"the model predicts {kind!r}; latentcast knows epsilon, v_prediction and sample"
            )
        rows = (
            *weights,
            np.sqrt(before) * (1.0 - alpha) / (1.0 - now),
            np.sqrt(alpha) * (1.0 - before) / (1.0 - now),
            np.sqrt((1.0 - before) / (1.0 - now) * (1.0 - alpha)),
        )
        coefficients = np.zeros((num_steps + 1, len(rows)), np.float32)
        coefficients[1:] = np.stack(rows, axis=1)
        return _Schedule(
            path=scheduler_path(scheduler),
            training_steps=np.append(-1, steps),
            coefficients=coefficients,
        )

    def _failure(self, error: Exception) -> ModelError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return ModelError(f"{self._model.name} failed while denoising: {reason}")


def _network_for_cpu(unet: Any, latent_shape: LatentShape) -> Any:
    """The quicker twin, where it agrees with the network; else the network, its weights as it likes them."""
    import torch

    if unet.dtype == torch.float32:
        # Whatever goes wrong there, the network itself does as well, only slower.
        with contextlib.suppress(Exception):
            from latentcast.diffusion.twin import quick_twin

            twin = quick_twin(unet)
            generator = torch.Generator().manual_seed(0)
            sample = torch.randn((2, *latent_shape), generator=generator)
            text = torch.randn((2, 8, unet.config.cross_attention_dim), generator=generator)
            steps = torch.tensor([1, 500])
            wanted, got = _call(unet, sample, steps, text), _call(twin, sample, steps, text)
            if float((got - wanted).abs().max()) <= _AGREEMENT * float(wanted.abs().max()):
                return twin
    return unet.to(memory_format=torch.channels_last)


def _call(network: Any, sample: Any, training_steps: Any, text: Any) -> Any:
    import torch

    with torch.inference_mode():
        layout = sample.contiguous(memory_format=torch.channels_last)
        return network(layout, training_steps, encoder_hidden_states=text, return_dict=False)[0]


def _require_plain_pipeline(model: DiffusersModel) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = model.pipe
    if not isinstance(pipe, StableDiffusionPipeline):
        raise ModelError(
            f"{model.name} is a {type(pipe).__name__}; requests at different steps can be batched for "
            "pipelines of Stable Diffusion's kind only, whose network takes a sample, a step and a text"
        )
    config = pipe.unet.config
    extra = [name for name in _EXTRA_CONDITIONS if getattr(config, name, None) is not None]
    if extra or config.in_channels != pipe.vae.config.latent_channels:
        wants = ", ".join(extra) or f"{config.in_channels} input channels"
        raise ModelError(
            f"the network of {model.name} wants more than a sample and a text ({wants}); "
            "requests at different steps cannot be batched for it"
        )


def _to_numpy(tensor: Any) -> FloatArray:
    return np.array(tensor.float().cpu().numpy(), order="C")
