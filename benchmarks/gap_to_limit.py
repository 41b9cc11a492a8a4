"""How far the progressive scheme and the paper's stand from the sequential rate-distortion limit.

White Gaussian latents with the exact denoiser, real packets with every byte counted, common draws. A row
per SNR: the mean errors at the deadline and the distance of ours to the limit in dB.

    python benchmarks/gap_to_limit.py [--episodes 6] [--size 16384] [--deadline 60] [--seed 0] [--json]
"""

import argparse
import json
import sys

import numpy as np

from latentcast.delivery.deliver import deliver
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import Trajectory
from latentcast.link.rayleigh import uplink_slots
from latentcast.policy.catalog import make_scheme
from latentcast.scenario import Scenario
from latentcast.study.limits import gaussian_mmse, sequential_limit

SHAPES = {1024: (4, 16, 16), 4096: (4, 32, 32), 16384: (4, 64, 64)}


def row(
    scenario: Scenario, source: GaussianSource, trajectories: list[Trajectory], seed: int
) -> dict[str, float]:
    rates = scenario.link.sample(
        len(trajectories), scenario.deadline_slots, rng=np.random.default_rng(np.random.SeedSequence(seed))
    )
    uplink = uplink_slots(rates, scenario.uplink_bits)
    limit = sequential_limit(
        rates,
        latent_size=scenario.latent_size,
        uplink=uplink,
        mmse=gaussian_mmse(source.path),
    )
    errors = {}
    sent: list[int] = []
    for name in ("progressive", "lookahead"):
        scheme = make_scheme(name, scenario)
        runs = [
            deliver(trajectory, scenario, scheme, rates_bits=slots)
            for trajectory, slots in zip(trajectories, rates, strict=True)
        ]
        errors[name] = float(np.mean([run.latent_mse for run in runs]))
        if name == "progressive":
            sent = [sum(packet.bytes for packet in run.transmissions) for run in runs]
    ours, bound = errors["progressive"], float(np.mean(limit))
    return {
        "snr_db": scenario.snr_db,
        "limit": bound,
        "paper": errors["lookahead"],
        "ours": ours,
        "gap_db": 10.0 * float(np.log10(ours / bound)),
        "paper_gap_db": 10.0 * float(np.log10(errors["lookahead"] / bound)),
        "bytes": float(np.mean(sent)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--size", type=int, choices=SHAPES, default=16384)
    parser.add_argument("--deadline", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for snr_db in range(-6, 19, 3):
        scenario = Scenario.for_latent(given.size, snr_db=float(snr_db), deadline_slots=given.deadline)
        source = GaussianSource(SHAPES[given.size], scenario.path)
        runs = [Trajectory.record(source, "", seed=given.seed + item) for item in range(given.episodes)]
        rows.append(row(scenario, source, runs, given.seed))
        if not given.json:
            print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if given.json:
        json.dump(rows, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
