"""How much of everything the training of the embedded model makes, and from which seeds."""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.errors import ParameterError

__all__ = ["StageSeeds", "TrainingPlan"]


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


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How much of everything; the defaults made the shipped model.

    Args:
        num_pictures: rendered for training; as many again are their mirror images.
        num_held_out: rendered for measuring.
        autoencoder_updates: of eight 64 x 64 crops.
        denoiser_updates: of 64 latents.
        decoder_updates: of four whole pictures.
        judge_updates: of 64 pictures.
        num_judged: generated pictures per number of objects that the model card's scores rest on.
        device_pictures: of the training pictures, those that the device's decoder learns from.
        device_generated: generated pictures that it learns from.
        device_updates: of eight pictures.
        seeds: of the stages' random choices.
    """

    num_pictures: int = 16000
    num_held_out: int = 600
    autoencoder_updates: int = 6500
    denoiser_updates: int = 3000
    decoder_updates: int = 1500
    judge_updates: int = 2500
    num_judged: int = 100
    device_pictures: int = 2000
    device_generated: int = 24
    device_updates: int = 8000
    seeds: StageSeeds = StageSeeds()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ParameterError(f"{name} is {value}; it must be at least 1")
