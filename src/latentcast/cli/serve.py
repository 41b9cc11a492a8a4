"""What `latentcast serve` does, once its arguments are parsed."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

from latentcast.cli.packages import needs
from latentcast.diffusion.pipeline import load_pipeline

__all__ = ["ServeOptions", "run_serve"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The arguments of `latentcast serve`."""

    model: str
    device: str
    host: str
    port: int
    token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    max_sessions: int
    origins: tuple[str, ...]
    emulate_links: bool
    json_logs: bool
    log_prompts: bool


# New objects between two looks for garbage: some hundred steps' worth.
_YOUNG_OBJECTS = 20_000


def run_serve(options: ServeOptions) -> None:
    """Serve until told to end; print the address when ready.

    Raises:
        ParameterError: If an option cannot be, or packages are missing.
        ModelError: If the model cannot be loaded, or requests to it cannot be batched.
        LiveError: If the address cannot be listened on.
    """
    with needs("the server needs", "serve"):
        from latentcast.live.access import Access, read_tokens
        from latentcast.live.event_log import configure_logs
        from latentcast.live.listening import Address, LiveServer
        from latentcast.live.server import ServeConfig, make_app
    tokens = () if options.token_file is None else read_tokens(options.token_file)
    config = ServeConfig(
        access=Access(tokens=tokens, origins=options.origins),
        max_sessions=options.max_sessions,
        emulate_links=options.emulate_links,
        log_prompts=options.log_prompts,
    )
    address = Address(
        host=options.host, port=options.port, tls_cert=options.tls_cert, tls_key=options.tls_key
    )
    configure_logs(as_json=options.json_logs)
    model = load_pipeline(options.model, options.device)
    server = LiveServer(make_app(config, model), address, on_ready=_begin)
    server.run()


def _begin(url: str) -> None:
    """Leave what is loaded out of the collector's sight, and say where the server is."""
    # To look through it for garbage would hold everybody up for 0.15 s. What comes goes without a collector,
    # but for rare cycles. This process is the server's alone.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    _say_where(url)


def _say_where(url: str) -> None:
    # Flushed, for whoever waits for this line.
    print(f"Serving on {url}", flush=True)
