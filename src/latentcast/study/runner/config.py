"""What a study is, as a TOML file says it; `docs/studies.md` explains the file key by key."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.diffusion.path import NoisePath
from latentcast.errors import LatentcastError
from latentcast.link.rayleigh import SnrReference
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.runner.gaussian import GAUSSIAN_MODELS, gaussian_source
from latentcast.study.runner.misspelt import unknown_key

__all__ = [
    "CaseChoice",
    "Link",
    "MetricChoice",
    "PolicyChoice",
    "Setting",
    "StudyConfig",
    "TrajectoryChoice",
    "ValidationChoice",
]

# More than any figure shows; a step typed in the wrong unit ends here and not in a day's work.
MAX_SNRS = 1000

# A seed fits into every result format.
MAX_SEED = 2**63 - 1


class _Part(BaseModel):
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


def _tuple(value: Any) -> Any:
    # TOML has lists; a frozen configuration keeps tuples.
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
    numbers = [value.get(key) for key in keys]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise ValueError("a range needs the numbers start, stop and step, all in dB")
    start, stop, step = map(float, numbers)  # type: ignore[arg-type]  # checked above
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


class TrajectoryChoice(_Part):
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
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
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


class Link(_Part):
    """The link; see `Scenario` for each value. None for symbols_per_slot scales the paper's to the latent."""

    snr_db: Annotated[tuple[float, ...], BeforeValidator(_grid), Field(min_length=1, max_length=MAX_SNRS)]
    snr_reference: SnrReference = "subchannel"
    num_subchannels: int = 60
    symbols_per_slot: Positive | None = None


class Setting(_Part):
    """The remaining values of `Scenario`. None for uplink_bits scales the paper's to the latent.

    latent_size is for formulas: the model level and Gaussian latents; recorded trajectories have theirs.
    """

    latent_size: int | None = None
    num_steps: int = 50
    deadline_slots: int = 60
    bit_levels: Annotated[tuple[int, ...], BeforeValidator(_tuple)] = (3, 4, 8, 10, 16)
    quantile: Positive = 0.9
    uplink_bits: Positive | None = None


class ValidationChoice(_Part):
    """What Fig. 2 shows.

    Attributes:
        pairs: (t_p, t) of Fig. 2b; None for the figure's own.
        bits: Bits per dimension of Fig. 2b, each 1..15.
        pictures: Trajectories that are decoded for 1/PSNR; 0 for none.
    """

    pairs: (
        Annotated[
            tuple[Annotated[tuple[int, int], BeforeValidator(_tuple)], ...],
            BeforeValidator(_tuple),
            Field(min_length=1),
        ]
        | None
    ) = None
    bits: Annotated[
        tuple[Annotated[int, Field(ge=1, lt=LOSSLESS_BITS)], ...],
        BeforeValidator(_tuple),
        Field(min_length=1),
    ] = tuple(range(1, 11))
    pictures: Annotated[int, Field(ge=0)] = 64


class CaseChoice(_Part):
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


class StudyConfig(_Part):
    """One study, checked as far as that goes without the trajectories.

    Attributes:
        kind: "deadline" for episodes under every policy (Fig. 3), "validation" for the distortion models
            against trajectories (Fig. 2), "limit" for the distance to the sequential limit.
        title: Heading of the report.
        fidelity: "model" for the distortion formulas, "latent" for real packets.
        episodes: Episodes per SNR; every policy runs the same ones.
        seed: Root seed of the channel, and of the trajectories unless they have their own.
        policies: What is compared; differences are taken to the first.
        metrics: Picture metrics at the deadline; at latent level only.
        trajectories: What is delivered; None at model level.
        link: The link and the grid of SNRs; None for a validation.
        scenario: Everything else about a request.
        validation: What a validation shows.
        cases: Settings of a study of the limit, the one that matters most first.
    """

    kind: Literal["deadline", "validation", "limit"] = "deadline"
    title: str | None = None
    fidelity: Literal["model", "latent"] = "latent"
    episodes: Count = 500
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    policies: Annotated[tuple[PolicyChoice, ...], BeforeValidator(_tuple)] = ()
    metrics: Annotated[tuple[MetricChoice, ...], BeforeValidator(_tuple)] = ()
    trajectories: TrajectoryChoice | None = None
    link: Link | None = None
    scenario: Setting = Setting()
    validation: ValidationChoice | None = None
    cases: Annotated[tuple[CaseChoice, ...], BeforeValidator(_tuple)] = ()

    @property
    def path(self) -> NoisePath:
        """The noise path of a scenario with these steps."""
        return NoisePath.stable_diffusion(self.scenario.num_steps)

    @property
    def gaussian_model(self) -> str | None:
        """The formula that makes the trajectories; None where there is none."""
        choice = self.trajectories
        return choice.model if choice is not None and choice.model in GAUSSIAN_MODELS else None

    @property
    def records(self) -> bool:
        """Whether it delivers recorded trajectories."""
        return self.trajectories is not None and self.gaussian_model is None

    def of_case(self, case: CaseChoice) -> StudyConfig:
        """The study of deadlines that measures one case of the limit: ours first, then the paper's."""
        assert self.link is not None  # of any study of the limit
        link = {"num_subchannels": case.num_subchannels, "snr_db": case.snr_db}
        setting = {"deadline_slots": case.deadline_slots}
        return StudyConfig(
            title=case.name,
            episodes=self.episodes,
            seed=self.seed,
            policies=tuple(PolicyChoice(name=name) for name in (ProgressivePolicy.name, "lookahead")),
            trajectories=TrajectoryChoice(model=case.source),
            link=self.link.model_copy(update={k: v for k, v in link.items() if v is not None}),
            scenario=self.scenario.model_copy(update={k: v for k, v in setting.items() if v is not None}),
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind != "limit" and self.cases:
            raise ValueError('[[cases]] need kind = "limit"')
        if self.kind == "validation":
            self._refuse("a validation", {"episodes", "policies", "metrics", "link", "fidelity"})
            if self.trajectories is None:
                raise ValueError('a validation needs the table [trajectories], such as model = "scenes"')
            if not self.records:
                raise ValueError(f"{self.gaussian_model} is a formula; a validation needs a recorded model")
            return self
        if self.validation is not None:
            raise ValueError('[validation] needs kind = "validation"')
        if self.kind == "limit":
            self._refuse("a study of the limit", {"policies", "metrics", "trajectories", "fidelity"})
            if self.link is None or not self.cases:
                raise ValueError("a study of the limit needs the table [link] with its snr_db, and [[cases]]")
            names = [case.name for case in self.cases]
            if len(set(names)) < len(names):
                raise ValueError("two cases have the same name")
            for case in self.cases:
                self.of_case(case)
            return self
        if self.link is None or not self.policies:
            missing = "policies" if self.link is not None else "the table [link] with its snr_db"
            raise ValueError(f"a study of deadlines needs {missing}")
        if len(set(self.link.snr_db)) < len(self.link.snr_db):
            raise ValueError("link.snr_db names an SNR twice")
        if self.fidelity == "latent" and self.trajectories is None:
            raise ValueError('fidelity = "latent" needs [trajectories], such as model = "scenes"')
        if self.fidelity == "model" and (self.metrics or self.trajectories is not None):
            raise ValueError(
                'fidelity = "model" has no latents, so metrics and [trajectories] would have no effect; '
                'delete them or set fidelity = "latent"'
            )
        if self.fidelity == "model" and any(c.name == ProgressivePolicy.name for c in self.policies):
            raise ValueError(
                "policy 'progressive' has no distortion formula: its packets are real ones; delete it or set "
                'fidelity = "latent"'
            )
        if self.metrics and not self.records:
            raise ValueError(f"{self.gaussian_model} has no pictures, so metrics would have no effect")
        try:
            if self.gaussian_model is not None:
                gaussian_source(
                    self.gaussian_model, self.scenario.latent_size or PAPER_LATENT_SIZE, self.path
                )
            self.scenario_at(self.link.snr_db[0], self.scenario.latent_size or PAPER_LATENT_SIZE)
            for snr_db in self.link.snr_db:
                self.scenario_at(snr_db, PAPER_LATENT_SIZE)
        except LatentcastError as error:
            raise ValueError(str(error)) from error
        return self

    def _refuse(self, what: str, keys: set[str]) -> None:
        unused = self.model_fields_set & keys
        if unused:
            raise ValueError(f"{what} has no use for {', '.join(sorted(unused))}; delete it")

    def scenario_at(self, snr_db: float, latent_size: int) -> Scenario:
        """The scenario of one SNR and latent.

        Raises:
            ParameterError: If a value is outside `Scenario`'s ranges.
        """
        link, setting = self.link or Link(snr_db=(snr_db,)), self.scenario
        scaled = {"symbols_per_slot": link.symbols_per_slot, "uplink_bits": setting.uplink_bits}
        return Scenario.for_latent(
            latent_size,
            snr_db=snr_db,
            snr_reference=link.snr_reference,
            num_subchannels=link.num_subchannels,
            num_steps=setting.num_steps,
            deadline_slots=setting.deadline_slots,
            bit_levels=setting.bit_levels,
            quantile=setting.quantile,
            **{name: value for name, value in scaled.items() if value is not None},
        )
