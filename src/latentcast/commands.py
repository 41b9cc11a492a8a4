"""What the commands do, once their arguments are parsed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from latentcast import console
from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.delivery.deliver import deliver
from latentcast.diffusion.loading import EMBEDDED, find_model, quiet
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline, read_prompt
from latentcast.diffusion.source import Step, Trajectory, seed_stream
from latentcast.errors import ModelError, ParameterError
from latentcast.policy.catalog import CODECS, codec_of, make_scheme
from latentcast.scenario import PAPER_LATENT_SIZE, Scenario
from latentcast.study.metrics.ssim import ssim
from latentcast.study.output import OutputFolder
from latentcast.study.sheet.comparison import compare
from latentcast.study.sheet.filmstrip import comparison_sheet, filmstrip

__all__ = [
    "Request",
    "run_compare",
    "run_deliver",
    "run_model_info",
    "run_model_train",
    "run_record",
]

MAX_PROMPT_CHARACTERS = 2000

JUDGE, DEVICE_DECODER = STAGES = ("judge", "device-decoder")


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
        console.print_delivery(timeline, files)


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
        console.print_comparison(comparison, files)


def run_model_info(name: str, *, as_json: bool) -> None:
    """Print what a model is, and its card.

    Raises:
        ModelError: If it cannot be loaded.
    """
    description = load_pipeline(name).describe()
    card = None
    if description["model_card"] is not None:
        try:
            card = Path(description["model_card"]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read {description['model_card']}: {error}") from error
    if as_json:
        console.print_json({**description, "model_card_text": card})
    else:
        console.print_model(description, card)


def run_model_train(
    name: str,
    out: Path,
    *,
    only: str | None,
    device: str,
    picture_size: int | None,
    minutes: float | None,
    as_json: bool,
) -> None:
    """Train the embedded model anew, or judge one that is trained, or make its decoder for devices.

    Raises:
        ParameterError: If another model, or a stage that cannot be made alone, is asked for.
        PausedError: When the minutes are over.
        LatentcastError: If the folder cannot be written, or training fails.
    """
    if name != EMBEDDED:
        raise ParameterError(f"cannot train {name!r}; the only model that latentcast trains is {EMBEDDED!r}")
    if only not in (None, *STAGES):
        raise ParameterError(f"--only is {only!r}; the stages that can be made alone are {', '.join(STAGES)}")
    if only is not None and picture_size is not None:
        raise ParameterError("--picture-size is that of a new model; the one in --out has its own")
    stop_at = None if minutes is None else time.monotonic() + 60.0 * minutes
    OutputFolder(out)
    try:
        from latentcast.diffusion.scenes.device_training import train_device_decoder
        from latentcast.diffusion.scenes.judging import judge_model
        from latentcast.diffusion.scenes.plan import plan_for
        from latentcast.diffusion.scenes.training import train
    except ImportError as error:
        raise ModelError(
            f"training needs the package {error.name}; install it with: pip install 'latentcast[models]'"
        ) from error
    with console.StageProgress.show() as progress:
        if only is None:
            plan = plan_for(device, picture_size)
            made = train(
                out, device=device, similarity=ssim, progress=progress, plan=plan, stop_at=stop_at
            ).to_dict()
        elif only == JUDGE:
            made = judge_model(
                out, device=device, similarity=ssim, progress=progress, stop_at=stop_at
            ).to_dict()
        else:
            made = asdict(
                train_device_decoder(out, device=device, similarity=ssim, progress=progress, stop_at=stop_at)
            )
    if as_json:
        console.print_json({"model": str(out), **made})
    else:
        console.print_card(out / "README.md")


def run_record(
    source: str,
    model: str,
    out: Path,
    *,
    count: int | None,
    keep_nsfw: bool,
    seed: int,
    num_steps: int,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Record the trajectories of many prompts, or go on with a recording.

    Raises:
        LatentcastError: If anything is wrong; what is recorded stays.
        KeyboardInterrupt: As it came, after a note on what is recorded.
    """
    try:
        from latentcast.study.recording.prompts import read_prompts
        from latentcast.study.recording.record import record
    except ImportError as error:
        raise ParameterError(
            f"recording needs the package {error.name}; install it with: pip install 'latentcast[study]'"
        ) from error
    seed_stream(seed, "noise")
    find_model(model)
    prompts = read_prompts(source, count=count, keep_nsfw=keep_nsfw)
    OutputFolder(out)
    with console.RecordProgress.show(model) as progress:
        loaded = load_pipeline(model, device, num_steps=num_steps)
        began = time.perf_counter()
        try:
            with quiet():  # text encoders would write two lines for each prompt that they cut short
                recording = record(loaded, prompts, out, seed=seed, batch_size=batch_size, progress=progress)
        except KeyboardInterrupt:
            console.print_note(
                f"{progress.new_items} new items are recorded in {out}; the same command goes on from there."
            )
            raise
        seconds = time.perf_counter() - began
    summary = {
        "folder": str(recording.folder),
        "model": recording.model,
        "items": recording.num_items,
        "new_items": progress.new_items,
        "seconds": seconds,
        "denoiser_share": progress.denoiser_seconds / seconds,
    }
    if as_json:
        console.print_json(summary)
    else:
        console.print_recording(summary)


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
