"""The tables of a study's TOML file, each checked on its own; `docs/studies.md` explains them key by key."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.link.rayleigh import SnrReference
from latentcast.study.runner.gaussian import GAUSSIAN_MODELS
from latentcast.study.runner.misspelt import unknown_key

__all__ = [
    "CaseChoice",
    "Count",
    "Link",
    "MetricChoice",
    "Part",
    "PolicyChoice",
    "Seed",
    "Setting",
    "TrajectoryChoice",
    "ValidationChoice",
    "as_tuple",
]

# More than any figure shows; a step typed in the wrong unit ends here and not in a day's work.
MAX_SNRS = 1000

# A seed fits into every result format.
MAX_SEED = 2**63 - 1


class Part(BaseModel):
    """A table of the file: unknown keys are refused, values are neither converted nor changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Named(BaseModel):
    """Something chosen by name: a string, or a table of the name and options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the declared ones."""
        return dict(self.model_extra or {})


class PolicyChoice(_Named):
    """A policy of the study.

    Attributes:
        name: What `make_policy` knows, or "package.module:factory".
        label: Its name in results; None for the policy's own.

    Example:
        >>> PolicyChoice.model_validate({"name": "lookahead", "label": "exact", "base": "lloyd-max"}).options
        {'base': 'lloyd-max'}
    """

    label: Annotated[str, Field(min_length=1)] | None = None


class MetricChoice(_Named):
    """A picture metric of the study: its name in `METRICS`, and its options."""


def as_tuple(value: Any) -> Any:
    """TOML has lists; a frozen configuration keeps tuples."""
    return tuple(value) if isinstance(value, list) else value


def _grid(value: Any) -> Any:
    """A number, a list, or {start, stop, step} with both ends included, as a tuple."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (float(value),)
    if not isinstance(value, dict):
        return tuple(map(_float, value)) if isinstance(value, (list, tuple)) else value
    keys = ("start", "stop", "step")
    for key in value:
        if key not in keys:
            raise ValueError(unknown_key(key, "", keys))
    given = [value.get(key) for key in keys]
    numbers = [float(n) for n in given if isinstance(n, (int, float)) and not isinstance(n, bool)]
    if len(numbers) < len(keys):
        raise ValueError("a range needs the numbers start, stop and step, all in dB")
    start, stop, step = numbers
    if not (math.isfinite(start) and math.isfinite(stop) and step > 0.0 and stop >= start):
        raise ValueError("a range needs a positive step, and a stop that is not below its start")
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MAX_SNRS:
        raise ValueError(f"this range has {count} values; at most {MAX_SNRS} are allowed")
    # Sums of a decimal step are off in the last bits; nobody means those.
    return tuple(round(start + index * step, 9) for index in range(count))


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Positive: TypeAlias = Annotated[float, BeforeValidator(_float), Field(gt=0.0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seed: TypeAlias = Annotated[int, Field(ge=0, le=MAX_SEED)]


class TrajectoryChoice(Part):
    """What is delivered: a recording, or a model whose trajectories are recorded on first use.

    Attributes:
        recording: Folder of a recording; None to record.
        model: "scenes", the folder of a diffusers pipeline or a hub id; or one of `GAUSSIAN_MODELS`, whose
            trajectories are made by formulas whenever they are needed.
        prompts: "held-out", or a .txt, .csv or .parquet file.
        count: Take so many prompts from the beginning.
        keep_nsfw: Keep prompts that a table's NSFW scores rule out.
        seed: Root seed of the items; None for the study's.
        batch_size: Prompts denoised at once.
        device: Where the model runs: "cpu" or "cuda".
    """

    recording: str | None = None
    model: str = "scenes"
    prompts: str = "held-out"
    count: Count = 500
    keep_nsfw: bool = False
    seed: Seed | None = None
    batch_size: Count = 8
    device: str = "cpu"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = self.model_fields_set - {"recording", "device"}
        if self.recording is not None and given:
            raise ValueError(
                f"a recording is already there, so {', '.join(sorted(given))} would have no effect; "
                "give either a recording or what to record"
            )
        if self.model in GAUSSIAN_MODELS:
            unused = self.model_fields_set - {"model", "count", "seed"}
            if unused:
                raise ValueError(f"{self.model} is a formula and has no use for {', '.join(sorted(unused))}")
        return self


class Link(Part):
    """The link; see `Scenario` for each value. None for symbols_per_slot scales the paper's to the latent."""

    snr_db: Annotated[tuple[float, ...], BeforeValidator(_grid), Field(min_length=1, max_length=MAX_SNRS)]
    snr_reference: SnrReference = "subchannel"
    num_subchannels: int = 60
    symbols_per_slot: Positive | None = None


class Setting(Part):
    """The remaining values of `Scenario`. None for uplink_bits scales the paper's to the latent.

    latent_size is for formulas: the model level and Gaussian latents; recorded trajectories have theirs.
    """

    latent_size: int | None = None
    num_steps: int = 50
    deadline_slots: int = 60
    bit_levels: Annotated[tuple[int, ...], BeforeValidator(as_tuple)] = (3, 4, 8, 10, 16)
    quantile: Positive = 0.9
    uplink_bits: Positive | None = None


class ValidationChoice(Part):
    """What Fig. 2 shows.

    Attributes:
        pairs: (t_p, t) of Fig. 2b; None for the figure's own.
        bits: Bits per dimension of Fig. 2b, each 1..15.
        pictures: Trajectories that are decoded for 1/PSNR; 0 for none.
    """

    pairs: (
        Annotated[
            tuple[Annotated[tuple[int, int], BeforeValidator(as_tuple)], ...],
            BeforeValidator(as_tuple),
            Field(min_length=1),
        ]
        | None
    ) = None
    bits: Annotated[
        tuple[Annotated[int, Field(ge=1, lt=LOSSLESS_BITS)], ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
    ] = tuple(range(1, 11))
    pictures: Annotated[int, Field(ge=0)] = 64


class CaseChoice(Part):
    """A setting in which the distance to the sequential limit is measured: what differs from the study's.

    Attributes:
        name: What results call it; a folder's name too.
        source: One of `GAUSSIAN_MODELS`.
        deadline_slots: T_d; None for the study's.
        num_subchannels: K; None for the study's.
        snr_db: The grid; None for the study's.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$", max_length=60)]
    source: Literal["white-gaussian", "natural-gaussian"] = "white-gaussian"
    deadline_slots: int | None = None
    num_subchannels: int | None = None
    snr_db: (
        Annotated[tuple[float, ...], BeforeValidator(_grid), Field(min_length=1, max_length=MAX_SNRS)] | None
    ) = None
