"""A call in a thread of its own, pulled from."""

import threading
from collections.abc import Callable, Iterator

import pytest

from latentcast.diffusion.worker import pulled


def test_an_interrupt_while_the_thread_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        original(thread)
        raise KeyboardInterrupt

    def produce(push: Callable[[int], None]) -> None:
        while True:
            push(1)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(pulled(produce, name="endless"))
    assert "endless" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_that_comes_to_run_too_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    items: Iterator[int] = pulled(lambda push: pytest.fail("it ran"), name="late")
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(items)
    late[0].run()
