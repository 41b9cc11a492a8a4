"""The command line of the live service: argument parsing of serve, device and link."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the live service's commands to the program."""
    del app
