"""What `latentcast link` does: put a command behind a link, and tell what the link carried."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from latentcast.cli import console
from latentcast.errors import ParameterError
from latentcast.live.link.emulate import EmulatedLink, emulate
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.trace import read_trace

__all__ = ["LinkOptions", "run_emulation"]

PLACEHOLDER = "{server}"
# A command that has been told to end gets so long before it is killed.
PATIENCE_SECONDS = 5.0
REFRESH_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """The arguments of `latentcast link emulate`."""

    snr_db: float | None
    trace: Path | None
    rate_kbps: float | None
    slot_ms: float
    seed: int
    latent_size: int
    server: str
    rootless: bool


def run_emulation(options: LinkOptions, command: list[str], *, as_json: bool) -> int:
    """Run a command behind a link.

    Args:
        options: the link, and the server that it leads to.
        command: the command; `{server}` in it becomes the server's address behind the link.
        as_json: print the summary as JSON on stdout; what the command prints goes to stderr then.

    Returns:
        The command's exit code.

    Raises:
        ParameterError: if an option cannot be, or the command cannot be started.
        LiveError: if the link cannot be made.
    """
    schedule = _schedule(options)
    with emulate(schedule, _address(options.server), rootless=options.rootless) as link:
        reached = f"{link.server[0]}:{link.server[1]}"
        where = "through a proxy" if link.kind == "proxy" else "from a network namespace"
        console.print_note(
            f"{options.server} is reached as {reached} {where}: {schedule.label}, "
            f"{schedule.mean_bits_per_second / 1000:.3g} kbit/s on average."
        )
        words = [word.replace(PLACEHOLDER, reached) for word in command]
        begun = time.monotonic()
        code = _run(link, words, stdout=sys.stderr if as_json else None)
        summary = _summary(link, begun - link.start_seconds, time.monotonic() - link.start_seconds)
    summary["exit_code"] = code
    if as_json:
        console.print_json(summary)
    else:
        console.print_note(
            f"In {summary['seconds']:.1f} s the link could carry {summary['offered_bytes']} bytes each way; "
            f"it carried {summary['downlink']['bytes']} down and {summary['uplink']['bytes']} up, in "
            f"{summary['downlink']['packets']} and {summary['uplink']['packets']} packets, and dropped "
            f"{summary['downlink']['dropped'] + summary['uplink']['dropped']}."
        )
    return code


def _schedule(options: LinkOptions) -> RateSchedule:
    given = {"--snr-db": options.snr_db, "--trace": options.trace, "--rate-kbps": options.rate_kbps}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ParameterError(f"{' and '.join(names)} exclude each other; give one of them")
    if options.trace is not None:
        return read_trace(options.trace, slot_ms=options.slot_ms)
    if options.rate_kbps is not None:
        return RateSchedule.constant(1000.0 * options.rate_kbps)
    return RateSchedule.rayleigh(
        snr_db=3.0 if options.snr_db is None else options.snr_db,
        latent_size=options.latent_size,
        slot_ms=options.slot_ms,
        seed=options.seed,
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ParameterError(f"--server is {text!r}; it must be HOST:PORT, such as 127.0.0.1:8700")
    return host, int(port)


def _run(link: EmulatedLink, command: list[str], stdout: Any) -> int:
    try:
        process = link.popen(command, stdout=stdout)
    except OSError as error:
        raise ParameterError(f"cannot run {command[0]!r}: {error.strerror or error}") from None

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    line = _RateLine(link)
    try:
        with line:
            code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process)
    # As a shell says that a signal ended it.
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was interrupted along with this one, or end it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _RateLine:
    """The rate as it is now, in one line of a terminal that is renewed while the block runs."""

    def __init__(self, link: EmulatedLink) -> None:
        self._link = link
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> None:
        # Where it is no terminal, a line per tenth of a second would only be in the way.
        if sys.stderr.isatty():
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _show(self) -> None:
        link = self._link
        while not self._over.wait(REFRESH_SECONDS):
            seconds = time.monotonic() - link.start_seconds
            rate = link.schedule.rate_bits_per_second(seconds) / 1000.0
            text = (
                f"{seconds:6.1f} s  {rate:9.2f} kbit/s  {link.downlink.bytes} bytes down, "
                f"{link.uplink.bytes} up"
            )
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _summary(link: EmulatedLink, start: float, end: float) -> dict[str, Any]:
    return {
        "shaper": link.kind,
        "schedule": link.schedule.label,
        "mean_bits_per_second": link.schedule.mean_bits_per_second,
        "seconds": end - start,
        "offered_bytes": int(link.schedule.carried_bits(start, end) / 8),
        **{
            name: {"packets": counters.packets, "bytes": counters.bytes, "dropped": counters.dropped}
            for name, counters in (("downlink", link.downlink), ("uplink", link.uplink))
        },
    }
