"""What the radio carries: bits per slot, their statistics, and the slots that a transfer takes."""

from latentcast.link.latency import latency_quantile, transfer_slots
from latentcast.link.rayleigh import RayleighLink, SnrReference, uplink_slots, waterfill

__all__ = [
    "RayleighLink",
    "SnrReference",
    "latency_quantile",
    "transfer_slots",
    "uplink_slots",
    "waterfill",
]
