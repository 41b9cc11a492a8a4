"""What the server's side of a session costs beside the denoiser, in processor time per request and step.

The embedded model denoises a batch of requests; each is then served in virtual time over a Rayleigh link
(live_rehearsal.py), with every call of the server's session timed: taking messages and steps, and making
packets. The plans are made beforehand, as on a server that has run for a while; what they cost on a new one
stands beside.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import live_rehearsal
from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.diffusion.batching import BatchedDenoiser
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.diffusion.source import Step, Trajectory, shared_noise
from latentcast.live.device_session import DeviceSession
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.served_model import ServedModel
from latentcast.live.server_session import ServerSession

NUM_STEPS = 50
DEADLINE_STEPS = 60
SLOT_SECONDS = 0.03
PROMPT = "a red sphere left of a blue cube"
TIMED = ("receive", "offer", "poll", "next_poll")

spent = dict.fromkeys(TIMED, 0.0)


def timed(name: str) -> Callable[..., Any]:
    method = getattr(ServerSession, name)

    def call(*args: Any) -> Any:
        began = time.process_time()
        try:
            return method(*args)
        finally:
            spent[name] += time.process_time() - began

    return call


class TimedSession(ServerSession):
    """A session whose calls are timed."""


for method_name in TIMED:
    setattr(TimedSession, method_name, timed(method_name))


def trajectories(model: DiffusersModel, requests: int) -> tuple[list[Trajectory], float]:
    """What so many requests denoise to, and the least processor seconds of a step of one of them."""
    denoiser = BatchedDenoiser(model)
    runs = [denoiser.start(PROMPT, seed, NUM_STEPS) for seed in range(requests)]
    noise = [shared_noise(run.seed, model.latent_shape)[None] for run in runs]
    steps = [[Step(NUM_STEPS, start, np.zeros_like(start))] for start in noise]
    least = float("inf")
    while not runs[0].is_finished:
        began = time.process_time()
        for given, step in zip(steps, denoiser.advance(runs), strict=True):
            given.append(step)
        least = min(least, time.process_time() - began)
    path = denoiser.path(NUM_STEPS)
    made = [
        Trajectory(
            samples=np.concatenate([step.sample for step in reversed(given)]),
            clean_estimates=np.concatenate([step.clean_estimate for step in reversed(given)]),
            prompt=PROMPT,
            seed=run.seed,
            path=path,
        )
        for run, given in zip(runs, steps, strict=True)
    ]
    return made, least / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[-3.0, 3.0, 12.0, 24.0])
    options = parser.parse_args()
    model = load_pipeline("scenes", num_steps=NUM_STEPS)
    runs, denoising = trajectories(model, options.requests)
    print(f"denoiser: {1e3 * denoising:.1f} ms of processor time per request and step, in {len(runs)}s")
    calibration = find_calibration(model, model.path) or Calibration.white(model.path)
    served = ServedModel(
        name="scenes",
        latent_shape=model.latent_shape,
        path=NoisePath.stable_diffusion,
        calibration=lambda _: calibration,
    )
    vars(live_rehearsal)["ServerSession"] = TimedSession
    for snr_db in options.snr_db:
        rounds = []
        for _ in range(3):
            spent.update(dict.fromkeys(TIMED, 0.0))
            packets = 0
            for run in runs:
                schedule = RateSchedule.rayleigh(
                    snr_db=snr_db,
                    latent_size=int(np.prod(model.latent_shape)),
                    slot_ms=1e3 * SLOT_SECONDS,
                    seed=run.seed,
                    num_slots=1000,
                )
                device = DeviceSession(
                    prompt=PROMPT, deadline_seconds=DEADLINE_STEPS * SLOT_SECONDS, seed=run.seed
                )
                live_rehearsal.Rehearsal(device, run, served, schedule, SLOT_SECONDS).run()
                packets += 0 if device.summary is None else device.summary.packets
            rounds.append(dict(spent))
        each = {name: 1e3 * min(r[name] for r in rounds[1:]) / (len(runs) * NUM_STEPS) for name in TIMED}
        first = 1e3 * sum(rounds[0].values()) / (len(runs) * NUM_STEPS)
        parts = ", ".join(f"{name} {milliseconds:.2f}" for name, milliseconds in each.items())
        print(
            f"{snr_db:5.0f} dB: {packets / len(runs):.0f} packets a request; "
            f"{sum(each.values()):.2f} ms a step ({parts}), {sum(each.values()) / 10 / denoising:.1f} % "
            f"of the denoiser's; {first:.2f} ms when new"
        )


if __name__ == "__main__":
    main()
