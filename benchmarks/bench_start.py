"""How long `latentcast --help` takes, against Python with the packages that every command needs."""

import subprocess
import sys

from timing import best_seconds, report


def seconds_of(*arguments: str) -> float:
    """Least time of a program of its own."""
    return best_seconds(
        lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True), calls=1
    )


if __name__ == "__main__":
    reference = seconds_of("-c", "import numpy, typer, rich.console")
    report(
        "latentcast --help",
        seconds_of("-m", "latentcast", "--help"),
        "importing NumPy, typer, rich",
        reference,
    )
