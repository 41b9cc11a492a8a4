"""A finished study with plausible numbers, and recorded trajectories, without running either."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.diffusion.source import Trajectory
from latentcast.study.episodes.columns import BOUND_COLUMNS, COLUMNS, PICTURE_COLUMNS

POLICIES = ("lookahead", "persistent-3", "persistent-4", "persistent-8", "final-only")


def write_study(
    folder: Path,
    *,
    pictures: tuple[str, ...] = ("flip", "psnr_db"),
    bounds: tuple[str, ...] = (),
    policies: tuple[str, ...] = POLICIES,
    episodes: int = 50,
    drop: str = "",
) -> dict[str, npt.NDArray[Any]]:
    """A finished study with plausible numbers; returns its columns."""
    rng = np.random.default_rng(5)
    blocks = []
    for snr_db in (0.0, 10.0, 20.0):
        for number, policy in enumerate(policies):
            mse = 10.0 ** (-(snr_db / 10 + 2 - number / 2)) * rng.lognormal(0.0, 0.4, episodes)
            if policy == "lookahead" and snr_db == 20.0:
                mse = np.zeros(episodes)
            values: dict[str, npt.NDArray[Any]] = {column.name: np.ones(episodes) for column in COLUMNS}
            values |= {"snr_db": np.full(episodes, snr_db), "policy": np.full(episodes, policy)}
            values |= {"latent_mse": mse, "predicted_mse": mse * 0.9, "episode": np.arange(episodes)}
            values["first_slot"] = np.where(rng.random(episodes) < 0.2, 0, 9)
            values |= {
                "judged_transfers": np.full(episodes, 5),
                "late_transfers": rng.integers(0, 2, episodes),
            }
            for name in PICTURE_COLUMNS:
                values[name] = rng.random(episodes) if name in pictures else np.full(episodes, np.nan)
            for name in BOUND_COLUMNS:
                values[name] = np.full(episodes, 10.0 ** (-snr_db / 5 - 3) if name in bounds else np.nan)
            blocks.append(values)
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in columns.items() if k != drop}), folder / "episodes.parquet")
    (folder / "provenance.json").write_text(json.dumps({"seed": 5, "versions": {"numpy": "2"}}))
    return columns


class Recorded:
    """Trajectories of the white Gaussian source, for which the paper's model holds to the letter."""

    def __init__(self, num_items: int = 6) -> None:
        self.num_items = num_items
        self.path = NoisePath.stable_diffusion(50)
        self._source = GaussianSource((4, 16, 16), self.path)

    def trajectory(self, index: int) -> Trajectory:
        return Trajectory.record(self._source, "a cube", seed=index)


def decode(latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return (np.moveaxis(latents[:, :3], 1, -1) * 40 + 128).clip(0, 255).astype(np.uint8)
