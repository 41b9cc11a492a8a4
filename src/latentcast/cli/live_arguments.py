"""The arguments of the live service: serve, device and link."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentcast.cli.options import AsJson, Device, Model, Prompt

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the live service's commands to the program."""
    app.add_typer(link_app, name="link")
    app.command()(serve)
    app.command()(device)


# --- link ---------------------------------------------------------------------------------------------------

link_app = typer.Typer(help="Links that fade in real time, for real sockets.", no_args_is_help=True)


@link_app.callback()
def link() -> None:
    """Links that fade in real time, for real sockets."""


@link_app.command("emulate")
def link_emulate(
    command: Annotated[
        list[str],
        typer.Argument(
            help="What to run behind the link, after --; {server} in it becomes the server's address there.",
            show_default=False,
        ),
    ],
    snr_db: Annotated[
        float | None,
        typer.Option("--snr-db", help="Rayleigh fading of this average SNR; 3 if nothing is given."),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="A Mahimahi trace file instead.")] = None,
    rate_kbps: Annotated[float | None, typer.Option(help="A constant rate in kbit/s instead.")] = None,
    slot_ms: Annotated[float, typer.Option(help="Time for which a rate stays.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Root seed of the fading.")] = 0,
    latent_size: Annotated[
        int, typer.Option(help="Numbers in a latent: an SNR means the same bits per number for each model.")
    ] = 1024,
    server: Annotated[str, typer.Option(help="The server, HOST:PORT.")] = "127.0.0.1:8700",
    rootless: Annotated[
        bool, typer.Option("--rootless", help="Shape by a proxy instead of a network namespace.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a command behind a link whose rate changes from slot to slot."""
    from latentcast.cli.link import LinkOptions, run_emulation

    options = LinkOptions(
        snr_db=snr_db,
        trace=trace,
        rate_kbps=rate_kbps,
        slot_ms=slot_ms,
        seed=seed,
        latent_size=latent_size,
        server=server,
        rootless=rootless,
    )
    raise typer.Exit(run_emulation(options, command, as_json=as_json))


# --- serve --------------------------------------------------------------------------------------------------


def serve(
    model: Model = "scenes",
    device: Device = "cpu",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.")] = 8700,
    token_file: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line; devices must name one.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, for https and wss.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    max_sessions: Annotated[int, typer.Option(help="Most sessions at a time.")] = 64,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A web page beside the server's own that may connect, as https://host; repeatable."
        ),
    ] = None,
    emulate_links: Annotated[
        bool, typer.Option("--emulate-links", help="Let requests name a fading link to be emulated.")
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log JSON, one object a line.")] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log.")] = False,
) -> None:
    """Serve devices over WebSockets, people by a web page, and others by OpenAI's images API."""
    from latentcast.cli.serve import ServeOptions, run_serve

    run_serve(
        ServeOptions(
            model=model,
            device=device,
            host=host,
            port=port,
            token_file=token_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            max_sessions=max_sessions,
            origins=tuple(origin or ()),
            emulate_links=emulate_links,
            json_logs=json_logs,
            log_prompts=log_prompts,
        )
    )


# --- device -------------------------------------------------------------------------------------------------


def device(
    url: Annotated[str, typer.Argument(help="The server, as http://HOST:PORT.", show_default=False)],
    prompt: Prompt,
    deadline: Annotated[float, typer.Option(help="When to show the picture, in milliseconds.")] = 2000.0,
    seed: Annotated[int | None, typer.Option(help="Root seed.", show_default="the server's choice")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="What the server's operator gave.", envvar="LATENTCAST_TOKEN", show_default=False),
    ] = None,
    codec: Annotated[
        str, typer.Option(help="progressive/1, or final/1: the complete picture only, to compare with.")
    ] = "progressive/1",
    out: Annotated[Path, typer.Option(help="Folder for picture, filmstrip and timeline.")] = Path(
        "runs/device"
    ),
    as_json: AsJson = False,
) -> None:
    """Ask a server for a picture, and save what was held at the deadline."""
    from latentcast.cli.device import DeviceOptions, run_device_command

    run_device_command(
        DeviceOptions(
            url=url,
            prompt=prompt,
            deadline_ms=deadline,
            seed=seed,
            token=token,
            codec=codec,
            out=out,
        ),
        as_json=as_json,
    )
