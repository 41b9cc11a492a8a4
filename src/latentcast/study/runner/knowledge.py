"""What a study knows of its source before the first episode: calibration, and moments for the limit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from latentcast.codec.calibration import Calibration, find_calibration
from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError
from latentcast.policy.progressive import ProgressivePolicy
from latentcast.study.limits import SourceStatistics
from latentcast.study.recording.store import Recording
from latentcast.study.runner.config import StudyConfig

__all__ = ["Knowledge"]

# Runs that the bands' errors are measured on: enough for a line in a figure, quickly read.
MEASURED_RUNS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """Of a study's source.

    Attributes:
        calibration: For the progressive scheme; None at model level, and for a model without one.
        statistics: For the sequential limit; None for a model without a calibration.
    """

    calibration: Calibration | None = None
    statistics: SourceStatistics | None = None

    @classmethod
    def of_formulas(cls, path: NoisePath) -> Knowledge:
        """At model level, where latents are white Gaussian noise."""
        return cls(statistics=SourceStatistics.white(path))

    @classmethod
    def of_gaussian(cls, source: GaussianSource) -> Knowledge:
        """Of a Gaussian source, exact."""
        return cls(calibration=Calibration.gaussian(source), statistics=SourceStatistics.gaussian(source))

    @classmethod
    def of_recording(cls, config: StudyConfig, recording: Recording) -> Knowledge:
        """Of a recorded model: its own calibration, and what the trajectories show of its bands.

        Raises:
            ParameterError: If the study runs the progressive scheme and the model has no calibration.
            ModelError: If its calibration is damaged.
        """
        calibration = find_calibration(recording.model, recording.path)
        if calibration is None:
            if any(choice.name == ProgressivePolicy.name for choice in config.policies):
                raise ParameterError(
                    f"{recording.model} has not been calibrated, which policy 'progressive' needs; run: "
                    f"latentcast model calibrate {recording.model} --prompts FILE"
                )
            return cls()
        runs = range(min(MEASURED_RUNS, recording.num_items))
        measured = SourceStatistics.measured(map(recording.trajectory, runs), calibration)
        return cls(calibration=calibration, statistics=measured)

    @property
    def digest(self) -> str | None:
        """A short name of the calibration; None without one."""
        if self.calibration is None:
            return None
        arrays = (self.calibration.weights, self.calibration.mmse)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
