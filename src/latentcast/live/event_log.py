"""The server's log: one line per event, as text or as JSON. Prompts stay out unless asked for."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["configure_logs", "log_event"]

_LOGGER = logging.getLogger("latentcast.live")


def log_event(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event.

    Args:
        event: What happened, as words-with-hyphens.
        level: Of the standard library.
        **fields: Plain JSON values; None is left out.
    """
    kept = {name: value for name, value in fields.items() if value is not None}
    _LOGGER.log(level, event, extra={"fields": kept})


def configure_logs(*, as_json: bool) -> None:
    """Send the events, and what uvicorn has to complain about, to stderr.

    Args:
        as_json: One JSON object a line instead of text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    for name, level in (("latentcast.live", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _parts(record: logging.LogRecord) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "event": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info and record.exc_info[1] is not None:
        parts["error"] = " ".join(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}".split())[:500]
    return parts


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_parts(record), ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = _parts(record)
        head = f"{parts.pop('time')} {parts.pop('level'):<7} {parts.pop('event')}"
        rest = (f"{name}={json.dumps(value, default=str)}" for name, value in parts.items())
        return " ".join([head, *rest])
