"""Two hundred devices ask one server for a picture of the embedded model at once, over the loopback.

Who is refused asks again when it was told to, until its patience ends. Against it stands diffusers' pipeline
as it is, one request at a time with torch's default threads, before and after in the same run. Processor time
beside wall time: the devices run on this machine as well, and so may others.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.live.device_session import DeviceSession

BASELINE_STEPS = 12
PROMPT = "a red sphere left of a blue cube"


@dataclass
class Outcome:
    """What became of the devices."""

    served: list[DeviceSession] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    without_retry: int = 0
    gave_up: int = 0
    broken: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Usage:
    """Processor seconds of every thread of the server's process, and its memory in MiB."""

    seconds: dict[int, float]
    memory: float

    @classmethod
    def look(cls, process: int) -> "Usage":
        """As they are now."""
        seconds = {}
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that just ended
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
                seconds[int(task.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{process}/status").read_text()
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return cls(seconds, memory / 1024)

    def since(self, before: "Usage") -> tuple[float, float]:
        """Processor seconds in all, and of the busiest threads, which are the denoiser's."""
        spent = [seconds - before.seconds.get(thread, 0.0) for thread, seconds in self.seconds.items()]
        return sum(spent), sum(sorted(spent)[-torch.get_num_threads() :])


def one_at_a_time(model: DiffusersModel) -> tuple[float, float]:
    """Wall and processor seconds of a step of the pipeline's own loop, the least of some runs."""
    best = (float("inf"), float("inf"))
    for _ in range(4):
        began = time.perf_counter(), time.process_time()
        for _step in model.steps([PROMPT], [0]):
            pass
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        best = min(best[0], took[0] / BASELINE_STEPS), min(best[1], took[1] / BASELINE_STEPS)
    return best


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Address and process id of `latentcast serve`."""
    command = [sys.executable, "-m", "latentcast", "serve", "--port", "0", "--max-sessions", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server did not start")
            yield line.split()[-1], process.pid
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"latentcast_{name}"))


async def ask_once(url: str, seed: int, deadline_seconds: float) -> DeviceSession:
    device = DeviceSession(prompt=PROMPT, deadline_seconds=deadline_seconds, seed=seed)
    async with connect(url, max_size=70_000, compression=None, proxy=None, open_timeout=60) as connection:
        device.connected(time.monotonic())
        with contextlib.suppress(ConnectionClosed):
            while not device.ended:
                for message in device.poll(time.monotonic()):
                    # What the server said before it closed is still to be read.
                    with contextlib.suppress(ConnectionClosed):
                        await connection.send(message)
                again = device.next_poll(time.monotonic())
                if again is None:
                    break
                try:
                    async with asyncio.timeout(max(again - time.monotonic(), 0.0) + 1e-3):
                        data = await connection.recv()
                except TimeoutError:
                    continue
                assert isinstance(data, bytes)
                device.receive(data, time.monotonic())
    device.lost(time.monotonic())
    return device


async def insist(url: str, seed: int, deadline_seconds: float, end: float, outcome: Outcome) -> None:
    while True:
        try:
            device = await ask_once(url, seed, deadline_seconds)
        except (OSError, TimeoutError) as error:
            outcome.broken[type(error).__name__] += 1
            return
        if device.error is None:
            outcome.served.append(device)
            return
        outcome.refusals[getattr(device.error, "code", None) or str(device.error)] += 1
        retry = getattr(device.error, "retry_after_ms", None)
        if retry is None:
            outcome.without_retry += 1
            return
        if time.monotonic() + retry / 1e3 > end:
            outcome.gave_up += 1
            return
        await asyncio.sleep(retry / 1e3)


async def load(
    url: str, process: int, devices: int, deadline: float, patience: float
) -> tuple[Outcome, float]:
    """Everybody asks at once; returns the outcome and the largest memory seen."""
    outcome, largest = Outcome(), 0.0
    end = time.monotonic() + patience
    live = url.replace("http", "ws", 1) + "/v1/live"
    everyone = asyncio.gather(*(insist(live, seed, deadline, end, outcome) for seed in range(devices)))
    while not everyone.done():
        largest = max(largest, Usage.look(process).memory)
        await asyncio.wait([everyone], timeout=0.2)
    await everyone
    return outcome, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--deadline", type=float, default=20.0, help="seconds")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds in which devices ask again")
    options = parser.parse_args()
    model = load_pipeline(num_steps=BASELINE_STEPS)
    alone = one_at_a_time(model)
    with server() as (url, process):
        before, calls = Usage.look(process), metric(url, "step_seconds_sum")
        done, count = metric(url, "batch_size_sum"), metric(url, "batch_size_count")
        began = time.monotonic()
        outcome, largest = asyncio.run(
            load(url, process, options.devices, options.deadline, options.patience)
        )
        after, seconds = Usage.look(process), time.monotonic() - began
        steps, busy = metric(url, "batch_size_sum") - done, metric(url, "step_seconds_sum") - calls
        batch = steps / max(metric(url, "batch_size_count") - count, 1)
    again = one_at_a_time(model)
    alone = min(alone[0], again[0]), min(alone[1], again[1])
    print(
        f"one at a time, {torch.get_num_threads()} threads: {alone[0] * 1e3:.1f} ms a step, "
        f"{alone[1] * 1e3:.1f} ms of processor time"
    )
    served = outcome.served
    summaries = [device.summary for device in served if device.summary is not None]
    counts = Counter(device.ready.num_steps for device in served if device.ready is not None)
    whole, engine = after.since(before)
    print(f"{options.devices} devices at once, deadline {options.deadline:g} s, in {seconds:.1f} s:")
    print(f"  served {len(served)}, steps on offer taken {dict(sorted(counts.items()))}")
    print(f"  refusals {dict(outcome.refusals)}; gave up {outcome.gave_up}, broken {dict(outcome.broken)}")
    print(
        f"  of those served: {sum(s.deadline_met for s in summaries)} in time, "
        f"{sum(s.steps == s.num_steps for s in summaries)} to the last step, "
        f"{sum(bool(s.agrees) for s in summaries)} agree, {len(served) - len(summaries)} without a summary"
    )
    print(f"  memory {before.memory:.0f} MiB before, {largest:.0f} MiB at most")
    print(
        f"  {steps:.0f} steps in {busy:.1f} s of calls, {batch:.1f} requests a call: "
        f"{steps / busy * alone[0]:.2f} x one at a time, "
        f"{steps / max(engine, 1e-9) * alone[1]:.2f} x by processor time"
    )
    print(
        f"  {len(served) / seconds * 60:.1f} pictures a minute against {60 / (50 * alone[0]):.1f} "
        f"of 50 steps one at a time: {len(served) / seconds * 50 * alone[0]:.2f} x"
    )
    print(
        f"  beside the denoiser's threads: {whole - engine:.1f} s, {100 * (whole - engine) / engine:.1f} % "
        f"of their {engine:.1f} s; {1e3 * (whole - engine) / steps:.2f} ms per request and step"
    )


if __name__ == "__main__":
    main()
