"""How much of everything the training of the embedded model makes, from which seeds, and on which machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latentcast.diffusion.scenes.composition import ALL_LOOKS, HELD_OUT_LOOKS
from latentcast.errors import ModelError, ParameterError

__all__ = ["CPU_PLAN", "GPU_PLAN", "StageSeeds", "TrainingPlan", "plan_for"]

_PICTURE_SIZES = (128, 256)
# What a stage that is trained anew takes over from the plan of the machine; sizes of pictures, latents and
# denoiser stay.
_RENEWED: dict[str, tuple[str, ...]] = {
    "denoiser": ("held_out_looks", "text_updates", "text_batch", "denoiser_updates", "denoiser_batch"),
    "device-decoder": (
        "device_widths",
        "device_blocks",
        "device_generated",
        "device_updates",
        "device_batch",
    ),
}
_FORMER = {"device_pictures"}  # numbers that plans once had


@dataclass(frozen=True, kw_only=True)
class StageSeeds:
    """One seed per stage, so that a stage can be made again without the others."""

    scenes: int = 1
    shadows: int = 101
    held_out_scenes: int = 2
    held_out_shadows: int = 102
    autoencoder: int = 3
    denoiser: int = 4
    decoder: int = 7
    judge: int = 5
    samples: int = 6
    device_decoder: int = 9  # 8 are the held-out prompts'
    text: int = 10


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How much of everything.

    Args:
        picture_size: pixels along each side, 128 or 256; the latent has an eighth of it.
        num_pictures: rendered for training; as many again are their mirror images.
        num_held_out: rendered for measuring.
        held_out_looks: compositions of colour and shape, as in "green sphere", that the denoiser never sees.
        autoencoder_widths: channels of the autoencoder at each resolution.
        companion_widths: channels of the small decoder that learns along with it at each, coarsest first.
        companion_blocks: its residual blocks at each.
        autoencoder_updates: of `autoencoder_batch` crops, half the picture wide.
        autoencoder_batch: crops in an update; half as many whole pictures at the end and for the decoder.
        text_updates: of `text_batch` sentences, which the text encoder learns from before there are pictures.
        text_batch: sentences in an update.
        denoiser_widths: channels of the UNet at each resolution.
        denoiser_updates: of `denoiser_batch` latents.
        denoiser_batch: latents in an update.
        decoder_updates: of the autoencoder's decoder alone.
        judge_pictures: of the training pictures, those that the judge learns from.
        judge_updates: of `judge_batch` pictures.
        judge_batch: pictures in an update.
        num_judged: generated pictures for each number of objects, of seen and held-out compositions each.
        num_at_once: pictures generated together.
        device_widths: channels of the device's decoder at each resolution, coarsest first.
        device_blocks: its residual blocks at each.
        device_generated: generated pictures that it learns from, beside the training pictures.
        device_updates: of `device_batch` pictures.
        device_batch: pictures in an update.
        seeds: of the stages' random choices.

    Raises:
        ParameterError: if a number is below 1, or a size or composition is unknown.
    """

    picture_size: int = 128
    num_pictures: int = 16000
    num_held_out: int = 600
    held_out_looks: tuple[str, ...] = HELD_OUT_LOOKS
    autoencoder_widths: tuple[int, ...] = (16, 32, 96, 128)
    companion_widths: tuple[int, ...] = (96, 48, 24)
    companion_blocks: tuple[int, ...] = (2, 2, 1)
    autoencoder_updates: int = 14000
    autoencoder_batch: int = 8
    text_updates: int = 3000
    text_batch: int = 128
    denoiser_widths: tuple[int, ...] = (96, 144)
    denoiser_updates: int = 15000
    denoiser_batch: int = 64
    decoder_updates: int = 1000
    judge_pictures: int = 6000
    judge_updates: int = 2000
    judge_batch: int = 32
    num_judged: int = 100
    num_at_once: int = 20
    device_widths: tuple[int, ...] = (48, 48, 32)
    device_blocks: tuple[int, ...] = (2, 3, 2)
    device_generated: int = 24
    device_updates: int = 24000
    device_batch: int = 8
    seeds: StageSeeds = StageSeeds()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ParameterError(f"{name} is {value}; it must be at least 1")
        if self.picture_size not in _PICTURE_SIZES:
            raise ParameterError(f"picture_size is {self.picture_size}; it must be 128 or 256")
        if unknown := set(self.held_out_looks) - set(ALL_LOOKS):
            raise ParameterError(
                f"held_out_looks has {sorted(unknown)}; they must be as {ALL_LOOKS[0]!r} is written"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def with_stage(self, own: TrainingPlan, stage: Literal["denoiser", "device-decoder"]) -> TrainingPlan:
        """The plan of a model, one stage of which is trained anew as another plan says.

        Args:
            own: the other plan.
            stage: what is trained anew.

        Example:
            >>> plan = TrainingPlan(denoiser_updates=9, device_updates=9)
            >>> plan = plan.with_stage(TrainingPlan(), "denoiser")
            >>> plan.denoiser_updates == TrainingPlan().denoiser_updates, plan.device_updates
            (True, 9)
        """
        return replace(self, **{name: getattr(own, name) for name in _RENEWED[stage]})

    def keep_to(self, file: Path) -> None:
        """Note the plan of a work folder, or refuse to go on with another one.

        Raises:
            ModelError: if the file tells another plan.
        """
        if not file.exists():
            file.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
            return
        try:
            begun = TrainingPlan.from_dict(json.loads(file.read_text()))
        except (ValueError, TypeError, KeyError, AttributeError):
            begun = None
        # The device's decoder comes last and may be made anew by another plan.
        if begun is None or begun.with_stage(self, "device-decoder") != self:
            raise ModelError(
                f"{file.parent} was begun with another plan, which {file.name} there tells; "
                "remove the folder, or give another --out"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingPlan:
        """What `to_dict` wrote, in this version or a former one.

        Example:
            >>> TrainingPlan.from_dict(GPU_PLAN.to_dict()) == GPU_PLAN
            True
        """
        listed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name not in _FORMER
        }
        listed["seeds"] = StageSeeds(**values["seeds"])
        return cls(**listed)


CPU_PLAN = TrainingPlan()
"""Four to five hours on two cores with bfloat16 products."""

GPU_PLAN = TrainingPlan(
    picture_size=256,
    num_pictures=20000,
    num_held_out=300,
    autoencoder_widths=(32, 64, 96, 96),
    autoencoder_updates=4000,
    autoencoder_batch=64,
    text_updates=2000,
    denoiser_widths=(96, 160, 160),
    denoiser_updates=5000,
    denoiser_batch=256,
    decoder_updates=1000,
    judge_updates=2000,
    judge_batch=128,
    num_at_once=100,
    device_generated=100,
    device_updates=8000,
    device_batch=32,
)
"""For one GPU of the Hopper class with 16 CPU cores: 38 MB of weights, meant for a quarter of an hour."""


def plan_for(device: str, picture_size: int | None = None) -> TrainingPlan:
    """The plan that makes the most of a device.

    Args:
        device: "cpu" or "cuda".
        picture_size: another one than the plan's own.

    Raises:
        ParameterError: if there are no pictures of this size.

    Example:
        >>> plan_for("cuda", 128).denoiser_batch
        256
    """
    plan = GPU_PLAN if device.startswith("cuda") else CPU_PLAN
    return plan if picture_size is None else replace(plan, picture_size=picture_size)
