"""What every mechanism of the progressive scheme gains: each is switched off by itself, all else as it is.

Shaped Gaussian latents with the exact denoiser at M = 16384, and runs of the embedded model on held-out
prompts at M = 1024. The loss is the error at the deadline in dB above the whole scheme's, and the dB of SNR
that the whole scheme could do without to be as bad. The last row is the paper's look-ahead policy.

    python benchmarks/ablation.py [--episodes 4] [--snr-db 0 6] [--seed 0] [--json]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import numpy as np
from numpy.typing import NDArray

from latentcast.codec import bands, entropy, progressive, range_coder, trellis
from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.delivery.deliver import deliver
from latentcast.delivery.progressive import ProgressiveSender
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.source import Trajectory
from latentcast.policy import progressive as planning
from latentcast.policy.base import Policy
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.scenario import Scenario

FIXED_SLOTS = 4


def estimate_alone(source: "Source") -> Calibration:
    """The clean estimate as the network gives it, unscaled and without x_t."""
    weights = np.zeros_like(source.fitted.weights)
    weights[1:-1, :, 0] = 1.0
    weights[0, :, 1] = 1.0
    return replace(source.fitted, weights=weights)


def sample_alone(source: "Source") -> Calibration:
    """x_t scaled by a_t, the estimate of white latents of unit variance."""
    weights = np.zeros_like(source.fitted.weights)
    weights[:-1, :, 1] = np.sqrt(source.fitted.alpha_bar[:-1, None])
    return replace(source.fitted, weights=weights)


def as_fitted(source: "Source") -> Calibration:
    return source.fitted


def fit_anew(source: "Source") -> Calibration:
    return source.fresh()


@contextmanager
def whole() -> Iterator[None]:
    yield


@contextmanager
def no_transform() -> Iterator[None]:
    """Numbers of the latent as they are, in raster order, all of one band."""

    def identity(length: int) -> Any:
        return bands._Axis(np.eye(length, dtype=np.float32), np.zeros(length, np.int64), 1)

    with (
        mock.patch.object(bands, "_axis", identity),
        # Scan orders are kept; these are not to be.
        mock.patch.object(bands, "_scan", bands._scan.__wrapped__),
    ):
        yield


@numba.njit
def scalar_search(
    values: Any, scale_class: Any, cost_bits: Any, offset: Any, price: Any, base_classes: Any, per_octave: Any
) -> Any:
    """Uniform quantisation of each number by itself, at the least squared error + price * bits."""
    k_of = np.zeros(values.size, np.int32)
    for i in range(values.size):
        row, shift = scale_class[i], 0
        while row >= base_classes:
            row -= per_octave
            shift += 1
        magnitude = abs(np.float64(values[i]))
        below, least = int(magnitude * 0.5), np.inf
        for k in (below, below + 1, 0):
            point = 2.0 * k
            if shift == 0 and k > 0:
                point -= offset[row, 0, min(k, cost_bits.shape[2] - 1)]
            total = (magnitude - point) ** 2 + price * trellis._bits(k, cost_bits[row, 0], 0, shift)
            if total < least:
                least = total
                k_of[i] = -k if values[i] < 0 else k
    return k_of, np.zeros(values.size, np.int32)


@contextmanager
def no_trellis() -> Iterator[None]:
    """One quantiser for all numbers, with tables of its own: the machine never leaves its state."""
    caches = (entropy.entropy_model, progressive._tables, planning._remaining_table)
    with ExitStack() as patches, tempfile.TemporaryDirectory() as folder:

        def put(module: Any, name: str, value: Any) -> None:
            patches.enter_context(mock.patch.object(module, name, value))

        put(range_coder, "NEXT_STATE", np.zeros_like(trellis.NEXT_STATE))
        # Compiled anew and not stored, since compiled code holds the machine's table.
        for name in ("_decode_groups", "decode_symbols", "encode_symbols"):
            put(range_coder, name, numba.njit(getattr(range_coder, name).py_func))
        put(progressive, "decode_symbols", range_coder.decode_symbols)
        put(progressive, "encode_symbols", range_coder.encode_symbols)
        put(progressive, "search", scalar_search)
        put(entropy, "search", scalar_search)
        put(entropy, "_FILE", Path(folder) / "tables.npy")
        np.save(entropy._FILE, entropy.train_tables(num_values=40_000, rounds=12))
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()


@contextmanager
def fixed_passes() -> Iterator[None]:
    def last_slot(self: ProgressivePolicy, *, slot: int, **_state: float) -> int:
        return min(slot + FIXED_SLOTS - 1, self._scenario.deadline_slots)

    with mock.patch.object(ProgressivePolicy, "last_slot", last_slot):
        yield


@contextmanager
def mean_rates() -> Iterator[None]:
    """Packets for the mean rate: where a slot carries less, the packet takes the next one, too."""
    poll = ProgressiveSender.poll

    def blind(self: ProgressiveSender, slot: int, _rate_bits: float | None = None) -> bytes | None:
        return poll(self, slot, None)

    with mock.patch.object(ProgressiveSender, "poll", blind):
        yield


MECHANISMS: dict[str, tuple[Callable[[], Any], Callable[["Source"], Calibration]]] = {
    "the whole scheme": (whole, as_fitted),
    "clean estimate as it comes": (whole, estimate_alone),
    "x_t scaled by a_t": (whole, sample_alone),
    "scalar quantiser, entropy coded": (no_trellis, as_fitted),
    f"passes of {FIXED_SLOTS} slots": (fixed_passes, as_fitted),
    "packets for the mean rate": (mean_rates, as_fitted),
    "no transform": (no_transform, fit_anew),
}


class Source:
    """Runs to deliver, and how their targets are calibrated."""

    def __init__(self, name: str, episodes: int, seed: int) -> None:
        self.name = name
        self.fresh: Callable[[], Calibration]
        path = Scenario.paper(snr_db=0.0).path
        if name == "gaussian":
            self.shape = (4, 64, 64)
            source = GaussianSource.natural(self.shape, path)
            self.runs = [Trajectory.record(source, "", seed=seed + item) for item in range(episodes)]
            self.fitted = Calibration.gaussian(source)
            self.fresh = lambda: Calibration.gaussian(source)
            return
        from latentcast.diffusion.pipeline import load_pipeline
        from latentcast.diffusion.scenes.held_out import held_out_prompts
        from latentcast.study.recording.record import record

        model = load_pipeline()
        # The last dozen is for a calibration without the transform.
        prompts = held_out_prompts(episodes + 12)
        with tempfile.TemporaryDirectory() as folder:
            recording = record(model, prompts, folder, seed=seed, batch_size=4)
            runs = [recording.trajectory(item) for item in range(recording.num_items)]
        self.runs, fitting = runs[:episodes], runs[episodes:]
        self.shape = self.runs[0].latent_shape
        found = find_calibration("scenes", self.runs[0].path)
        assert found is not None
        self.fitted = found
        self.fresh = lambda: Calibration.fit(fitting)

    def error(
        self, snr_db: float, make: Callable[[Scenario], Policy | ProgressivePolicy], seed: int
    ) -> float:
        """Mean error at the deadline, on the same draws for all."""
        scenario = Scenario.for_latent(int(np.prod(self.shape)), snr_db=snr_db)
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        rates = scenario.link.sample(len(self.runs), scenario.deadline_slots, rng=rng)
        policy = make(scenario)
        ends = [
            deliver(run, scenario, policy, rates_bits=slots).latent_mse
            for run, slots in zip(self.runs, rates, strict=True)
        ]
        return float(np.mean(ends))


def row(name: str, snr_db: float, error: float, snrs: NDArray[np.float64], curve: NDArray[np.float64]) -> Any:
    """A loss in error and in SNR, read off the whole scheme's curve."""
    level = 10.0 * float(np.log10(error))
    whole_level = float(np.interp(snr_db, snrs, curve))
    # The curve falls with SNR; its ends are the widest losses that it can tell.
    same = float(np.interp(-level, -curve, snrs))
    return {
        "without": name,
        "snr_db": snr_db,
        "error": error,
        "loss_db": level - whole_level,
        "snr_loss_db": snr_db - same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[0.0, 6.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for kind in ("gaussian", "scenes"):
        source = Source(kind, given.episodes, given.seed)
        snrs = np.arange(min(given.snr_db) - 15.0, max(given.snr_db) + 3.1, 3.0)

        def ours(calibration: Calibration) -> Callable[[Scenario], ProgressivePolicy]:
            return lambda scenario: ProgressivePolicy(scenario, calibration)

        curve = 10.0 * np.log10([source.error(float(snr), ours(source.fitted), given.seed) for snr in snrs])
        curve = np.minimum.accumulate(curve)
        for name, (switched_off, calibrate) in MECHANISMS.items():
            with switched_off():
                policy = ours(calibrate(source))
                for snr_db in given.snr_db:
                    rows.append(
                        {"source": kind}
                        | row(name, snr_db, source.error(snr_db, policy, given.seed), snrs, curve)
                    )
        for snr_db in given.snr_db:
            error = source.error(snr_db, LookaheadPolicy, given.seed)
            rows.append({"source": kind} | row("all: the paper's scheme", snr_db, error, snrs, curve))
        if not given.json:
            for item in rows:
                if item["source"] == kind:
                    print(
                        f"{kind:<9} {item['snr_db']:5.1f} dB  {item['without']:<32} {item['error']:10.3e}  "
                        f"{item['loss_db']:6.2f} dB  {item['snr_loss_db']:5.2f} dB of SNR",
                        flush=True,
                    )
    if given.json:
        json.dump(rows, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
