"""The live service end to end over a shaped link, beside what the simulator predicts for the same link.

A real server (`latentcast serve`: uvicorn, the embedded model) in a process of its own, and real devices
(`latentcast.live.client`) behind `latentcast.live.link`, in a network namespace where this process may make
one, else behind the proxy. At every SNR several requests, each over a Rayleigh link of its own, by the
progressive codec and by compute-then-send. With --rehearse the same in virtual time: both sessions of the
service, every byte of a network charged, but nobody else's load on this machine. Set beside each other:

    live      error to x_0, per number of the latent, of what the device showed at the deadline
    arrived   the simulator (`deliver`) on the same trajectory and pace of denoising, with the bits of packets
              that arrived in each slot, until the last one that did
    net       the simulator with all that the link could have carried, less the measured share of headers
    offered   the simulator with all that the link could have carried, headers for nothing
    final     compute-then-send over the same link

and the share of requests that had a picture at the deadline, of those whose link could carry one: REQUEST,
READY and a packet of 24 bytes, with headers, in time. `gap` is live over arrived; `capped` the same with both
errors raised to that of x_0 as float16, which is all that compute-then-send brings. More than 20 requests use
the same 20 prompts and their trajectories over more links.

    python benchmarks/live_over_link.py [--requests 6] [--deadline-ms 2000] [--seed 0] [--snr-db ...]
        [--rehearse [--step-ms 30] [--large]] [--rootless] [--figure docs/live-over-link.png] [--json]
"""

import argparse
import asyncio
import contextlib
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.delivery.timeline import latent_mse
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.held_out import held_out_prompts
from latentcast.diffusion.source import Trajectory
from latentcast.errors import LiveError
from latentcast.live.client import run_device
from latentcast.live.device_session import DeviceSession
from latentcast.live.link.emulate import EmulatedLink, emulate, may_use_namespaces
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import HEADER_BYTES, TokenBucket
from latentcast.live.messages import FINAL, PROGRESSIVE
from latentcast.live.protocol import encode
from latentcast.live.served_model import ServedModel
from live_figure import draw
from live_prediction import Pace, arrived_bits, could_carry_one, predicted_mse
from live_rehearsal import Rehearsal
from live_serve_process import LoggedServer

SNRS_DB = (-12.0, -9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0, 18.0, 24.0)
LATENT_SHAPE = (4, 16, 16)
NUM_STEPS = 50
SLOT_MS = 30.0
# Lengths of the messages beside the prompt, where none came.
REQUEST_BYTES, READY_BYTES = 120, 160
# Latents for --large: white Gaussian, of Stable Diffusion's size.
LARGE_SHAPE = (4, 64, 64)
MAX_PROMPTS = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One request.

    Attributes:
        snr_db: of the link.
        codec: that was asked for.
        possible: whether the link could carry a picture in time.
        has_picture: whether the device had one.
        agrees: whether the server knew bit by bit what the device held; None if the device got no summary.
        live_mse: error at the deadline.
        arrived_mse: the simulator's, on the bits that arrived.
        net_mse: the simulator's, on what the link could carry less headers.
        offered_mse: the simulator's, on the bits that the link could carry.
        float16_mse: error of x_0 as float16.
        packets: packets applied.
        packet_bytes: their length.
        carried_bytes: what the link carried down meanwhile.
        offered_bytes: what it could have.
        steps: denoising steps done in time.
        num_steps: T.
        slot_ms: time of a step, as it was.
        error: what went wrong, in words.
    """

    snr_db: float
    codec: str
    possible: bool
    has_picture: bool
    agrees: bool | None
    live_mse: float
    arrived_mse: float
    net_mse: float
    offered_mse: float
    float16_mse: float
    packets: int
    packet_bytes: int
    carried_bytes: int
    offered_bytes: int
    steps: int
    num_steps: int
    slot_ms: float
    error: str | None


class Trajectories:
    """The runs of the model, made anew here for what the server generated.

    Args:
        large: Of white Gaussian latents instead.
    """

    def __init__(self, *, large: bool) -> None:
        self._large = large
        self._models: dict[int, Any] = {}
        self._runs: dict[tuple[str, int, int], Trajectory] = {}

    def of(self, prompt: str, seed: int, num_steps: int) -> Trajectory:
        """The run of a request."""
        key = (prompt, seed, num_steps)
        if key not in self._runs:
            if num_steps not in self._models:
                path = NoisePath.stable_diffusion(num_steps)
                self._models[num_steps] = (
                    GaussianSource(LARGE_SHAPE, path)
                    if self._large
                    else load_pipeline("scenes", num_steps=num_steps)
                )
            self._runs[key] = Trajectory.record(self._models[num_steps], prompt, seed)
        return self._runs[key]


def ask(link: EmulatedLink, device: DeviceSession, marks: list[int]) -> str | None:
    """One request of a device behind the link; what went wrong, if anything did.

    `marks` gets the bytes that had been carried down when the device asked and when it showed what it had.
    """
    url = f"ws://{link.server[0]}:{link.server[1]}/v1/live"

    def mark(session: DeviceSession, _: float) -> None:
        if len(marks) < (session.deadline is not None) + session.is_over:
            marks.append(link.downlink.bytes)

    try:
        link.behind(lambda: asyncio.run(run_device(device, url, on_change=mark)))
    except (LiveError, TimeoutError) as error:
        return str(error) or type(error).__name__
    return None


class Requests:
    """Makes requests, over real links to a real server or in virtual time.

    Args:
        given: The command line.
        server: None to rehearse.
    """

    def __init__(self, given: argparse.Namespace, server: LoggedServer | None) -> None:
        self._given = given
        self._server = server
        self._shape = LARGE_SHAPE if given.large else LATENT_SHAPE
        self._trajectories = Trajectories(large=given.large)
        self._calibrations: dict[int, Calibration] = {}

    def make(self, prompt: str, seed: int, link_seed: int, snr_db: float, codec: str) -> Outcome:
        """One request over a link of its own, and what the simulator makes of it."""
        schedule = RateSchedule.rayleigh(
            snr_db=snr_db,
            latent_size=math.prod(self._shape),
            slot_ms=SLOT_MS,
            seed=link_seed,
            num_slots=2000,
        )
        deadline = self._given.deadline_ms / 1000.0
        device = DeviceSession(prompt=prompt, deadline_seconds=deadline, seed=seed, codecs=(codec,))
        error, marks, num_steps = None, [0, 0], NUM_STEPS
        if self._server is None:
            rehearsal = self._rehearse(device, prompt, seed, schedule)
            asked, marks = rehearsal.asked, rehearsal.marks
            first, step = rehearsal.begun - asked, self._given.step_ms / 1000.0
            steps = min(num_steps, max(int((deadline - first) / step), 0))
            pace = Pace(first=first, last=first + step * num_steps, steps=num_steps, deadline=deadline)
        else:
            marks = []
            with emulate(schedule, self._server.address, rootless=self._given.rootless) as link:
                error = ask(link, device, marks)
            shown = device.deadline
            asked = 0.0 if shown is None else shown - deadline - link.start_seconds
            ready = device.ready
            log = {} if ready is None else self._server.end_of(ready.session)
            num_steps = num_steps if ready is None else ready.num_steps
            steps = log.get("steps", 0)
            pace = pace_of(log, schedule, asked, deadline, num_steps)
        run = self._trajectories.of(prompt, seed, num_steps)
        latent = np.zeros_like(run.samples[0]) if device.latent is None else device.latent
        live = latent_mse(latent, run.samples[0])
        arrivals = [(arrival.seconds, arrival.bytes) for arrival in device.arrivals]
        packet_bytes = sum(num_bytes for _, num_bytes in arrivals)
        carried = marks[1] - marks[0] if len(marks) == 2 else 0
        until_last = replace(pace, deadline=arrivals[-1][0]) if arrivals else pace
        arrived = arrived_bits(arrivals, pace.first + pace.slot_seconds, until_last.edges)
        offered = np.array([schedule.carried_bits(asked + a, asked + b) for a, b in pairwise(pace.edges)])
        net = offered * (packet_bytes / max(carried, packet_bytes, 1))
        calibration = self._calibration(num_steps)
        predictions = [
            predicted_mse(run, calibration, rates) if codec == PROGRESSIVE else live
            for rates in (arrived, net, offered)
        ]
        ready_bytes = READY_BYTES if device.ready is None else len(encode(device.ready))
        return Outcome(
            snr_db=snr_db,
            codec=codec,
            possible=could_carry_one(schedule, asked, pace, REQUEST_BYTES + len(prompt), ready_bytes),
            has_picture=bool(arrivals),
            agrees=None if device.summary is None else device.summary.agrees,
            live_mse=live,
            arrived_mse=predictions[0],
            net_mse=predictions[1],
            offered_mse=predictions[2],
            float16_mse=latent_mse(run.samples[0].astype(np.float16).astype(np.float32), run.samples[0]),
            packets=len(arrivals),
            packet_bytes=packet_bytes,
            carried_bytes=carried,
            offered_bytes=round(schedule.carried_bits(asked, asked + deadline) / 8.0),
            steps=steps,
            num_steps=num_steps,
            slot_ms=1e3 * pace.slot_seconds,
            error=error,
        )

    def _rehearse(self, device: DeviceSession, prompt: str, seed: int, schedule: RateSchedule) -> Rehearsal:
        model = ServedModel(
            name="scenes",
            latent_shape=self._shape,
            path=NoisePath.stable_diffusion,
            calibration=self._calibration,
        )
        run = self._trajectories.of(prompt, seed, NUM_STEPS)
        rehearsal = Rehearsal(device, run, model, schedule, self._given.step_ms / 1000.0)
        rehearsal.run()
        return rehearsal

    def _calibration(self, num_steps: int) -> Calibration:
        if num_steps not in self._calibrations:
            path = NoisePath.stable_diffusion(num_steps)
            calibration = None if self._given.large else find_calibration("scenes", path)
            self._calibrations[num_steps] = calibration or Calibration.white(path)
        return self._calibrations[num_steps]


def pace_of(
    log: dict[str, Any], schedule: RateSchedule, asked: float, deadline: float, num_steps: int
) -> Pace:
    """When denoising happened: it begins when REQUEST is through, and the server logs how long it took."""
    uplink = TokenBucket(schedule, start_seconds=-asked)
    begun = min(uplink.send(REQUEST_BYTES + HEADER_BYTES, 0.0), deadline)
    steps = log.get("steps", 0)
    if log.get("generation_ms") is not None:
        return Pace(first=begun, last=begun + log["generation_ms"] / 1e3, steps=num_steps, deadline=deadline)
    return Pace(first=begun, last=deadline, steps=max(steps, 1), deadline=deadline)


def summarise(snr_db: float, latent_size: int, outcomes: list[Outcome]) -> dict[str, Any]:
    """One row of the table."""
    live = [outcome for outcome in outcomes if outcome.codec == PROGRESSIVE]
    final = [outcome for outcome in outcomes if outcome.codec == FINAL]

    def mean(of: list[Outcome], name: str) -> float:
        return float(np.mean([getattr(outcome, name) for outcome in of]))

    possible = [outcome for outcome in live if outcome.possible]

    def gap_db(error: float, reference: float) -> float:
        return float(10.0 * np.log10(error / reference))

    gaps = [gap_db(outcome.live_mse, outcome.arrived_mse) for outcome in live]
    errors = mean(live, "live_mse"), mean(live, "arrived_mse")
    floor = mean(live, "float16_mse")
    return {
        "snr_db": snr_db,
        "mean_kbit_per_second": mean_rate(snr_db, latent_size) / 1e3,
        "requests": len(live),
        "possible": len(possible),
        "pictures_of_possible": sum(outcome.has_picture for outcome in possible),
        "share_possible": mean(live, "possible"),
        "share_with_picture": mean(live, "has_picture"),
        "final_share_with_picture": mean(final, "has_picture"),
        "live_mse": mean(live, "live_mse"),
        "arrived_mse": mean(live, "arrived_mse"),
        "net_mse": mean(live, "net_mse"),
        "offered_mse": mean(live, "offered_mse"),
        "final_mse": mean(final, "live_mse"),
        "gap_db": gap_db(*errors),
        "median_gap_db": float(np.median(gaps)),
        "capped_gap_db": gap_db(max(errors[0], floor), max(errors[1], floor)),
        "float16_mse": floor,
        "packets": mean(live, "packets"),
        "share_of_packets_in_carried": mean(live, "packet_bytes") / max(mean(live, "carried_bytes"), 1.0),
        "share_of_carried_in_offered": mean(live, "carried_bytes") / mean(live, "offered_bytes"),
        "steps": mean(live, "steps"),
        "slot_ms": mean(live, "slot_ms"),
        "agree": sum(outcome.agrees is True for outcome in live),
        "disagree": sum(outcome.agrees is False for outcome in live),
    }


def mean_rate(snr_db: float, latent_size: int) -> float:
    """Bits per second of the links at an SNR."""
    return RateSchedule.rayleigh(snr_db=snr_db, latent_size=latent_size, slot_ms=SLOT_MS).mean_bits_per_second


def show(rows: list[dict[str, Any]]) -> None:
    """The table, on stdout."""
    print(
        " SNR  kbit/s  possible  pictures  final |  live     arrived  net      offered  final    |"
        "  gap dB (median)  capped |  packets  payload  busy  steps  step ms"
    )
    for row in rows:
        errors = "  ".join(
            f"{row[name]:.1e}" for name in ("live_mse", "arrived_mse", "net_mse", "offered_mse", "final_mse")
        )
        print(
            f"{row['snr_db']:4.0f}  {row['mean_kbit_per_second']:6.1f}  "
            f"{row['possible']:>4}/{row['requests']:<3}  "
            f"{row['pictures_of_possible']:>4}/{row['possible']:<3}  "
            f"{row['final_share_with_picture']:5.2f} |  {errors}  | "
            f"{row['gap_db']:6.2f} ({row['median_gap_db']:6.2f})  {row['capped_gap_db']:6.2f} | "
            f"{row['packets']:7.1f}  {row['share_of_packets_in_carried']:7.2f}  "
            f"{row['share_of_carried_in_offered']:4.2f}  {row['steps']:5.1f}  {row['slot_ms']:7.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=6, help="per SNR and codec")
    parser.add_argument("--deadline-ms", type=float, default=2000.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snr-db", type=float, nargs="+", default=SNRS_DB)
    parser.add_argument("--rehearse", action="store_true", help="in virtual time")
    parser.add_argument("--step-ms", type=float, default=30.0, help="of a denoising step in virtual time")
    parser.add_argument("--rootless", action="store_true")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--large", action="store_true", help="latents of 16384 numbers; with --rehearse")
    given = parser.parse_args()
    if given.large and not given.rehearse:
        parser.error("--large needs --rehearse")
    if not (given.rootless or given.rehearse) and (reason := may_use_namespaces()) is not None:
        given.rootless = True
        print(reason, file=sys.stderr)
    prompts = held_out_prompts(min(given.requests, MAX_PROMPTS))
    seeds = np.random.SeedSequence(given.seed).generate_state(given.requests).tolist()
    plan = [
        (prompts[index % MAX_PROMPTS], seeds[index % MAX_PROMPTS], seeds[index], snr_db, codec)
        for snr_db in given.snr_db
        for index in range(given.requests)
        for codec in (PROGRESSIVE, FINAL)
    ]
    outcomes: list[Outcome] = []
    running = contextlib.nullcontext() if given.rehearse else LoggedServer.running()
    with running as server:
        requests = Requests(given, server)
        # The first of all compiles, on either side.
        requests.make(prompts[0], seeds[0], seeds[0], 24.0, PROGRESSIVE)
        for request in track(plan, "requests", console=Console(stderr=True)):
            outcomes.append(requests.make(*request))
    latent_size = math.prod(LARGE_SHAPE if given.large else LATENT_SHAPE)
    rows = [
        summarise(snr_db, latent_size, [outcome for outcome in outcomes if outcome.snr_db == snr_db])
        for snr_db in given.snr_db
    ]
    if given.json:
        json.dump(
            {
                "seed": given.seed,
                "deadline_ms": given.deadline_ms,
                "shaper": "virtual" if given.rehearse else "proxy" if given.rootless else "namespace",
                "rows": rows,
                "outcomes": [asdict(outcome) for outcome in outcomes],
            },
            sys.stdout,
            indent=2,
        )
    else:
        show(rows)
        for error in sorted({outcome.error for outcome in outcomes if outcome.error}):
            print(f"  {sum(outcome.error == error for outcome in outcomes)} x {error}")
    if given.figure is not None:
        draw(rows, given.figure)


if __name__ == "__main__":
    main()
