"""Timing for the benchmarks: each figure is printed beside a reference that the same run measured."""

import time
from collections.abc import Callable


def best_seconds(function: Callable[[], object], *, calls: int, repeats: int = 5) -> float:
    """Least time of one call over several runs of many calls; the least is what the machine can do."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def report(name: str, seconds: float, reference: str, reference_seconds: float) -> None:
    """One line: the time, and its ratio to the reference's."""
    print(
        f"{name:<44} {_scaled(seconds)}   {seconds / reference_seconds:8.4f} x {reference}"
        f" ({_scaled(reference_seconds).strip()})"
    )


def _scaled(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:8.3f} s "
    return f"{seconds * 1e3:8.3f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:8.3f} us"
