"""The `latentcast` program: a folder of what the commands take, what they do and what they print.

`arguments` and `live_arguments` parse; the modules named like commands do the work, and are imported when it
is to be done, so that `latentcast --help` is quick. Every error that latentcast raises on purpose, and every
bad argument, ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

import typer

from latentcast.cli.arguments import app
from latentcast.errors import LatentcastError, PausedError

__all__ = ["main", "run"]

PAUSED = 75
"""Exit code of a command that asks to be run again, sysexits.h's EX_TEMPFAIL."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Without the program's name; None for those of the process.

    Returns:
        The exit code: 0, 2 for what latentcast or the parser rejects, 75 after a pause, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = typer.main.get_command(app).main(words, prog_name="latentcast", standalone_mode=False)
    except PausedError as error:
        print(f"Paused: {error}", file=sys.stderr)
        return PAUSED
    except LatentcastError as error:
        return _fail(str(error))
    except OSError as error:  # of stdout itself, such as a full disk behind it, has no file name
        return _fail(f"cannot write to {error.filename or 'stdout'}: {error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # What the parser raises; its classes live in another package from one release of typer to the next.
        if not hasattr(error, "format_message"):
            raise
        message = _given(error, words) + str(error.format_message()).rstrip(".")
        return _fail(f"{message}; see latentcast --help") if message else 2
    if code == 130:
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the `latentcast` command."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without UTF-8 shows codes for what it lacks.
            stream.reconfigure(errors="backslashreplace")
    sys.unraisablehook = _interrupt_again
    code = run()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or _fail(f"cannot write to stdout: {error.strerror}")
        # What is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised while C calls back, as Numba does; an interrupt then comes once more."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        # Not at once: it would be lost here, too.
        again = threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _given(error: Exception, words: list[str]) -> str:
    """What stood behind the option that the parser rejects, since its own message leaves that out."""
    for option in getattr(getattr(error, "param", None), "opts", ()):
        for position, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name == option and (equals or words[position + 1 :]):
                return f"{option} is {value if equals else words[position + 1]!r}. "
    return ""


def _fail(message: str) -> int:
    line = " ".join(message.split())
    # Control characters out of a prompt or a name would act on the terminal.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(f"Error: {shown}", file=sys.stderr)
    return 2
