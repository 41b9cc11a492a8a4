"""`POST /v1/images/generations` in the shape of OpenAI's images API, for clients that want pictures.

Taken are prompt, model, n, size, quality, response_format, output_format, output_compression, background,
moderation, style, user, stream and partial_images, and a seed beside them. `size` must be the model's,
pictures come as base64, and quality stands for the number of denoising steps. A stream sends server-sent
events: `image_generation.partial_image` as often as asked for, then `image_generation.completed`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import LatentcastError, ParameterError
from latentcast.live.admission import RefusedError
from latentcast.live.engine import Ticket
from latentcast.live.event_log import log_event
from latentcast.live.service import LiveService

__all__ = ["images_route"]

_BODY_BYTES = 65_536
_DEADLINE_SECONDS = 120.0
_STEPS = {"auto": 50, "high": 50, "hd": 50, "medium": 30, "standard": 30, "low": 10}
_STATUS = {"busy": 503, "shutting-down": 503, "deadline-too-short": 503, "unauthorized": 401}


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: str | None = None
    quality: Literal["auto", "high", "medium", "low", "hd", "standard"] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    user: str | None = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class _AnswerError(LatentcastError):
    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        parameter: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": message,
                "type": "server_error" if status >= 500 else "invalid_request_error",
                "param": parameter,
                "code": code,
            }
        }
        self.headers = {} if retry_seconds is None else {"Retry-After": str(max(round(retry_seconds), 1))}

    def response(self) -> Response:
        return JSONResponse(self.body, self.status, self.headers)


def images_route(service: LiveService) -> Route:
    """The route of the images API."""

    async def answer(request: Request) -> Response:
        try:
            question = await _question(request, service)
            job = _begin(service, question)
        except _AnswerError as error:
            service.metrics.images.labels("refused").inc()
            return error.response()
        except ClientDisconnect:
            return Response(status_code=499)
        if question.stream:
            return StreamingResponse(
                _events(service, job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        waiting = asyncio.ensure_future(_finals(service, job))
        try:
            while not (await asyncio.wait([waiting], timeout=0.5))[0]:
                if await request.is_disconnected():
                    service.metrics.images.labels("left").inc()
                    return Response(status_code=499)
            pictures = waiting.result()
        except _AnswerError as error:
            return error.response()
        finally:
            waiting.cancel()
            job.cancel()
        body = {"created": int(time.time()), "data": [{"b64_json": each} for each in pictures], **job.shape}
        return JSONResponse({**body, "usage": job.usage})

    return Route("/v1/images/generations", answer, methods=["POST"])


@dataclass(eq=False)
class _Run:
    """One picture under way; steps that are wanted come by the queue, and what ends it."""

    queue: asyncio.Queue[Step | LatentcastError]
    ticket: Ticket | None = None

    async def next(self) -> Step:
        item = await self.queue.get()
        if isinstance(item, LatentcastError):
            raise _AnswerError(500, str(item), code="generation_failed")
        return item


@dataclass(frozen=True, eq=False)
class _Job:
    question: _Question
    runs: list[_Run]
    num_steps: int
    shape: dict[str, Any]

    @property
    def usage(self) -> dict[str, Any]:
        """No tokens are counted here; clients expect the numbers."""
        nothing = {"text_tokens": 0, "image_tokens": 0}
        return {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": nothing}

    def cancel(self) -> None:
        for run in self.runs:
            if run.ticket is not None:
                run.ticket.cancel()


async def _question(request: Request, service: LiveService) -> _Question:
    if not service.config.access.allows_bearer(request.headers.get("Authorization")):
        raise _AnswerError(
            401, "the token is missing or wrong; send Authorization: Bearer TOKEN", code="invalid_api_key"
        )
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            raise _AnswerError(413, f"the request is longer than {_BODY_BYTES} bytes", code="too_large")
    try:
        question = _Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        parameter = ".".join(map(str, first["loc"])) or None
        if first["type"] == "extra_forbidden":
            raise _AnswerError(
                400, f"Unknown parameter: '{parameter}'.", code="unknown_parameter", parameter=parameter
            ) from None
        code = "invalid_json" if first["type"] == "json_invalid" else "invalid_value"
        raise _AnswerError(400, first["msg"], code=code, parameter=parameter) from None
    if question.model not in (None, service.model.name):
        raise _AnswerError(
            404,
            f"the model {question.model!r} is not here; this server has {service.model.name!r}",
            code="model_not_found",
            parameter="model",
        )
    if question.size not in (None, "auto", _size(service)):
        raise _AnswerError(
            400,
            f"size is {question.size!r}; the model makes pictures of {_size(service)}",
            code="invalid_value",
            parameter="size",
        )
    if question.stream and question.n > 1:
        raise _AnswerError(
            400, "a stream carries one picture; n must be 1", code="invalid_value", parameter="n"
        )
    if question.partial_images and not question.stream:
        raise _AnswerError(
            400,
            "partial_images needs stream to be true",
            code="invalid_value",
            parameter="partial_images",
        )
    return question


def _begin(service: LiveService, question: _Question) -> _Job:
    try:
        reading = service.model.read_prompt(question.prompt)
    except ParameterError as error:
        raise _AnswerError(400, str(error), code="invalid_value", parameter="prompt") from error
    num_steps = _STEPS[question.quality]
    # Spread over the run, at least a step before the end.
    wanted = {
        max(num_steps - num_steps * (number + 1) // (question.partial_images + 1), 1)
        for number in range(question.partial_images)
    }
    shape = {
        "background": "opaque",
        "output_format": question.output_format,
        "quality": question.quality,
        "size": _size(service),
    }
    job = _Job(question, [], num_steps, shape)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    seed = secrets.randbelow(2**31) if question.seed is None else question.seed
    try:
        for number in range(question.n):
            admission = service.admit(_DEADLINE_SECONDS, (num_steps,))
            job.runs.append(_submit(service, reading.caption, seed + number, admission, deadline, wanted))
    except RefusedError as error:
        job.cancel()
        service.refuse(error)
        raise _AnswerError(
            _STATUS.get(error.code, 503), str(error), code=error.code, retry_seconds=error.retry_seconds
        ) from error
    log_event(
        "images-began",
        count=question.n,
        num_steps=num_steps,
        prompt=question.prompt if service.config.log_prompts else None,
    )
    return job


def _submit(
    service: LiveService, caption: str, seed: int, admission: Any, deadline: float, wanted: set[int]
) -> _Run:
    loop = asyncio.get_running_loop()
    run = _Run(asyncio.Queue())

    def on_step(step: Step) -> None:
        if step.index == 0 or step.index in wanted:
            loop.call_soon_threadsafe(run.queue.put_nowait, step)

    def on_end(error: LatentcastError | None) -> None:
        if error is not None:
            loop.call_soon_threadsafe(run.queue.put_nowait, error)

    run.ticket = service.generate(caption, seed, admission, deadline, on_step, on_end)
    return run


async def _finals(service: LiveService, job: _Job) -> list[str]:
    pictures = []
    for run in job.runs:
        step = await run.next()
        pictures.append(await _picture(service, job.question, step.sample))
        service.metrics.images.labels("delivered").inc()
    return pictures


async def _events(service: LiveService, job: _Job) -> AsyncIterator[str]:
    (run,) = job.runs
    number, outcome = 0, "left"
    try:
        while True:
            step = await run.next()
            latent = service.estimate(step, job.num_steps) if step.index else step.sample
            event: dict[str, Any] = {
                "type": "image_generation.partial_image" if step.index else "image_generation.completed",
                "b64_json": await _picture(service, job.question, latent),
                "created_at": int(time.time()),
                **job.shape,
            }
            if step.index == 0:
                outcome = "delivered"
                yield _event({**event, "usage": job.usage})
                return
            yield _event({**event, "partial_image_index": number})
            number += 1
    except _AnswerError as error:
        outcome = "failed"
        yield _event({"type": "error", **error.body})
    finally:
        job.cancel()
        service.metrics.images.labels(outcome).inc()


def _event(data: dict[str, Any]) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"


async def _picture(service: LiveService, question: _Question, latent: FloatArray) -> str:
    (pixels,) = await service.decode(latent)
    buffer = io.BytesIO()
    kind = question.output_format
    options = {} if kind == "png" else {"quality": max(question.output_compression, 1)}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _size(service: LiveService) -> str:
    height, width = service.model.picture_size
    return f"{width}x{height}"
