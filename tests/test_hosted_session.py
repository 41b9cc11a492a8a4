"""A hosted session with made-up state and transport: when its task looks, and when it sleeps on."""

import asyncio
import time
from typing import Any, cast

from latentcast.live.comparison import Recording
from latentcast.live.hosted import HostedSession
from latentcast.live.messages import Ack
from latentcast.live.protocol import encode
from latentcast.live.transport import TransportClosed


class QuietSession:
    """Has nothing to send before `again`, whatever is acknowledged."""

    session = "quiet"
    deadline = float("inf")
    ended = False
    wants_steps = True

    def __init__(self, again: float) -> None:
        self.again = again
        self.polls = self.received = 0

    def poll(self, now: float) -> list[bytes]:
        self.polls += 1
        return []

    def next_poll(self, now: float) -> float:
        return self.again

    def receive(self, message: object, now: float) -> None:
        self.received += 1

    def is_silent(self, now: float) -> bool:
        return False

    def detach(self, now: float) -> None:
        self.ended = True


class ChattyTransport:
    """Brings as many acknowledgements, each in a turn of the loop of its own, and closes."""

    def __init__(self, count: int) -> None:
        self._left = count

    async def receive(self) -> bytes:
        await asyncio.sleep(0.002)
        if self._left == 0:
            raise TransportClosed("gone", code=1006)
        self._left -= 1
        return encode(Ack(0, 0x80, 1, 1))

    async def send(self, message: bytes) -> None:
        raise AssertionError("there is nothing to send")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        return None


class NoEngine:
    """Takes requests and never denoises."""

    def submit(self, *_: object) -> Any:
        class Ticket:
            def cancel(self) -> None:
                return None

        return Ticket()


async def _hosted(again_in: float, acks: int) -> QuietSession:
    session = QuietSession(time.monotonic() + again_in)
    recording = Recording(started_at=time.monotonic(), deadline_seconds=9.0, rtt_seconds=0.0)
    transport: Any = ChattyTransport(acks)
    hosted = HostedSession(cast(Any, session), transport, recording, lambda _: None)
    engine: Any = NoEngine()
    hosted.begin(engine, caption="", seed=0, num_steps=1)
    await hosted.listen()
    await hosted.wait()
    return session


def test_what_changes_nothing_lets_the_task_sleep_on() -> None:
    session = asyncio.run(_hosted(again_in=4.0, acks=50))
    assert session.received == 50
    # At the beginning and at the end.
    assert session.polls <= 3


def test_what_calls_for_a_look_gets_one() -> None:
    session = asyncio.run(_hosted(again_in=-1.0, acks=50))
    assert session.received == 50
    assert session.polls >= 25
