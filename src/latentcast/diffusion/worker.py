"""Turning a call that pushes into an iterator that is pulled: the call runs in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["pulled"]

Item = TypeVar("Item")

# Items that may wait for the consumer.
_AHEAD = 2


def pulled(produce: Callable[[Callable[[Item], None]], None], *, name: str) -> Iterator[Item]:
    """Iterate over what a function pushes.

    The function runs in a thread, at most two items ahead of the consumer. When the iterator is closed, its
    next push raises an exception that ends it, and closing returns once the thread has ended.

    Args:
        produce: Called once with a function to push an item with.
        name: The thread's name.

    Yields:
        The items, in order.

    Raises:
        BaseException: Whatever `produce` raises, in the consumer's thread.

    Example:
        >>> list(pulled(lambda push: [push(number) for number in range(3)] and None, name="count"))
        [0, 1, 2]
    """
    # An item comes wrapped in a tuple, so that it is told from an exception and from the end, None.
    messages: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(maxsize=_AHEAD)
    stopped = threading.Event()

    def push(item: Item) -> None:
        messages.put((item,))
        if stopped.is_set():
            raise _StoppedError

    def run() -> None:
        if stopped.is_set():  # by an interrupt before this thread came to run
            return
        try:
            produce(push)
            messages.put(None)
        except _StoppedError:
            pass
        except BaseException as error:  # it belongs to the consumer's thread
            messages.put(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()  # inside: an interrupt may come while it waits for the thread
        while (message := messages.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield message[0]
    finally:
        stopped.set()
        while thread.is_alive():
            # A full queue would keep the thread in `push` for ever.
            while not messages.empty():
                messages.get_nowait()
            thread.join(timeout=0.02)


class _StoppedError(Exception):
    """Leaves the producing call when nobody listens any more."""
