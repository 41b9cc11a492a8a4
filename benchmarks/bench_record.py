"""Recording a dozen held-out prompts on the embedded model: how much of the time its network takes."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.source import Trajectory
from latentcast.study.recording.prompts import read_prompts
from latentcast.study.recording.record import record
from latentcast.study.recording.store import Recording
from timing import best_seconds, report

NUM_PROMPTS = 12
BATCH_SIZE = 6


def rewrite(recording: Recording, trajectory: Trajectory) -> None:
    recording.write(0, trajectory)


def main() -> None:
    model = load_pipeline()
    network = model.pipe.unet
    inside = 0.0
    forward = network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        try:
            return forward(*args, **kwargs)
        finally:
            inside += time.perf_counter() - began

    network.forward = timed
    prompts = read_prompts("held-out", count=NUM_PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        recording = record(model, prompts, folder, batch_size=BATCH_SIZE)
        seconds = time.perf_counter() - began
        report(f"network, of recording {NUM_PROMPTS} prompts", inside, "the whole recording", seconds)
        trajectory = recording.trajectory(0)
        write = best_seconds(partial(rewrite, recording, trajectory), calls=5)
        report("write one trajectory", write, "recording it", seconds / NUM_PROMPTS)
        raw = Path(folder) / "raw.npy"
        arrays = np.stack((trajectory.samples, trajectory.clean_estimates))
        np.save(raw, arrays)
        read = best_seconds(partial(recording.trajectory, 0), calls=20)
        report("read one trajectory", read, "numpy.load", best_seconds(partial(np.load, raw), calls=20))
        stored = sum(path.stat().st_size for path in Path(folder).rglob("c.*"))
        print(f"stored: {stored / (NUM_PROMPTS * arrays.nbytes):.3f} of the arrays' bytes")


if __name__ == "__main__":
    main()
