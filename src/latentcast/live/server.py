"""The server's addresses, as a Starlette application.

`/v1/live` (WebSocket) serves devices, `/v1/images/generations` clients that want pictures, `/` people with a
browser; `/v1/decoder.onnx`, `/v1/info`, `/health` and `/metrics` are beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from latentcast.diffusion.device_decoder import decoder_tag, device_decoder_file
from latentcast.diffusion.pipeline import DiffusersModel
from latentcast.errors import LatentcastError, ProtocolError
from latentcast.live.admission import STEP_COUNTS, RefusedError
from latentcast.live.comparison import comparison_route
from latentcast.live.hosted import HostedSession
from latentcast.live.images import images_route
from latentcast.live.messages import CODECS, VERSION, Failure, Ping, Pong, Request, Resume
from latentcast.live.metrics import CONTENT_TYPE
from latentcast.live.page_files import page_routes
from latentcast.live.protocol import decode, encode
from latentcast.live.service import LiveService, ServeConfig
from latentcast.live.transport import TransportClosed
from latentcast.live.websocket_transport import WebSocketTransport

__all__ = ["ServeConfig", "make_app"]

# From the connection to the request, and PINGs in between.
_HELLO_SECONDS = 30.0
_HELLO_PINGS = 64
# Connections that have not asked for anything yet.
_SPARE_CONNECTIONS = 256
_EXAMPLE_PROMPTS = {
    "scenes": [
        "a red sphere left of a blue cube",
        "a green cylinder on a wooden floor at night",
        "a yellow cylinder behind a purple sphere at dusk",
    ]
}


def make_app(config: ServeConfig, model: DiffusersModel) -> Starlette:
    """The server as an ASGI application; its lifespan starts and ends the engine.

    Args:
        config: How the server is run.
        model: What generates.

    Raises:
        ModelError: If requests to this model cannot be batched.

    Example:
        ::

            app = make_app(ServeConfig(), load_pipeline("scenes"))
            uvicorn.run(app, port=8700)
    """
    service = LiveService(config, model)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    door = _Door(service)
    routes: list[BaseRoute] = [
        WebSocketRoute("/v1/live", door.live),
        images_route(service),
        comparison_route(service.recording, model.decode),
        Route("/v1/info", door.info),
        Route("/v1/decoder.onnx", _DecoderFile(model.name).answer),
        Route("/health", door.health),
        Route("/metrics", door.metrics),
        *page_routes(),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.service = service
    return app


class _Door:
    """The endpoints that need the service."""

    def __init__(self, service: LiveService) -> None:
        self._service = service
        self._connections = 0

    async def live(self, websocket: WebSocket) -> None:
        """Serve one connection of a device."""
        service = self._service
        origin = websocket.headers.get("Origin")
        if not service.config.access.allows_origin(origin, host=websocket.headers.get("Host", "")):
            service.refuse(RefusedError("forbidden-origin", f"a page of {origin!r:.200} may not connect"))
            await websocket.send_denial_response(PlainTextResponse("this page may not connect", 403))
            return
        if self._connections >= service.config.max_sessions + _SPARE_CONNECTIONS:
            service.refuse(RefusedError("busy", "there are too many connections"))
            await websocket.send_denial_response(PlainTextResponse("there are too many connections", 503))
            return
        self._connections += 1
        try:
            await websocket.accept()
            transport = WebSocketTransport(websocket)
            hosted = await self._admitted(transport)
            if hosted is not None:
                await hosted.listen()
        finally:
            self._connections -= 1

    async def _admitted(self, transport: WebSocketTransport) -> HostedSession | None:
        """The session that a connection asks for; None after an ERROR, or where it has left."""
        service = self._service
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                message = await _first_message(transport)
            if isinstance(message, Request):
                return service.open(message, transport, time.monotonic())
            return service.resume(message, transport)
        except TransportClosed:
            return None
        except RefusedError as error:
            refusal = error
        except ProtocolError as error:
            refusal = RefusedError(error.code, str(error))
        except TimeoutError:
            refusal = RefusedError("bad-request", f"no request came within {_HELLO_SECONDS:g} seconds")
        service.refuse(refusal)
        retry = refusal.retry_seconds
        failure = Failure(
            code=refusal.code,
            message=str(refusal)[:2000],
            retry_after_ms=None if retry is None else round(1e3 * retry),
        )
        with contextlib.suppress(TransportClosed, TimeoutError):
            async with asyncio.timeout(_HELLO_SECONDS):
                await transport.send(encode(failure))
                await transport.close(1013 if retry is not None else 1008, refusal.code)
        return None

    async def info(self, _: HttpRequest) -> Response:
        """What a page needs to know."""
        service = self._service
        slot = service.engine.slot_seconds(len(service.engine.under_way()) + 1)
        return JSONResponse(
            {
                "protocol": VERSION,
                "model": service.model.name,
                "codecs": list(CODECS),
                "latent_shape": list(service.model.latent_shape),
                "picture_size": list(service.model.picture_size),
                "num_steps": STEP_COUNTS[0],
                "slot_ms": 1e3 * slot,
                "emulates_links": service.config.emulate_links,
                "token_required": service.config.access.needs_token,
                "example_prompts": _EXAMPLE_PROMPTS.get(service.model.name, []),
            },
            headers={"Cache-Control": "no-store"},
        )

    async def health(self, _: HttpRequest) -> Response:
        """Whether requests are taken, for load balancers."""
        service = self._service
        status = "draining" if service.draining else "ok"
        body = {"status": status, "model": service.model.name, "sessions": service.num_sessions}
        return JSONResponse(body, 503 if service.draining else 200)

    async def metrics(self, request: HttpRequest) -> Response:
        """The figures for Prometheus; where tokens are asked for, one is needed here as well."""
        service = self._service
        if not service.config.access.allows_bearer(request.headers.get("Authorization")):
            return PlainTextResponse("a token is needed", 401, {"WWW-Authenticate": "Bearer"})
        service.update_gauges()
        return Response(service.metrics.page(), media_type=CONTENT_TYPE)


async def _first_message(transport: WebSocketTransport) -> Request | Resume:
    for _ in range(_HELLO_PINGS):
        message = decode(await transport.receive(), sender="device")
        if isinstance(message, Request | Resume):
            return message
        if not isinstance(message, Ping):
            raise ProtocolError(f"{type(message).__name__.upper()} came before REQUEST or RESUME")
        await transport.send(encode(Pong(message.nonce)))
    raise ProtocolError(f"{_HELLO_PINGS} PINGs came and no REQUEST")


class _DecoderFile:
    """The device decoder of a model; read anew when the file has changed."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._known: tuple[tuple[int, int], bytes, str] | None = None

    async def answer(self, request: HttpRequest) -> Response:
        """The file, or that a device has it already."""
        try:
            content, etag = await asyncio.to_thread(self._read)
        except (LatentcastError, OSError) as error:
            return JSONResponse({"error": {"code": "no-decoder", "message": str(error)}}, 404)
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if etag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="application/octet-stream")

    def _read(self) -> tuple[bytes, str]:
        file = device_decoder_file(self._model_name)
        status = file.stat()
        version = status.st_mtime_ns, status.st_size
        if self._known is None or self._known[0] != version:
            content = file.read_bytes()
            self._known = version, content, decoder_tag(content)
        return self._known[1:]
