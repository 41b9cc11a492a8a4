"""Several policies on one trajectory and one channel realisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentcast.codec.calibration import Calibration
from latentcast.delivery.deliver import deliver, draw_rates
from latentcast.delivery.timeline import Timeline
from latentcast.diffusion.source import LatentSource, Trajectory
from latentcast.errors import ParameterError
from latentcast.policy.catalog import SCHEME_NAMES, make_scheme
from latentcast.scenario import Scenario

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Timelines that share prompt, trajectory, scenario and rates.

    Attributes:
        timelines: One per policy, in the order of the rows of a sheet.
    """

    timelines: tuple[Timeline, ...]

    def to_dict(self) -> dict[str, Any]:
        """What the timelines share, and under "policies" what each has of its own, in plain JSON values."""
        shared = ("prompt", "model", "seed", "scenario", "uplink_slots")
        records = [timeline.to_dict() for timeline in self.timelines]
        return {
            **{key: records[0][key] for key in shared},
            "rates_bits": self.timelines[0].rates_bits.tolist(),
            "policies": [
                {key: value for key, value in record.items() if key not in shared} for record in records
            ],
        }


def compare(
    trajectory: Trajectory,
    scenario: Scenario,
    *,
    policies: Sequence[str] = SCHEME_NAMES,
    model: LatentSource | None = None,
    seed: int | None = None,
    calibration: Calibration | None = None,
) -> Comparison:
    """Deliver one recorded trajectory by several policies over the same drawn rates.

    Args:
        trajectory: The denoising run.
        scenario: What is fixed.
        policies: Their names; see `make_scheme`.
        model: What made the trajectory, for its name and its decoder.
        seed: Seed of the channel; None for the trajectory's.
        calibration: Of the model, for the progressive codec.

    Returns:
        The comparison.

    Raises:
        ParameterError: If there is no policy, one is unknown, or trajectory and scenario do not fit.

    Example:
        >>> from latentcast.diffusion.gaussian import GaussianSource
        >>> scenario = Scenario.for_latent(256, snr_db=6.0)
        >>> trajectory = Trajectory.record(GaussianSource((4, 8, 8), scenario.path), "", seed=0)
        >>> comparison = compare(trajectory, scenario, policies=("lookahead", "final-only"))
        >>> comparison.timelines[0].latent_mse < comparison.timelines[1].latent_mse
        True
    """
    if not policies:
        raise ParameterError(f"no policy to compare; name some of {', '.join(SCHEME_NAMES)}")
    seed = trajectory.seed if seed is None else seed
    rates_bits = draw_rates(scenario, seed)
    return Comparison(
        tuple(
            deliver(
                trajectory,
                scenario,
                make_scheme(name, scenario, calibration),
                model=model,
                seed=seed,
                rates_bits=rates_bits,
            )
            for name in policies
        )
    )
