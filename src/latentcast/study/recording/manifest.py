"""What a recording is of: the metadata that stands beside its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import LatentShape
from latentcast.errors import ParameterError

__all__ = ["FORMAT", "Manifest"]

# Goes up when a reader of the former format would misread the new one.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was asked for, before anything of it is recorded. Equal manifests mean equal trajectories.

    Attributes:
        model: What made the trajectories, by a name that `load_pipeline` takes: "scenes", the absolute path
            of a folder, or a hub id. For a source without a name, its class.
        guidance_scale: Weight of the prompt; None if the model does not tell.
        root_seed: What the seeds of the items derive from.
        prompts: One per item.
        seeds: Root seed of each item's own streams.
        path: The noise path, of T steps.
        latent_shape: (channels, height, width).
    """

    model: str
    guidance_scale: float | None
    root_seed: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    path: NoisePath
    latent_shape: LatentShape

    def to_dict(self) -> dict[str, Any]:
        """The manifest in plain JSON values, with the version of latentcast that wrote it."""
        return {
            "format": FORMAT,
            "latentcast_version": version("latentcast"),
            "model": self.model,
            "guidance_scale": self.guidance_scale,
            "root_seed": self.root_seed,
            "num_steps": self.path.num_steps,
            "latent_shape": list(self.latent_shape),
            "signal": self.path.signal.tolist(),
            "noise": self.path.noise.tolist(),
            "prompts": list(self.prompts),
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Read what `to_dict` wrote.

        Raises:
            ParameterError: If it is of another format, or not as it was written; without the file's name.
        """
        try:
            if values["format"] != FORMAT:
                raise ParameterError(
                    f"its format is {values['format']!r}; this version of latentcast reads {FORMAT}"
                )
            channels, height, width = (int(size) for size in values["latent_shape"])
            scale = values["guidance_scale"]
            manifest = cls(
                model=str(values["model"]),
                guidance_scale=None if scale is None else float(scale),
                root_seed=int(values["root_seed"]),
                prompts=tuple(str(prompt) for prompt in values["prompts"]),
                seeds=tuple(int(seed) for seed in values["seeds"]),
                path=NoisePath(signal=values["signal"], noise=values["noise"]),
                latent_shape=(channels, height, width),
            )
        except KeyError as error:
            raise ParameterError(f"its metadata lack {error}") from error
        except (TypeError, ValueError) as error:
            raise ParameterError(f"its metadata cannot be read: {error}") from error
        if not manifest.prompts or len(manifest.prompts) != len(manifest.seeds):
            raise ParameterError(
                f"its metadata name {len(manifest.prompts)} prompts and {len(manifest.seeds)} seeds"
            )
        return manifest

    def difference(self, other: Manifest) -> str | None:
        """The first thing in which another manifest differs, in words; None if they are equal."""
        pairs: Sequence[tuple[str, Any, Any]] = (
            ("model", self.model, other.model),
            ("guidance scale", self.guidance_scale, other.guidance_scale),
            ("seed", self.root_seed, other.root_seed),
            ("number of steps", self.path.num_steps, other.path.num_steps),
            ("noise path", self.path, other.path),
            ("latent shape", self.latent_shape, other.latent_shape),
            ("number of prompts", len(self.prompts), len(other.prompts)),
        )
        for name, mine, theirs in pairs:
            if mine != theirs:
                return f"its {name} is {mine}, not {theirs}"
        for number, (mine, theirs) in enumerate(zip(self.prompts, other.prompts, strict=True)):
            if mine != theirs:
                return f"its prompt {number} is {mine[:60]!r}, not {theirs[:60]!r}"
        return None if self.seeds == other.seeds else "its items have other seeds"
