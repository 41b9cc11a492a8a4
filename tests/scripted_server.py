"""A server that does to a page what a test tells it to, one script for each connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from onnx import TensorProto, helper
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from latentcast.live.comparison import Decoder, Recording, comparison_route
from latentcast.live.messages import Message, Ping, Pong
from latentcast.live.page_files import page_routes
from latentcast.live.protocol import decode, encode

LATENT_SHAPE = (4, 8, 8)


def tiny_decoder() -> bytes:
    """An ONNX file: every number of the first three channels as 8 x 8 pixels, 0.5 + 0.25 times the number."""
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", 4, 8, 8])
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", 3, 64, 64])
    constants: dict[str, tuple[int, list[int], list[float]]] = {
        "from": (TensorProto.INT64, [1], [0]),
        "to": (TensorProto.INT64, [1], [3]),
        "axis": (TensorProto.INT64, [1], [1]),
        "scales": (TensorProto.FLOAT, [4], [1, 1, 8, 8]),
        "contrast": (TensorProto.FLOAT, [], [0.25]),
        "grey": (TensorProto.FLOAT, [], [0.5]),
        "zero": (TensorProto.FLOAT, [], [0]),
        "one": (TensorProto.FLOAT, [], [1]),
    }
    nodes = [
        helper.make_node("Slice", ["latent", "from", "to", "axis"], ["three"]),
        helper.make_node("Resize", ["three", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Mul", ["large", "contrast"], ["scaled"]),
        helper.make_node("Add", ["scaled", "grey"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "zero", "one"], ["picture"]),
    ]
    tensors = [
        helper.make_tensor(name, kind, shape, values) for name, (kind, shape, values) in constants.items()
    ]
    graph = helper.make_graph(nodes, "tiny", [latent], [picture], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


class Peer:
    """The page, at the other end of one connection. PINGs are answered for the script."""

    def __init__(self, socket: WebSocket, received: list[Message]) -> None:
        self._socket = socket
        self._received = received

    async def receive(self) -> Message:
        while True:
            message = decode(await self._socket.receive_bytes(), sender="device")
            if not isinstance(message, Ping):
                self._received.append(message)
                return message
            await self.send(Pong(message.nonce))

    async def expect(self, kind: type[Any]) -> Any:
        """The next message of a kind; others on the way are dropped."""
        while not isinstance(message := await self.receive(), kind):
            pass
        return message

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self._socket.send_bytes(encode(message))

    async def close(self) -> None:
        await self._socket.close(1011)


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Page, decoder and `/v1/info` as the real server has them; what happens on the socket is scripted.

    Attributes:
        received: every message of the page but PING.
    """

    def __init__(
        self,
        scripts: Sequence[Script],
        *,
        info: dict[str, Any] | None = None,
        recording: Recording | None = None,
        pictures: Decoder | None = None,
    ) -> None:
        self.received: list[Message] = []
        self._scripts = list(scripts)
        self._info = {
            "model": "tiny",
            "latent_shape": list(LATENT_SHAPE),
            "num_steps": 50,
            "slot_ms": 20.0,
            "emulates_links": False,
            "token_required": False,
            "example_prompts": [],
            **(info or {}),
        }
        decoder = tiny_decoder()

        async def answer_info(_: Request) -> Response:
            return JSONResponse(self._info)

        async def answer_decoder(_: Request) -> Response:
            return Response(decoder, media_type="application/octet-stream")

        def find(session: str, key: str) -> Recording | None:
            return recording

        def no_pictures(latents: Any) -> Any:
            raise AssertionError("no recording, no pictures")

        self.app = Starlette(
            routes=[
                *page_routes(),
                Route("/v1/info", answer_info),
                Route("/v1/decoder.onnx", answer_decoder),
                comparison_route(find, pictures or no_pictures),
                WebSocketRoute("/v1/live", self._talk),
            ]
        )

    async def _talk(self, socket: WebSocket) -> None:
        await socket.accept()
        peer = Peer(socket, self.received)
        try:
            await self._scripts.pop(0)(peer)
            # A script that ends leaves the rest to the page.
            while True:
                await peer.receive()
        except WebSocketDisconnect:
            pass


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """The address of an application that is served in a thread."""
    config = uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()
