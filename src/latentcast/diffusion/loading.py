"""Finding and opening the files of a diffusers pipeline, with every way that can fail told in one line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latentcast.errors import ModelError, ParameterError

__all__ = [
    "EMBEDDED",
    "ancestral_scheduler",
    "configured_guidance",
    "file_of_model",
    "find_model",
    "load_components",
    "quiet",
    "quiet_logs",
    "require_device",
]

EMBEDDED = "scenes"

# That of Stable Diffusion.
DEFAULT_GUIDANCE_SCALE = 7.5

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_model(name: str | Path) -> str | Path:
    """Where a model's files are.

    Args:
        name: "scenes", a folder, or a hub id "owner/name". What exists as a folder is a folder; what looks
            like a local path (".", "/", "~" or a backslash in front, more than one slash) is never looked up
            on the hub.

    Returns:
        The folder, or the hub id as a string.

    Raises:
        ModelError: If the name is neither, or the folder is missing or holds no pipeline.

    Example:
        >>> find_model("stable-diffusion-v1-5/stable-diffusion-v1-5")
        'stable-diffusion-v1-5/stable-diffusion-v1-5'
    """
    if name == EMBEDDED:
        from latentcast.diffusion.scenes import weights_folder

        return weights_folder()
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, or the home of nobody
        raise ModelError(
            f"there is no model {str(name)[:60]!r} ({getattr(error, 'strerror', None) or error}); "
            "give 'scenes', the folder of a diffusers pipeline, or a hub id"
        ) from error
    if is_folder:
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"{folder} holds no model_index.json; give the folder of a diffusers pipeline")
        return folder
    if isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).parts[0].startswith("."):
        return name
    if isinstance(name, Path) or re.search(r"^[./~]|[/\\]", name):
        raise ModelError(
            f"there is no folder {name}; give 'scenes', the folder of a diffusers pipeline, or a hub id"
        )
    raise ModelError(
        f"unknown model {name!r}; give 'scenes', the folder of a diffusers pipeline, or a hub id such as "
        "stable-diffusion-v1-5/stable-diffusion-v1-5"
    )


def file_of_model(model: str | Path, name: str) -> Path:
    """Where a file that belongs to a model is kept: in its folder, or in the user's cache for one of the hub.

    Args:
        model: "scenes", a folder, or a hub id.
        name: The file's name in the folder.

    Returns:
        The path, whether there is such a file or not.

    Raises:
        ModelError: If there is no such model.

    Example:
        >>> file_of_model("scenes", "device_decoder.onnx").name
        'device_decoder.onnx'
        >>> file_of_model("owner/name", "device_decoder.onnx").name
        'device-decoder-owner--name.onnx'
    """
    place = find_model(model)
    if isinstance(place, Path):
        return place / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    stem, suffix = Path(name).stem.replace("_", "-"), Path(name).suffix
    return cache / "latentcast" / f"{stem}-{place.replace('/', '--')}{suffix}"


def configured_guidance(location: str | Path) -> float:
    """The guidance scale that a model's folder asks for in `latentcast.json`, and 7.5 where it asks for none.

    Raises:
        ModelError: If the file is not as it should be.
    """
    settings = Path(location) / "latentcast.json"
    if not (isinstance(location, Path) and settings.is_file()):
        return DEFAULT_GUIDANCE_SCALE
    try:
        return float(
            json.loads(settings.read_text(encoding="utf-8")).get("guidance_scale", DEFAULT_GUIDANCE_SCALE)
        )
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ModelError(
            f'{settings} is unreadable ({error}); it should read like {{"guidance_scale": 3.0}}'
        ) from error


def load_components(location: str | Path, device: str) -> Any:
    """Open a diffusers pipeline in float32 on a device, silently.

    Args:
        location: What `find_model` returned.
        device: A torch device.

    Returns:
        The diffusers pipeline.

    Raises:
        ModelError: If packages are missing, the device is not there, or the files cannot be read or fetched.
    """
    for package in ("torch", "diffusers", "transformers"):
        if find_spec(package) is None:
            raise ModelError(
                f"a diffusion model needs the package {package}; "
                "install it with: pip install 'latentcast[models]'"
            )
    import diffusers
    import torch

    require_device(device)
    try:
        with quiet():
            pipe = diffusers.DiffusionPipeline.from_pretrained(str(location)).to(device, torch.float32)
    except Exception as error:  # whatever the libraries raise becomes our one error
        reason = " ".join(str(error).split())[:200]
        if isinstance(location, Path):
            raise ModelError(f"cannot load the model in {location}: {reason}") from error
        raise ModelError(
            f"cannot fetch {location} from the Hugging Face hub; check the name and the network, "
            f"or give a local folder ({reason})"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ancestral_scheduler(scheduler: Any, num_steps: int) -> Any:
    """The sampler of eq. 3 for the noise schedule that a pipeline was trained with.

    Args:
        scheduler: The pipeline's own scheduler, of any class.
        num_steps: T; training steps lie on the "leading" grid with offset 1, as Stable Diffusion's do.

    Returns:
        A DDPM scheduler with variance beta_tilde that clips nothing.

    Raises:
        ModelError: If the pipeline was not trained with a table of betas.
        ParameterError: If T does not fit the number of training steps.
    """
    from diffusers import DDPMScheduler

    config = dict(scheduler.config)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ModelError(
            f"{type(scheduler).__name__} has no table of betas; latentcast needs a model trained as a DDPM, "
            "such as Stable Diffusion"
        )
    training_steps = int(config.get("num_train_timesteps", 1000))
    if not 1 <= num_steps <= training_steps:
        raise ParameterError(f"the number of steps is {num_steps}; this model takes 1 to {training_steps}")
    known = DDPMScheduler().config.keys()
    return DDPMScheduler.from_config(
        # Settings that only the other class knows would be logged as unexpected.
        {key: value for key, value in config.items() if key in known},
        variance_type="fixed_small",
        clip_sample=False,
        thresholding=False,
        timestep_spacing="leading",
        # As in `stable_diffusion_training_steps`: with every training step in use, there is no room for the
        # offset.
        steps_offset=1 if num_steps < training_steps else 0,
    )


def require_device(device: str) -> None:
    """Check that a torch device can be used.

    Raises:
        ParameterError: If there is no such kind of device.
        ModelError: If this machine lacks it.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ParameterError(f"unknown device {device!r}; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} is not available on this machine; use cpu")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show only the errors that diffusers and transformers log, and none of their progress bars."""
    with quiet_logs(), warnings.catch_warnings():
        # About settings of the stored scheduler, which `ancestral_scheduler` replaces.
        warnings.filterwarnings("ignore", "(?s).*(steps_offset|clip_sample)", FutureWarning)
        yield


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """As `quiet`, without touching Python's warning filters, which all threads share."""
    import diffusers
    import transformers

    logs = [library.utils.logging for library in (diffusers, transformers)]
    states = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, (level, bars) in zip(logs, states, strict=True):
            log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()
