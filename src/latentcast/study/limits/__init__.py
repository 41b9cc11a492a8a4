"""What any scheme could reach on given rates, and what the paper's own codec could."""

from latentcast.study.limits.clairvoyant import clairvoyant_distortion
from latentcast.study.limits.sequential import gaussian_mmse, sequential_limit
from latentcast.study.limits.statistics import SourceStatistics

__all__ = ["SourceStatistics", "clairvoyant_distortion", "gaussian_mmse", "sequential_limit"]
