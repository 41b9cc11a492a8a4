"""What the server's addresses share: the model, the engine, who is let in, and the sessions under way."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from latentcast.codec.bands import Bands
from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.diffusion.batching import BatchedDenoiser
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import LiveError, ParameterError, ProtocolError
from latentcast.live.access import Access
from latentcast.live.admission import STEP_COUNTS, Admission, RefusedError, WaitingLine, admit
from latentcast.live.comparison import Recording
from latentcast.live.engine import Engine, Ticket
from latentcast.live.event_log import log_event
from latentcast.live.hosted import HostedSession
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import TokenBucket
from latentcast.live.messages import Request, Resume
from latentcast.live.metrics import Metrics
from latentcast.live.rehearsal import rehearse
from latentcast.live.served_model import ServedModel
from latentcast.live.server_session import ServerSession
from latentcast.live.shaped_transport import ShapedTransport
from latentcast.live.transport import Transport

__all__ = ["LiveService", "ServeConfig"]

_KEPT_RECORDINGS = 32
_LARGEST_SEED = 2**31


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How the server is run.

    Attributes:
        access: Tokens and origins.
        max_sessions: Most sessions at a time, those whose device may come back included.
        emulate_links: Whether a request may name a link for the server to emulate.
        log_prompts: Whether prompts are written to the log.

    Raises:
        ParameterError: If a value is out of range.
    """

    access: Access = field(default_factory=Access)
    max_sessions: int = 64
    emulate_links: bool = False
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= 1024:
            raise ParameterError(f"max_sessions is {self.max_sessions}; it must be 1 to 1024")


class LiveService:
    """Everything behind the addresses. `start` before use and `close` after it, both in the event loop.

    Args:
        config: How the server is run.
        model: What generates.

    Raises:
        ModelError: If requests to this model cannot be batched.
    """

    def __init__(self, config: ServeConfig, model: DiffusersModel) -> None:
        self.config = config
        self.model = model
        self.metrics = Metrics()
        self.draining = False
        self._denoiser = BatchedDenoiser(model)
        self._calibrations: dict[int, Calibration] = {}
        self.served = ServedModel(
            name=model.name,
            latent_shape=model.latent_shape,
            path=self._denoiser.path,
            calibration=self.calibration,
        )
        self._engine: Engine | None = None
        self._sessions: dict[str, _Hosted] = {}
        self._recordings: OrderedDict[str, tuple[str, Recording]] = OrderedDict()
        self._line = WaitingLine()
        self._decoding = asyncio.Lock()

    @property
    def engine(self) -> Engine:
        """The engine, once started."""
        if self._engine is None:
            raise LiveError("the service has not been started")
        return self._engine

    @property
    def num_sessions(self) -> int:
        """Sessions that are not over."""
        return len(self._sessions)

    async def start(self) -> None:
        """Measure the model's speed and begin to work."""
        self._engine = await asyncio.to_thread(
            Engine, self._denoiser, max_requests=2 * self.config.max_sessions, on_call=self.metrics.call
        )
        await asyncio.to_thread(self._rehearse)
        log_event(
            "ready",
            model=self.model.name,
            step_ms=round(1e3 * self._engine.slot_seconds(1), 1),
            step_ms_of_16=round(1e3 * self._engine.slot_seconds(16), 1),
        )

    async def end_sessions(self) -> None:
        """Take nothing new, and end the sessions that are left with an ERROR to their devices."""
        self.draining = True
        sessions = [hosted.session for hosted in self._sessions.values()]
        for session in sessions:
            session.fail(LiveError("the server is shutting down"), "shutting-down")
        await asyncio.gather(*(session.wait() for session in sessions))

    async def close(self) -> None:
        """End everything that is still under way."""
        await self.end_sessions()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
        self._denoiser.close()
        log_event("closed")

    def calibration(self, num_steps: int) -> Calibration:
        """How good the model's estimates are, in a run of so many steps."""
        if num_steps not in self._calibrations:
            path: NoisePath = self._denoiser.path(num_steps)
            self._calibrations[num_steps] = find_calibration(self.model, path) or Calibration.white(path)
        return self._calibrations[num_steps]

    def admit(self, seconds_left: float, step_counts: tuple[int, ...] = STEP_COUNTS) -> Admission:
        """Decide whether one more request can be served, and in how many steps.

        Raises:
            RefusedError: If it cannot.
        """
        if self.draining:
            raise RefusedError("shutting-down", "the server is shutting down; it takes no new requests")
        under_way, now = self.engine.under_way(), time.monotonic()
        fewest_seconds = min(step_counts) * self.engine.slot_seconds(len(under_way) + 1)
        try:
            if len(self._sessions) >= self.config.max_sessions:
                message = f"there are {len(self._sessions)} sessions, which is all that this server takes"
                raise RefusedError("busy", message, fewest_seconds)
            return admit(
                seconds_left=seconds_left,
                under_way=under_way,
                slot_seconds=self.engine.slot_seconds,
                now=now,
                step_counts=step_counts,
                waiting=self._line.times,
            )
        except RefusedError as refusal:
            if refusal.retry_seconds is not None:
                back_at = self._line.join(
                    now=now,
                    earliest=now + refusal.retry_seconds,
                    # What a request among many takes of the engine's time.
                    turn_seconds=fewest_seconds / (len(under_way) + 1),
                )
                refusal.retry_seconds = back_at - now
            raise

    def refuse(self, refusal: RefusedError) -> None:
        """Count and log a refusal."""
        self.metrics.refusals.labels(refusal.code).inc()
        log_event("refused", code=refusal.code, reason=str(refusal), retry_seconds=refusal.retry_seconds)

    def open(self, request: Request, transport: Transport, received_at: float) -> HostedSession:
        """Begin a session.

        Args:
            request: What the device asks for.
            transport: Where it is.
            received_at: When its request came, in seconds of the monotonic clock.

        Raises:
            RefusedError: If it is not served.
        """
        if not self.config.access.allows_token(request.token):
            raise RefusedError("unauthorized", "the token is missing or wrong; ask who runs this server")
        if request.link is not None and not self.config.emulate_links:
            raise RefusedError("unsupported", "this server emulates no links; leave out link")
        try:
            reading = self.model.read_prompt(request.prompt)
        except ParameterError as error:
            raise RefusedError("bad-request", str(error)) from error
        if not reading.caption.strip():
            raise RefusedError("bad-request", "the prompt is empty; describe a picture")
        half_trip = min(request.rtt_ms, request.deadline_ms) / 2e3
        deadline = received_at - half_trip + request.deadline_ms / 1e3
        admission = self.admit(deadline - half_trip - time.monotonic())
        seed = secrets.randbelow(_LARGEST_SEED) if request.seed is None else request.seed
        # As short as may be on a slow link: one is to be told from others, the other not to be guessed.
        identity, key = secrets.token_urlsafe(6), secrets.token_urlsafe(12)
        try:
            session = ServerSession(
                request=request,
                session=identity,
                key=key,
                model=self.served,
                slot_seconds=admission.slot_seconds,
                num_steps=admission.num_steps,
                received_at=received_at,
                seed=seed,
                caption=reading.caption,
                notes=reading.notes,
            )
            behind = None
            if request.link is not None:
                schedule = self._emulated(request.link, seed, admission.slot_seconds)
                bucket = TokenBucket(schedule, start_seconds=received_at)
                behind = partial(ShapedTransport, bucket=bucket)
        except ProtocolError as error:
            raise RefusedError(error.code, str(error)) from error
        recording = Recording(
            started_at=received_at - half_trip,
            deadline_seconds=request.deadline_ms / 1e3,
            rtt_seconds=2 * half_trip,
        )
        hosted = HostedSession(session, transport, recording, self._ended, behind)
        try:
            hosted.begin(self.engine, caption=reading.caption, seed=seed, num_steps=admission.num_steps)
        except LiveError as error:
            raise RefusedError("busy", str(error), 1.0) from error
        self._sessions[identity] = _Hosted(hosted, key, admission)
        self._recordings[identity] = key, recording
        while len(self._recordings) > _KEPT_RECORDINGS:
            self._recordings.popitem(last=False)
        log_event(
            "session-began",
            session=identity,
            deadline_ms=request.deadline_ms,
            num_steps=admission.num_steps,
            slot_ms=round(1e3 * admission.slot_seconds, 2),
            active=len(self._sessions),
            prompt=request.prompt if self.config.log_prompts else None,
        )
        return hosted

    def resume(self, resume: Resume, transport: Transport) -> HostedSession:
        """Let a device go on with its session.

        Raises:
            RefusedError: If there is no such session, or not for this device.
            ProtocolError: If the session does not take it.
        """
        if not self.config.access.allows_token(resume.token):
            raise RefusedError("unauthorized", "the token is missing or wrong; ask who runs this server")
        known = self._sessions.get(resume.session)
        # The same answer for a wrong key, so that sessions cannot be looked for.
        if not hmac.compare_digest((known.key if known else "").encode(), resume.key.encode()) or not known:
            raise RefusedError("unknown-session", "there is no such session, or it is over; ask anew")
        known.session.attach(transport, resume)
        self.metrics.resumed.inc()
        log_event("session-resumed", session=resume.session)
        return known.session

    def recording(self, session: str, key: str) -> Recording | None:
        """What happened in a session of late, for whoever has its key."""
        known_key, recording = self._recordings.get(session, ("", None))
        return recording if hmac.compare_digest(known_key.encode(), key.encode()) else None

    def generate(
        self,
        caption: str,
        seed: int,
        admission: Admission,
        deadline: float,
        on_step: Callable[[Step], None],
        on_end: Callable[[Any], None],
    ) -> Ticket:
        """Denoise for somebody who is no device.

        Raises:
            RefusedError: If the engine is full.
        """
        try:
            return self.engine.submit(caption, seed, admission.num_steps, deadline, on_step, on_end)
        except LiveError as error:
            raise RefusedError("busy", str(error), 1.0) from error

    def estimate(self, step: Step, num_steps: int) -> FloatArray:
        """The best estimate of x_0 at a step, float32 (1, channels, height, width)."""
        target = self.calibration(num_steps).target(step)
        return np.stack([Bands(self.model.latent_shape).inverse(row) for row in target])

    async def decode(self, latents: FloatArray) -> Any:
        """Pictures of latents, one call at a time, beside the event loop."""
        async with self._decoding:
            return await asyncio.to_thread(self.model.decode, latents)

    def update_gauges(self) -> None:
        """Bring what is only counted when asked for up to date."""
        connected = sum(hosted.session.connected for hosted in self._sessions.values())
        self.metrics.sessions.labels("connected").set(connected)
        self.metrics.sessions.labels("waiting").set(len(self._sessions) - connected)

    def _rehearse(self) -> None:
        """Do once what the first request of a kind would wait for, and everybody's steps with it."""
        self.model.read_prompt("")
        for num_steps in STEP_COUNTS:
            rehearse(self.served, num_steps)

    def _emulated(self, link: dict[str, Any], seed: int, slot_seconds: float) -> RateSchedule:
        unknown = set(link) - {"kind", "snr_db", "seed"}
        if unknown or link.get("kind", "rayleigh") != "rayleigh" or "snr_db" not in link:
            raise ProtocolError(
                f'link is {link!r:.200}; it must read like {{"kind": "rayleigh", "snr_db": 3, "seed": 0}}'
            )
        try:
            return RateSchedule.rayleigh(
                snr_db=link["snr_db"],
                latent_size=int(np.prod(self.model.latent_shape)),
                slot_ms=1e3 * slot_seconds,
                seed=link.get("seed", seed),
                num_slots=1000,
            )
        except (ParameterError, TypeError) as error:
            raise ProtocolError(f"link cannot be emulated: {error}") from error

    def _ended(self, hosted: HostedSession) -> None:
        admission = self._sessions.pop(hosted.session.session).admission
        summary = hosted.session.summary()
        metrics = self.metrics
        outcome = "failed" if hosted.failure else "delivered" if summary["deadline_met"] else "missed"
        metrics.ended.labels(outcome).inc()
        metrics.sent_bits.inc(8 * summary["bytes"])
        metrics.deadlines.labels("yes" if summary["deadline_met"] else "no").inc()
        if summary["predicted_mse"] is not None:
            metrics.predicted_mse.observe(summary["predicted_mse"])
        if summary["reached_mse"] is not None:
            metrics.reached_mse.observe(summary["reached_mse"])
        latency = hosted.session.latency
        metrics.packets.inc(latency.packets)
        metrics.packets_in_time.inc(latency.within)
        metrics.predicted_latency.inc(latency.predicted_seconds)
        metrics.reached_latency.inc(latency.reached_seconds)
        generation_ms = None
        if hosted.generated_at is not None:
            seconds = hosted.generated_at - hosted.begun_at
            metrics.predicted_seconds.observe(admission.num_steps * admission.slot_seconds)
            metrics.reached_seconds.observe(seconds)
            generation_ms = round(1e3 * seconds)
        log_event(
            "session-ended",
            level=logging.INFO if hosted.failure is None else logging.WARNING,
            **summary,
            outcome=outcome,
            generation_ms=generation_ms,
            failure=None if hosted.failure is None else str(hosted.failure),
        )


@dataclass(frozen=True)
class _Hosted:
    session: HostedSession
    key: str
    admission: Admission
