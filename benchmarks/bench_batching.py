"""Denoising many requests of the embedded model together, against the pipeline's own loop one at a time.

Processor time beside wall time: on a machine that others use as well, the former is the steadier one. The
overhead is what a step takes beside the network, per request.
"""

import time
from typing import Any

import torch

from latentcast.diffusion.batching import BatchedDenoiser
from latentcast.diffusion.pipeline import load_pipeline

NUM_STEPS = 10
REPEATS = 4
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Stopwatch:
    """Least wall and processor seconds of several runs."""

    def __init__(self) -> None:
        self.wall = self.processor = float("inf")

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall = min(self.wall, time.perf_counter() - self._began[0])
        self.processor = min(self.processor, time.process_time() - self._began[1])


def main() -> None:
    model = load_pipeline(num_steps=NUM_STEPS)
    alone = Stopwatch()
    for _ in range(REPEATS):
        with alone:
            for _step in model.steps(["a red sphere left of a blue cube"], [0]):
                pass
    reference = alone.wall / NUM_STEPS, alone.processor / NUM_STEPS
    print(f"threads of torch: {torch.get_num_threads()}")
    print(f"one at a time: {reference[0] * 1e3:.1f} ms a step, {reference[1] * 1e3:.1f} ms of processor time")
    inside = 0.0
    network = model.pipe.unet
    forward = network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        began = time.thread_time()
        try:
            return forward(*args, **kwargs)
        finally:
            inside += time.thread_time() - began

    network.forward = timed
    denoiser = BatchedDenoiser(model)
    for batch_size in BATCH_SIZES:
        runs = [denoiser.start("a red sphere", seed, 50) for seed in range(batch_size)]
        denoiser.advance(runs)
        watch = Stopwatch()
        inside, whole = 0.0, time.thread_time()
        for _ in range(REPEATS):
            with watch:
                denoiser.advance(runs)
        beside = 1.0 - inside / (time.thread_time() - whole)
        each = watch.wall / batch_size, watch.processor / batch_size
        print(
            f"{batch_size:3d} together: {each[0] * 1e3:6.1f} ms a step and request, "
            f"{each[1] * 1e3:6.1f} ms of processor time: {reference[0] / each[0]:.2f} x and "
            f"{reference[1] / each[1]:.2f} x the throughput; {100 * beside:.1f} % beside the network"
        )


if __name__ == "__main__":
    main()
