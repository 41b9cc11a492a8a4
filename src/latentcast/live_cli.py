"""The command line of the live service: argument parsing of serve, device and link."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the live service's commands to the program."""
    app.add_typer(link_app, name="link")


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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")
    ] = False,
) -> None:
    """Run a command behind a link whose rate changes from slot to slot."""
    from latentcast import link_commands

    options = link_commands.LinkOptions(
        snr_db=snr_db,
        trace=trace,
        rate_kbps=rate_kbps,
        slot_ms=slot_ms,
        seed=seed,
        latent_size=latent_size,
        server=server,
        rootless=rootless,
    )
    raise typer.Exit(link_commands.run_emulation(options, command, as_json=as_json))
