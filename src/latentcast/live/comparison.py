"""What two other ways would have shown by the bytes that one session's refinements took.

*Compute, then send*: the final latent at 16 bits a number, once it is there; the picture comes when all of it
has. *JPEG previews*: the newest estimate, decoded on the server and sent as JPEG, over and over; every
preview takes a quarter of the bytes and shows when all of it has arrived. Previews know beforehand how many
bytes the link will carry, which favours them.
"""

from __future__ import annotations

import base64
import io
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.codec.packet import packet_bytes
from latentcast.codec.quantizer import LOSSLESS_BITS
from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import ParameterError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

__all__ = ["NUM_PREVIEWS", "Recording", "best_jpeg", "compare", "comparison_route"]

Picture = npt.NDArray[np.uint8]
Decoder = Callable[[FloatArray], Picture]

NUM_PREVIEWS = 4
"""Previews of a session, the last of them the picture at the deadline."""

_SIDES = (1, 2, 4, 8)
_MAX_QUALITY = 95


class Recording:
    """What happened in one session, as its server saw it.

    Args:
        started_at: t_0, when the device sent its request, in seconds of a monotonic clock.
        deadline_seconds: from then on.
        rtt_seconds: what a byte and its acknowledgement take.

    Raises:
        ParameterError: If a time is not finite, the deadline not above 0, or the round trip below 0.

    Example:
        >>> recording = Recording(started_at=100.0, deadline_seconds=2.0, rtt_seconds=0.02)
        >>> recording.acknowledged(100.51, 1200)
        >>> round(recording.arrival_of(600), 6), recording.bytes_by(0.4), recording.bytes_by(2.0)
        (0.5, 0, 1200)
    """

    def __init__(self, *, started_at: float, deadline_seconds: float, rtt_seconds: float) -> None:
        if not (0.0 < deadline_seconds < np.inf and 0.0 <= rtt_seconds < np.inf):
            raise ParameterError(
                f"a deadline of {deadline_seconds} s with a round trip of {rtt_seconds} s; "
                "the first must be above 0, the second at least 0, and both finite"
            )
        self.started_at = started_at
        self.deadline_seconds = deadline_seconds
        self.rtt_seconds = rtt_seconds
        self._steps: list[tuple[float, int, npt.NDArray[np.float16]]] = []
        self._seconds: list[float] = []
        self._bytes: list[int] = []
        self._rates: list[float] = []
        # Bytes on former connections, and the last count of the present one.
        self._before = self._last_count = 0

    @property
    def num_steps(self) -> int:
        """Steps noted."""
        return len(self._steps)

    def step(self, now: float, step: Step) -> None:
        """Note a denoising step of a batch of one, when it came."""
        latent = step.sample if step.index == 0 else step.clean_estimate
        self._steps.append((now - self.started_at, step.index, latent[0].astype(np.float16)))

    def acknowledged(self, now: float, connection_bytes: int) -> None:
        """Note how many bytes the device has had on its connection; fewer than before is a new connection."""
        seconds = now - self.started_at - self.rtt_seconds / 2
        if connection_bytes < self._last_count:
            self._before += self._last_count
        self._last_count = connection_bytes
        self._seconds.append(max(seconds, self._seconds[-1]) if self._seconds else seconds)
        self._bytes.append(self._before + connection_bytes)

    def rate(self, bits_per_second: float) -> None:
        """Note what the link is believed to carry."""
        self._rates.append(bits_per_second)

    def bytes_by(self, seconds: float) -> int:
        """Bytes that the device had by a time after its request."""
        count = bisect_right(self._seconds, seconds)
        return self._bytes[count - 1] if count else 0

    def arrival_of(self, num_bytes: int) -> float | None:
        """When the device had that many bytes, in seconds after its request; None if it never had."""
        index = bisect_left(self._bytes, max(num_bytes, 1))
        return self._seconds[index] if index < len(self._seconds) else None

    def mean_rate(self) -> float | None:
        """Bits per second: the mean of what was noted, else of what arrived."""
        if self._rates:
            return float(np.mean(self._rates))
        if len(self._seconds) < 2 or self._seconds[-1] <= self._seconds[0]:
            return None
        return 8.0 * (self._bytes[-1] - self._bytes[0]) / (self._seconds[-1] - self._seconds[0])

    def latent_at(self, seconds: float) -> tuple[int, FloatArray] | None:
        """Step and estimate that the server had by a time after the device's request."""
        count = bisect_right([when for when, _, _ in self._steps], seconds)
        if not count:
            return None
        _, index, latent = self._steps[count - 1]
        return index, latent.astype(np.float32)

    def final(self) -> tuple[float, FloatArray] | None:
        """When generation was done, and the final latent; None if it never was."""
        if not self._steps or self._steps[-1][1] != 0:
            return None
        when, _, latent = self._steps[-1]
        return when, latent.astype(np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Jpeg:
    """A picture as JPEG.

    Attributes:
        data: the file.
        quality: 1 .. 95.
        side_fraction: the part of the picture's width that is kept, 1 for all.
    """

    data: bytes
    quality: int
    side_fraction: float


def best_jpeg(picture: Picture, max_bytes: int) -> Jpeg | None:
    """The JPEG of at most so many bytes that is nearest to the picture, smaller in width where that helps.

    Args:
        picture: uint8 (height, width, 3).
        max_bytes: what it may take, its header included.

    Returns:
        The file; None if not even a tiny one fits.

    Example:
        >>> grey = np.full((64, 64, 3), 120, np.uint8)
        >>> best_jpeg(grey, 100) is None, best_jpeg(grey, 2000).quality
        (True, 95)
    """
    whole = Image.fromarray(picture)
    best: Jpeg | None = None
    least = np.inf
    for divisor in _SIDES:
        size = max(1, whole.width // divisor), max(1, whole.height // divisor)
        small = whole if divisor == 1 else whole.resize(size, Image.Resampling.LANCZOS)
        found = _finest(small, max_bytes)
        if found is None:
            continue
        quality, data = found
        shown = Image.open(io.BytesIO(data)).resize(whole.size, Image.Resampling.BICUBIC)
        error = float(np.mean((np.asarray(shown, np.float64) - picture) ** 2))
        if error < least:
            best, least = Jpeg(data=data, quality=quality, side_fraction=1 / divisor), error
    return best


def _finest(image: Image.Image, max_bytes: int) -> tuple[int, bytes] | None:
    found: tuple[int, bytes] | None = None
    low, high = 0, _MAX_QUALITY
    while low < high:
        quality = (low + high + 1) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= max_bytes:
            found, low = (quality, buffer.getvalue()), quality
        else:
            high = quality - 1
    return found


def compare(recording: Recording, decode: Decoder) -> dict[str, Any]:
    """What the other two ways would have shown, and when, as plain JSON values.

    Args:
        recording: of the session.
        decode: latents float32 (batch, channels, height, width) to pictures uint8 (batch, height, width, 3).

    Returns:
        Times in milliseconds after the device's request, pictures as data URLs: "deadline_ms", "bytes",
        "finished" (the picture itself, null if generation was not done), "compute_then_send", with the latent
        as little-endian float32 in base64 since the device decodes it, and "jpeg_previews".
    """
    final = recording.final()
    finished = None if final is None else _data_url(decode(final[1][None])[0])
    return {
        "deadline_ms": 1e3 * recording.deadline_seconds,
        "bytes": recording.bytes_by(recording.deadline_seconds),
        "finished": finished,
        "compute_then_send": _compute_then_send(recording),
        "jpeg_previews": _jpeg_previews(recording, decode),
    }


def _compute_then_send(recording: Recording) -> dict[str, Any]:
    final = recording.final()
    if final is None:
        return {"generated_ms": None, "bytes": None, "arrived_ms": None, "latent": None}
    done, latent = final
    num_bytes = packet_bytes(latent.size, LOSSLESS_BITS)
    # The first byte can be there half a round trip after generation ends. What the refinements' bytes do not
    # show, because nothing was left to refine, the mean rate fills in.
    start = done + recording.rtt_seconds / 2
    by_bytes = recording.arrival_of(recording.bytes_by(start) + num_bytes)
    rate = recording.mean_rate()
    arrivals = [by_bytes] if by_bytes is not None else []
    arrivals += [start + 8.0 * num_bytes / rate] if rate else []
    arrived = min(arrivals, default=None)
    in_time = arrived is not None and arrived <= recording.deadline_seconds
    # A recording keeps float16, which is what would be sent.
    content = base64.b64encode(latent.astype("<f4").tobytes()).decode()
    return {
        "generated_ms": 1e3 * done,
        "bytes": num_bytes,
        "arrived_ms": None if arrived is None else 1e3 * arrived,
        "latent": content if in_time else None,
    }


def _jpeg_previews(recording: Recording, decode: Decoder) -> list[dict[str, Any]]:
    total = recording.bytes_by(recording.deadline_seconds)
    previews = []
    for number in range(NUM_PREVIEWS):
        first, end = total * number // NUM_PREVIEWS, total * (number + 1) // NUM_PREVIEWS
        start, arrived = recording.arrival_of(first), recording.arrival_of(end)
        if start is None or arrived is None or end == first:
            continue
        known = recording.latent_at(start - recording.rtt_seconds / 2)
        if known is None:
            continue
        step, latent = known
        jpeg = best_jpeg(decode(latent[None])[0], end - first)
        if jpeg is not None:
            previews.append(
                {
                    "arrived_ms": 1e3 * arrived,
                    "bytes": len(jpeg.data),
                    "quality": jpeg.quality,
                    "side_fraction": jpeg.side_fraction,
                    "step": step,
                    "picture": "data:image/jpeg;base64," + base64.b64encode(jpeg.data).decode(),
                }
            )
    return previews


def _data_url(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def comparison_route(find: Callable[[str, str], Recording | None], decode: Decoder) -> Route:
    """The route `GET /v1/sessions/{session}/comparison?key=...`.

    Args:
        find: the recording of a session and its key, None if there is none, or none any more.
        decode: as in `compare`; called in a thread.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        recording = find(request.path_params["session"], request.query_params.get("key", ""))
        if recording is None:
            error = {"code": "unknown-session", "message": "no such session, or its record is gone"}
            return JSONResponse({"error": error}, 404)
        headers = {"Cache-Control": "no-store"}
        return JSONResponse(await run_in_threadpool(compare, recording, decode), headers=headers)

    return Route("/v1/sessions/{session}/comparison", answer, methods=["GET"])
