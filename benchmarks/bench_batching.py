"""Denoising many requests of the embedded model together, against the pipeline's own loop one at a time.

The reference is what a server does that computes one picture after the other: diffusers' pipeline as it is,
with torch's default threads, in a process of its own that takes turns with the measured one. Of every figure
the least of some repetitions counts. Processor time stands beside wall time: where others use the machine as
well, it is the steadier one. The overhead is what a call takes beside the network.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

import torch

from latentcast.diffusion import batching
from latentcast.diffusion.batching import BatchedDenoiser
from latentcast.diffusion.pipeline import load_pipeline

REFERENCE_STEPS = 10
PROMPT = "a red sphere left of a blue cube"


class Stopwatch:
    """Least wall and processor seconds of several runs."""

    def __init__(self) -> None:
        self.wall = self.processor = float("inf")

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall = min(self.wall, time.perf_counter() - self._began[0])
        self.processor = min(self.processor, time.process_time() - self._began[1])


def answer_as_reference() -> None:
    """For every line of input, the wall and processor seconds of a step of the pipeline alone."""
    model = load_pipeline(num_steps=REFERENCE_STEPS)
    for _ in sys.stdin:
        watch = Stopwatch()
        with watch:
            for _step in model.steps([PROMPT], [0]):
                pass
        print(watch.wall / REFERENCE_STEPS, watch.processor / REFERENCE_STEPS, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        answer_as_reference()
        return
    command = [sys.executable, __file__, "--reference"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        alone, watches, beside = [float("inf")] * 2, [Stopwatch() for _ in options.batches], 1.0
        print(f"threads of torch: {torch.get_num_threads()}")
        denoiser = BatchedDenoiser(load_pipeline())
        inside = whole = 0.0
        call = batching._call

        def timed(*args: Any) -> Any:
            nonlocal inside
            began = time.thread_time()
            try:
                return call(*args)
            finally:
                inside += time.thread_time() - began

        vars(batching)["_call"] = timed
        runs = [denoiser.start(PROMPT, seed, 1000) for seed in range(max(options.batches))]
        denoiser.advance(runs)
        for _ in range(options.repeats):
            process.stdin.write("\n")
            process.stdin.flush()
            taken = (float(word) for word in process.stdout.readline().split())
            alone = [min(pair) for pair in zip(alone, taken, strict=True)]
            for size, watch in zip(options.batches, watches, strict=True):
                inside, whole = 0.0, time.process_time()
                with watch:
                    denoiser.advance(runs[:size])
                if size == max(options.batches):
                    beside = min(beside, 1.0 - inside / (time.process_time() - whole))
        process.stdin.close()
    print(f"one at a time: {alone[0] * 1e3:.1f} ms a step, {alone[1] * 1e3:.1f} ms of processor time")
    for size, watch in zip(options.batches, watches, strict=True):
        print(
            f"{size:3d} together: {watch.wall / size * 1e3:6.1f} ms a step and request, "
            f"{watch.processor / size * 1e3:6.1f} ms of processor time: {alone[0] * size / watch.wall:.2f} x "
            f"and {alone[1] * size / watch.processor:.2f} x the throughput"
        )
    print(f"{max(options.batches)} together: {100 * beside:.1f} % of the processor time beside the network")


if __name__ == "__main__":
    main()
