"""What a study is, checked as a whole; `docs/studies.md` explains its file key by key."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from latentcast.diffusion.path import NoisePath
from latentcast.errors import LatentcastError
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.runner.choices import (
    CaseChoice,
    Count,
    Link,
    MetricChoice,
    Part,
    PolicyChoice,
    Seed,
    Setting,
    TrajectoryChoice,
    ValidationChoice,
    as_tuple,
)
from latentcast.study.runner.gaussian import GAUSSIAN_MODELS, gaussian_source

__all__ = ["StudyConfig"]


class StudyConfig(Part):
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
    seed: Seed = 0
    policies: Annotated[tuple[PolicyChoice, ...], BeforeValidator(as_tuple)] = ()
    metrics: Annotated[tuple[MetricChoice, ...], BeforeValidator(as_tuple)] = ()
    trajectories: TrajectoryChoice | None = None
    link: Link | None = None
    scenario: Setting = Setting()
    validation: ValidationChoice | None = None
    cases: Annotated[tuple[CaseChoice, ...], BeforeValidator(as_tuple)] = ()

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
