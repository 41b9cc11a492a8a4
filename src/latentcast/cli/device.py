"""What `latentcast device` does, once its arguments are parsed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from latentcast.cli import console
from latentcast.cli.packages import needs
from latentcast.errors import ParameterError
from latentcast.study.output import OutputFolder
from latentcast.study.sheet.moments import Frame, evenly, moments_strip

if TYPE_CHECKING:
    from latentcast.live.client import Delivery
    from latentcast.live.decoder import ServerDecoder
    from latentcast.live.device_session import DeviceSession

__all__ = ["DeviceOptions", "run_device_command"]

_REFRESH_PER_SECOND = 12


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The arguments of `latentcast device`."""

    url: str
    prompt: str
    deadline_ms: float
    seed: int | None
    token: str | None
    codec: str
    out: Path


def run_device_command(options: DeviceOptions, *, as_json: bool) -> None:
    """Ask a server for a picture; write picture.png, filmstrip.png and timeline.json.

    Raises:
        LatentcastError: If anything is wrong; files are written only when all is there.
    """
    with needs("a device needs", "device"):
        import_module("websockets")  # before anything is asked for
        from latentcast.live.client import base_url, request_picture_sync
        from latentcast.live.decoder import ServerDecoder
        from latentcast.live.messages import CODECS
    if options.codec not in CODECS:
        raise ParameterError(f"codec is {options.codec!r}; choose {' or '.join(CODECS)}")
    folder = OutputFolder(options.out)
    decoder = ServerDecoder(base_url(options.url))
    with _LiveTable(options.deadline_ms / 1e3) as table:
        delivery = request_picture_sync(
            options.url,
            options.prompt,
            deadline_ms=options.deadline_ms,
            seed=options.seed,
            token=options.token,
            codec=options.codec,
            decoder=decoder,
            on_change=table.show,
        )
    for note in delivery.ready.notes:
        console.print_note(note)
    strip = _strip(options, delivery, decoder)
    files = [
        folder.write_picture("picture.png", Image.fromarray(delivery.picture)),
        folder.write_picture("filmstrip.png", strip),
        folder.write_json("timeline.json", {"prompt": options.prompt, **delivery.to_dict()}),
    ]
    if as_json:
        console.print_json({**delivery.to_dict(), "files": [str(file) for file in files]})
        return
    _print_summary(delivery)
    console.print_files(files)


class _LiveTable:
    """How the request goes, on stderr while it runs."""

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._live = Live(
            console=Console(stderr=True), transient=True, refresh_per_second=_REFRESH_PER_SECOND
        )
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, device: DeviceSession, now: float) -> None:
        """Show the session as it is now."""
        if now - self._shown_at < 1.0 / _REFRESH_PER_SECOND:
            return
        self._shown_at = now
        end = device.deadline
        elapsed = 0.0 if end is None else min(self._deadline, max(self._deadline - (end - now), 0.0))
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._deadline, completed=elapsed, width=32)
        grid.add_row("deadline", bar, f"{elapsed:.1f} of {self._deadline:g} s")
        grid.add_row("held", _holding(device), f"{device.packets} packets, {device.total_bytes} bytes")
        self._live.update(grid)


def _holding(device: DeviceSession) -> str:
    if device.wants_connection:
        return "connecting again" if device.ready else "connecting"
    if device.ready is None:
        return "asking"
    if not device.arrivals:
        return "waiting for the first packet"
    return f"a picture since {device.arrivals[0].seconds:.2f} s"


def _strip(options: DeviceOptions, delivery: Delivery, decoder: ServerDecoder) -> Image.Image:
    chosen = [delivery.moments[index] for index in evenly([m.seconds for m in delivery.moments])]
    pictures = list(decoder.decode(np.stack([moment.latent for moment in chosen]))) if chosen else []
    facts = [
        f"model {delivery.ready.model}",
        f"{delivery.ready.num_steps} steps",
        f"seed {delivery.ready.seed}",
        f"{delivery.packets} packets, {delivery.bytes} bytes",
        time.strftime("%Y-%m-%d %H:%M"),
    ]
    return moments_strip(
        prompt=options.prompt,
        facts=facts,
        frames=[
            Frame(seconds=moment.seconds, bytes=moment.bytes, picture=picture)
            for moment, picture in zip(chosen, pictures, strict=True)
        ],
        arrivals=[(arrival.seconds, arrival.bytes) for arrival in delivery.arrivals],
        deadline_seconds=options.deadline_ms / 1e3,
    )


def _print_summary(delivery: Delivery) -> None:
    first = f"{delivery.arrivals[0].seconds:.2f} s" if delivery.arrivals else "nothing arrived"
    rows: list[tuple[str, Any]] = [
        ("first picture", first),
        ("packets", delivery.packets),
        ("bytes", delivery.bytes),
    ]
    if delivery.rtt_seconds is not None:
        rows.append(("round trip", f"{1e3 * delivery.rtt_seconds:.1f} ms"))
    if delivery.reconnections:
        rows.append(("connected again", f"{delivery.reconnections} times"))
    summary = delivery.summary
    if summary is None:
        rows.append(("server", "was gone before its summary came"))
    else:
        rows.append(("steps done", f"{summary.steps} of {summary.num_steps}"))
        if summary.mean_rate_bits_per_second is not None:
            rows.append(("link rate", f"{summary.mean_rate_bits_per_second / 1e3:.1f} kbit/s"))
        error = summary.predicted_mse if summary.reached_mse is None else summary.reached_mse
        if error is not None:
            known = "expected" if summary.reached_mse is None else "reached"
            rows.append((f"latent error, {known}", f"{error:.3g}"))
        agreement = {True: "yes", False: "no", None: "not compared"}[summary.agrees]
        rows.append(("server knows what is held", agreement))
    console.print_table(("", "value"), [(name, str(value)) for name, value in rows], title="At the deadline")
