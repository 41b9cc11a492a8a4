"""`latentcast serve` in a process of its own, with its log. Used by live_over_link.py."""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

START_SECONDS = 120.0
END_SECONDS = 20.0


class LoggedServer:
    """A server that runs; made by `running`.

    Attributes:
        address: host and port.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ended: dict[str, dict[str, Any]] = {}
        self._threads = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for thread in self._threads:
            thread.start()
        while "url" not in (event := self._next(START_SECONDS)):
            pass
        url = urlsplit(event["url"])
        assert url.hostname is not None
        assert url.port is not None
        self.address = (url.hostname, url.port)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["LoggedServer"]:
        """Start it on any free port of this machine, and end it after the block."""
        process = subprocess.Popen(
            [sys.executable, "-m", "latentcast", "serve", "--port", "0", "--json-logs"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield cls(process)
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def end_of(self, session: str) -> dict[str, Any]:
        """What the server logged at a session's end."""
        while session not in self._ended:
            event = self._next(END_SECONDS)
            if event.get("event") == "session-ended":
                self._ended[event["session"]] = event
        return self._ended.pop(session)

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            raise RuntimeError(f"the server said nothing for {seconds:g} seconds") from None

    def _read(self, stream: Any) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                event = next(({"url": word} for word in line.split() if word.startswith("http://")), {})
            self._events.put(event)
