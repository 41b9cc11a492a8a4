"""What `latentcast deliver` and `latentcast compare` do, once their arguments are parsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latentcast.cli import console
from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.delivery.deliver import deliver
from latentcast.delivery.timeline import Timeline
from latentcast.diffusion.loading import EMBEDDED, find_model
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline, read_prompt
from latentcast.diffusion.source import Step, Trajectory, seed_stream
from latentcast.errors import ParameterError
from latentcast.policy.catalog import CODECS, codec_of, make_scheme
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.output import OutputFolder
from latentcast.study.sheet.comparison import Comparison, compare
from latentcast.study.sheet.filmstrip import comparison_sheet, filmstrip

__all__ = ["Request", "run_compare", "run_deliver"]

MAX_PROMPT_CHARACTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments that `deliver` and `compare` share, checked as far as that goes without the model.

    Attributes:
        prompt: What is asked for.
        model: "scenes", a folder or a hub id.
        snr_db: Average signal-to-noise ratio of a sub-channel in dB.
        deadline_slots: T_d.
        num_steps: T.
        seed: Root seed.
        device: torch device.
        out: Folder for the results.
        codec: "progressive", "paper", or None for the policy's own.
        policy: Name of the policy, None for the codec's default.

    Raises:
        ParameterError: If a value is out of range.
        ModelError: If there is no such model.
    """

    prompt: str
    model: str
    snr_db: float
    deadline_slots: int
    num_steps: int
    seed: int
    device: str
    out: Path
    codec: str | None = None
    policy: str | None = None

    def __post_init__(self) -> None:
        _check_prompt(self.prompt, self.model)
        scenario = self.scenario(PAPER_LATENT_SIZE)
        make_scheme(self.scheme, scenario)
        seed_stream(self.seed, "noise")
        find_model(self.model)
        read_prompt(self.model, self.prompt, self.seed)

    @property
    def scheme(self) -> str:
        """The policy that codec and policy name together."""
        if self.codec is not None and self.codec not in CODECS:
            raise ParameterError(f"codec is {self.codec!r}; choose {', '.join(CODECS)}")
        if self.policy is None:
            return CODECS[self.codec or "progressive"]
        if self.codec not in (None, codec_of(self.policy)):
            raise ParameterError(
                f"policy {self.policy!r} does not plan for codec {self.codec!r}; "
                f"leave out --codec, or take policy {CODECS[self.codec or 'paper']!r}"
            )
        return self.policy

    def scenario(self, latent_size: int) -> Scenario:
        """The scenario for a model's latent."""
        return Scenario.for_latent(
            latent_size,
            snr_db=self.snr_db,
            deadline_slots=self.deadline_slots,
            num_steps=self.num_steps,
        )

    def load(self) -> DiffusersModel:
        """Load the model, and say how it understands the prompt."""
        model = load_pipeline(self.model, self.device, num_steps=self.num_steps)
        for note in model.read_prompt(self.prompt, self.seed).notes:
            console.print_note(note)
        return model


def run_deliver(request: Request, *, as_json: bool) -> None:
    """Deliver one picture; write picture.png, filmstrip.png and timeline.json.

    Raises:
        LatentcastError: If anything is wrong; files are written only when all is computed.
    """
    folder = OutputFolder(request.out)
    with console.StepProgress.show(request.num_steps, request.model) as progress:
        model = request.load()
        scenario = request.scenario(_size(model))
        timeline = deliver(
            request.prompt,
            scenario,
            make_scheme(request.scheme, scenario, _calibration(model)),
            model=model,
            seed=request.seed,
            progress=_follow(progress),
        )
    picture = Image.fromarray(model.decode(timeline.held[-1].latent[None])[0])
    strip = filmstrip(timeline, model.decode)
    files = [
        folder.write_picture("picture.png", picture),
        folder.write_picture("filmstrip.png", strip),
        folder.write_json("timeline.json", timeline.to_dict()),
    ]
    if as_json:
        console.print_json({**timeline.to_dict(), "files": [str(path) for path in files]})
    else:
        _print_delivery(timeline, files)


def run_compare(request: Request, *, as_json: bool) -> None:
    """Deliver one trajectory by every policy; write comparison.png and comparison.json.

    Raises:
        LatentcastError: If anything is wrong; files are written only when all is computed.
    """
    folder = OutputFolder(request.out)
    with console.StepProgress.show(request.num_steps, request.model) as progress:
        model = request.load()
        trajectory = Trajectory.record(model.source, request.prompt, request.seed, progress=_follow(progress))
    comparison = compare(
        trajectory, request.scenario(_size(model)), model=model, calibration=_calibration(model)
    )
    files = [
        folder.write_json("comparison.json", comparison.to_dict()),
        folder.write_picture("comparison.png", comparison_sheet(comparison, model.decode)),
    ]
    if as_json:
        console.print_json({**comparison.to_dict(), "files": [str(path) for path in files]})
    else:
        _print_comparison(comparison, files)


def _check_prompt(prompt: str, model: str) -> None:
    # The embedded model then draws a scene of its own choice.
    if not prompt.strip() and model != EMBEDDED:
        raise ParameterError(
            'the prompt is empty; describe a picture, such as "a red sphere left of a blue cube"'
        )
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ParameterError(
            f"the prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed"
        )
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParameterError("the prompt is not valid UTF-8 text; check the terminal's encoding") from error


def _calibration(model: DiffusersModel) -> Calibration | None:
    calibration = find_calibration(model, model.path)
    if calibration is None:
        console.print_note(
            f"{model.name} has not been calibrated: its estimates are taken as those of white noise, which "
            f"costs quality; latentcast model calibrate {model.name} --prompts FILE puts that right."
        )
    return calibration


def _size(model: DiffusersModel) -> int:
    channels, height, width = model.latent_shape
    return channels * height * width


def _follow(progress: console.StepProgress) -> Callable[[Step], None]:
    return lambda step: progress.step(step.index)


def _print_delivery(timeline: Timeline, files: Sequence[Path]) -> None:
    nothing_held = timeline.scenario.num_steps
    if timeline.transmissions:
        console.print_table(
            ("start slot", "step t", "refines", "bits per dimension", "bytes", "arrived"),
            [
                (
                    str(sent.slot),
                    str(sent.step),
                    "-" if sent.reference_step == nothing_held else f"t = {sent.reference_step}",
                    f"{sent.bits_per_dimension:.3g}",
                    str(sent.bytes),
                    "too late" if sent.arrived_slot is None else f"slot {sent.arrived_slot}",
                )
                for sent in timeline.transmissions
            ],
        )
    for sentence in _verdict(timeline):
        console.print_sentence(sentence)
    console.print_files(files)


def _verdict(timeline: Timeline) -> list[str]:
    deadline = timeline.scenario.deadline_slots
    held = timeline.held[-1]
    if held.slot > 0:
        quality = "" if timeline.psnr_db is None else f", PSNR {timeline.psnr_db:.1f} dB"
        return [
            f"At the deadline, slot {deadline}, the device shows step t = {held.step}: "
            f"latent error {timeline.latent_mse:.3g}{quality}, {timeline.bits_sent} bits sent."
        ]
    lines = [
        f"Nothing arrived by the deadline, slot {deadline}: the device still shows no picture, "
        f"latent error {timeline.latent_mse:.3g}."
    ]
    if timeline.uplink_slots is None:
        reason = "The upload of the prompt alone took longer."
    elif timeline.transmissions:
        reason = "What was sent was still under way."
    else:
        reason = (
            f"The upload took {timeline.uplink_slots} slots, "
            "and the policy saw nothing that could arrive in time."
        )
    other = "" if timeline.policy == "progressive" else ", or --policy progressive"
    return [*lines, f"{reason} A higher --snr-db or a later --deadline would help{other}."]


def _print_comparison(comparison: Comparison, files: Sequence[Path]) -> None:
    console.print_table(
        ("policy", "shown", "latent error", "PSNR dB", "transfers", "bits sent"),
        [
            (
                timeline.policy,
                f"t = {timeline.held[-1].step}" if timeline.held[-1].slot > 0 else "nothing",
                f"{timeline.latent_mse:.3g}",
                "-" if timeline.psnr_db is None else f"{timeline.psnr_db:.1f}",
                str(sum(sent.arrived_slot is not None for sent in timeline.transmissions)),
                str(timeline.bits_sent),
            )
            for timeline in comparison.timelines
        ],
    )
    console.print_files(files)
