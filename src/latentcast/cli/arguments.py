"""The arguments of every command but those of the live service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentcast.cli import live_arguments
from latentcast.cli.options import (
    AsJson,
    BatchSize,
    Deadline,
    Device,
    Model,
    ModelArgument,
    Prompt,
    PromptFile,
    Seed,
    SnrDb,
    Steps,
)

__all__ = ["app"]

app = typer.Typer(
    help="Deliver what a diffusion model is generating to a device before a deadline, over a fading link.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="Look at diffusion models, and train the embedded one.", no_args_is_help=True)
app.add_typer(model_app, name="model")
study_app = typer.Typer(
    help="Run studies: many episodes under several policies, with tables and figures.", no_args_is_help=True
)
app.add_typer(study_app, name="study")
live_arguments.register(app)


@app.command()
def deliver(
    prompt: Prompt,
    model: Model = "scenes",
    codec: Annotated[
        str | None, typer.Option(help="progressive (ours) or paper; the policy's own by default.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="progressive; or of the paper's codec: lookahead, optimal, persistent-3, persistent-4, "
            "persistent-8 or final-only. The codec's first by default."
        ),
    ] = None,
    snr_db: SnrDb = 3.0,
    deadline: Deadline = 60,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for picture, filmstrip and timeline.")] = Path(
        "runs/deliver"
    ),
    as_json: AsJson = False,
) -> None:
    """Generate a picture, send it over the link, and show what the device had at the deadline."""
    from latentcast.cli.deliver import Request, run_deliver

    request = Request(
        prompt=prompt,
        model=model,
        snr_db=snr_db,
        deadline_slots=deadline,
        num_steps=steps,
        seed=seed,
        device=device,
        out=out,
        codec=codec,
        policy=policy,
    )
    run_deliver(request, as_json=as_json)


@app.command()
def compare(
    prompt: Prompt,
    model: Model = "scenes",
    snr_db: SnrDb = 3.0,
    deadline: Deadline = 60,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the sheet and the numbers.")] = Path("runs/compare"),
    as_json: AsJson = False,
) -> None:
    """Send one picture by every policy over the same channel, and draw them side by side."""
    from latentcast.cli.deliver import Request, run_compare

    request = Request(
        prompt=prompt,
        model=model,
        snr_db=snr_db,
        deadline_slots=deadline,
        num_steps=steps,
        seed=seed,
        device=device,
        out=out,
    )
    run_compare(request, as_json=as_json)


@app.command()
def record(
    prompts: Annotated[
        str,
        typer.Option(
            help="A .txt file with one prompt per line, a .csv or .parquet file with a column prompt, or "
            "held-out for the embedded model's own 500.",
            show_default=False,
        ),
    ],
    model: Model = "scenes",
    out: Annotated[
        Path, typer.Option(help="Folder of the recording; an unfinished one is gone on with.")
    ] = Path("runs/recording"),
    count: Annotated[int | None, typer.Option(help="Take so many prompts from the beginning.")] = None,
    keep_nsfw: Annotated[
        bool, typer.Option("--keep-nsfw", help="Keep prompts that a table's NSFW scores rule out.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Root seed of the items' noise and sampler.")] = 0,
    steps: Steps = 50,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Record the denoising of many prompts: every latent and clean estimate; the same command resumes it."""
    from latentcast.cli.study import run_record

    run_record(
        prompts,
        model,
        out,
        count=count,
        keep_nsfw=keep_nsfw,
        seed=seed,
        num_steps=steps,
        batch_size=batch_size,
        device=device,
        as_json=as_json,
    )


@model_app.command()
def info(
    model: ModelArgument = "scenes",
    as_json: AsJson = False,
) -> None:
    """Print a model's shapes, sizes, noise schedule and card."""
    from latentcast.cli.model import run_model_info

    run_model_info(model, as_json=as_json)


@model_app.command()
def calibrate(
    model: ModelArgument = "scenes",
    prompts: PromptFile = None,
    count: Annotated[int, typer.Option(help="Take so many prompts.", min=1)] = 48,
    seed: Annotated[int, typer.Option(help="Root seed of the runs.")] = 0,
    steps: Steps = 50,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default where deliver finds it: in the model's folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a model's estimates foretell the final latent, for the progressive codec."""
    from latentcast.cli.fit import Runs, run_model_calibrate

    runs = Runs(
        model=model,
        source=prompts,
        count=count,
        seed=seed,
        num_steps=steps,
        batch_size=batch_size,
        device=device,
    )
    run_model_calibrate(runs, out, as_json=as_json)


@model_app.command()
def fit(
    model: ModelArgument = "scenes",
    recording: Annotated[
        Path | None, typer.Option(help="A recording of the model to measure, instead of a new one.")
    ] = None,
    prompts: PromptFile = None,
    count: Annotated[int, typer.Option(help="Take so many prompts.", min=2)] = 48,
    seed: Annotated[int, typer.Option(help="Root seed of the runs.")] = 0,
    steps: Steps = 50,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers.")] = Path("runs/fit"),
    card: Annotated[bool, typer.Option("--card", help="Write the table into the model's card, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure and draw how well a model's latents fit the theory that transmission is planned with."""
    from latentcast.cli.fit import Runs, run_model_fit

    runs = Runs(
        model=model,
        source=prompts,
        count=count,
        seed=seed,
        num_steps=steps,
        batch_size=batch_size,
        device=device,
    )
    run_model_fit(runs, recording, out, card=card, as_json=as_json)


@model_app.command()
def train(
    model: Annotated[str, typer.Argument(help="The model to train: scenes.")] = "scenes",
    out: Annotated[Path, typer.Option(help="Folder for the trained pipeline.")] = Path("runs/scenes"),
    only: Annotated[
        str | None,
        typer.Option(help="denoiser, judge or device-decoder: that alone, for the pipeline in --out."),
    ] = None,
    device: Device = "cpu",
    picture_size: Annotated[
        int | None, typer.Option(help="128 or 256 pixels; 128 by default on a CPU, 256 on a GPU.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Pause after so many, with exit code 75; the same command goes on.", min=0.0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the embedded model from nothing; an interrupted run goes on from its last checkpoint."""
    from latentcast.cli.model import run_model_train

    run_model_train(
        model,
        out,
        only=only,
        device=device,
        picture_size=picture_size,
        minutes=minutes,
        as_json=as_json,
    )


@model_app.command()
def export(
    model: ModelArgument = "scenes",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default where servers find it: in the model's folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model's decoder for devices as ONNX, checked against torch."""
    from latentcast.cli.model import run_model_export

    run_model_export(model, out, as_json=as_json)


@study_app.command("run")
def study_run(
    study: Annotated[
        str, typer.Argument(help="fig2, fig3, fig3-model, limit, or a TOML file.", show_default=False)
    ],
    episodes: Annotated[
        int | None, typer.Option(help="Episodes per SNR, instead of the study's; of fig2, trajectories.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Root seed, instead of the study's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.", show_default="runs/NAME")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes to use.", show_default="all cores")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Run on the Ray cluster at host:port, ray://host:port or auto.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Decode and score pictures.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a study, or go on with an interrupted one; write tables, figures and report.html."""
    from latentcast.cli.study import run_study

    run_study(
        study,
        out,
        episodes=episodes,
        seed=seed,
        processes=processes,
        ray=ray,
        pictures=pictures,
        as_json=as_json,
    )


@study_app.command("show")
def study_show(
    name: Annotated[str, typer.Argument(help="fig2, fig3, fig3-model or limit.", show_default=False)],
) -> None:
    """Print a built-in study's TOML file, to start one's own from."""
    from latentcast.cli.study import show_study

    show_study(name)
