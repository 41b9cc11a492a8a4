"""What the steps of a diffusers pipeline mean in the paper's words.

diffusers calls `callback_on_step_end(pipe, i, timestep, tensors)` after each update, with the training step
from *before* the update: the latents it hands over belong to the next listed training step, and after the
last one to the clean latent, t = 0. `StepCallback` does this conversion for any pipeline and any scheduler
that keeps latents at unit variance. Nothing here imports torch or diffusers; it works on the objects that it
is given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import numpy as np

from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import ModelError, ParameterError

__all__ = ["EstimateRecorder", "StepCallback", "scheduler_path"]


def scheduler_path(scheduler: Any) -> NoisePath:
    """The noise path of a diffusers scheduler on the training steps that it is set to.

    Args:
        scheduler: A scheduler with `alphas_cumprod`, after `set_timesteps`.

    Returns:
        abar_t = alphas_cumprod at the t-th smallest of the distinct training steps, and abar_0 = 1. Where the
        table is Stable Diffusion's up to float32 rounding, it is `NoisePath.stable_diffusion` itself, so that
        a device without torch computes with the same numbers.

    Raises:
        ModelError: If the scheduler does not keep latents at unit variance.
    """
    _require_unit_variance(scheduler)
    alphas_cumprod = scheduler.alphas_cumprod.detach().cpu().double().numpy()
    training_steps = _training_steps(scheduler)
    alpha_bar = np.append(1.0, alphas_cumprod[training_steps])
    num_steps = len(training_steps)
    try:
        standard = NoisePath.stable_diffusion(num_steps)
    except ParameterError:
        standard = None
    if standard is not None and np.allclose(alpha_bar, standard.alpha_bar, rtol=1e-5, atol=0.0):
        return standard
    return NoisePath.from_alpha_bar(alpha_bar)


class EstimateRecorder:
    """Stands in for `scheduler.step` and keeps the clean estimate of the latest call.

    The estimate of x_0 is `pred_original_sample` where the scheduler returns it (DDPM, DDIM), otherwise it is
    computed from the network's output, the sample and the prediction type.

    Args:
        scheduler: A diffusers scheduler; its `step` is replaced on this one object.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._step = scheduler.step
        self.estimate: Any = None
        # diffusers inspects the signature of `step` to see which arguments it takes.
        update_wrapper(self, self._step)

    @classmethod
    def attach(cls, scheduler: Any) -> EstimateRecorder:
        """The recorder of this scheduler; made on the first call, the same one afterwards."""
        if not isinstance(scheduler.step, cls):
            scheduler.step = cls(scheduler)
        recorder: EstimateRecorder = scheduler.step
        return recorder

    def __call__(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Make the scheduler's step and keep its clean estimate."""
        output = self._step(model_output, timestep, sample, *args, return_dict=True, **kwargs)
        estimate = getattr(output, "pred_original_sample", None)
        if estimate is None:
            estimate = self._clean_estimate(model_output, int(timestep), sample)
        self.estimate = estimate
        return output if return_dict else output.to_tuple()

    def _clean_estimate(self, model_output: Any, training_step: int, sample: Any) -> Any:
        """x_0 from eq. 2, for each of the three things that a network may be trained to predict."""
        alpha_bar = float(self._scheduler.alphas_cumprod[training_step])
        signal, noise = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
        prediction_type = self._scheduler.config.prediction_type
        if prediction_type == "epsilon":
            return (sample - noise * model_output) / signal
        if prediction_type == "v_prediction":
            return signal * sample - noise * model_output
        if prediction_type == "sample":
            return model_output
        raise ModelError(
            f"the model predicts {prediction_type!r}; latentcast knows epsilon, v_prediction and sample"
        )


class StepCallback:
    """Feeds the steps of any diffusers script to a consumer, such as `Sender.offer`.

    Args:
        pipe: The pipeline that the script runs; its scheduler's clean estimates are recorded from now on.
        consumer: Called with a `Step` after every denoising step, for t = T-1, ..., 0.

    Raises:
        ModelError: If the pipeline's scheduler does not keep latents at unit variance.

    Example:
        In an ordinary diffusers script, with a `Sender` that a network loop polls once per slot::

            callback = StepCallback(pipe, sender.offer)
            pipe("a red sphere", callback_on_step_end=callback)
    """

    def __init__(self, pipe: Any, consumer: Callable[[Step], object]) -> None:
        _require_unit_variance(pipe.scheduler)
        self._recorder = EstimateRecorder.attach(pipe.scheduler)
        self._consumer = consumer

    def __call__(self, pipe: Any, position: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Convert one step; see diffusers' `callback_on_step_end`."""
        index = _index_after(pipe.scheduler, position, int(timestep))
        self._consumer(Step(index, to_numpy(tensors["latents"]), to_numpy(self._recorder.estimate)))
        return tensors


def to_numpy(tensor: Any) -> FloatArray:
    """A float32 copy of a torch tensor in host memory."""
    return np.array(tensor.detach().float().cpu().numpy(), order="C")


def _training_steps(scheduler: Any) -> list[int]:
    """The distinct training steps in rising order: entry t - 1 is that of the paper's step t."""
    return sorted({int(timestep) for timestep in scheduler.timesteps})


def _index_after(scheduler: Any, position: int, timestep: int) -> int:
    """The paper's step t of the latents after the call at `position`, made at training step `timestep`."""
    listed = [int(value) for value in scheduler.timesteps]
    # Image-to-image pipelines start in the middle of the list and count positions from there.
    if not (position < len(listed) and listed[position] == timestep):
        position = listed.index(timestep)
    if position + 1 == len(listed):
        return 0
    # A scheduler may list a training step twice and redo it (PNDM does): the rank counts it once.
    return _training_steps(scheduler).index(listed[position + 1]) + 1


def _require_unit_variance(scheduler: Any) -> None:
    known = hasattr(scheduler, "alphas_cumprod") and float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1.0
    if not known:
        raise ModelError(
            f"{type(scheduler).__name__} does not keep latents at unit variance; use a scheduler that does, "
            "such as DDPMScheduler, DDIMScheduler or DPMSolverMultistepScheduler"
        )
