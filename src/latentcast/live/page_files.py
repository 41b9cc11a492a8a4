"""The web page's files as routes: the folder `page`, the codec's tables, nothing from any other host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import latentcast.codec

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

__all__ = ["page_routes"]

_FOLDER = Path(__file__).parent / "page"
_TABLES = Path(latentcast.codec.__file__).parent / "tables.npy"

# Python's `mimetypes` depends on the machine.
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".npy": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}

_HEADERS = {
    # Pages are small and change with the package: browsers ask, and are told that nothing has changed.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class _File:
    content: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        compressed = path.suffix == ".gz"
        suffix = Path(path.stem).suffix if compressed else path.suffix
        headers = {
            **_HEADERS,
            "Content-Type": _MEDIA_TYPES[suffix],
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            **({"Content-Encoding": "gzip"} if compressed else {}),
        }
        return cls(content=content, headers=headers)

    async def answer(self, request: Request) -> Response:
        from starlette.responses import Response

        known = request.headers.get("If-None-Match", "").split(", ")
        unchanged = self.headers["ETag"] in known
        return Response(b"" if unchanged else self.content, 304 if unchanged else 200, self.headers)


def page_routes() -> list[Route]:
    """Routes of the page: `/` and every file that it loads.

    Only these very files are served; there is no folder to climb out of. The compressed WebAssembly module
    goes out as it lies on disk, with `Content-Encoding: gzip`, under its name without `.gz`.

    Example:
        >>> sorted(route.path for route in page_routes())[:3]
        ['/', '/app.js', '/bands.js']
    """
    from starlette.routing import Route

    paths = {f"/{path.relative_to(_FOLDER).as_posix().removesuffix('.gz')}": path for path in _served()}
    paths["/tables.npy"] = _TABLES
    paths["/"] = paths.pop("/index.html")
    return [
        Route(address, _File.read(path).answer, methods=["GET"]) for address, path in sorted(paths.items())
    ]


def _served() -> list[Path]:
    return [
        path
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _MEDIA_TYPES or path.name.endswith(".wasm.gz")
    ]
