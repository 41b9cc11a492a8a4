"""How many bytes of a progressive packet describe no coefficient: its header and its termination."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from latentcast.codec.progressive import apply_packet, make_packet
from latentcast.errors import PacketError

__all__ = ["packet_overhead_bytes"]

PACKETS = 48
MIN_BYTES, MAX_BYTES = 48, 192


@lru_cache(maxsize=8)
def packet_overhead_bytes(latent_size: int) -> float:
    """Mean bytes of header and termination per packet, measured on packets of a white innovation.

    The header is the shortest beginning that the device takes for a packet: step, shape and start, rounded up
    to whole bytes. The termination is what can be cut off at the end without losing a coefficient. There is
    no framing: a packet fills its slot, and device and server both know the slot's rate.

    Args:
        latent_size: M, 64 or more.

    Returns:
        The mean over packets of 48 to 192 bytes; packets of other lengths have the same ends.

    Example:
        >>> 3.0 <= packet_overhead_bytes(1024) <= 6.0
        True
    """
    rng = np.random.default_rng(0)
    held = np.zeros(latent_size, np.float32)
    overheads = []
    for size in np.linspace(MIN_BYTES, MAX_BYTES, PACKETS).astype(int).tolist():
        target = rng.standard_normal(latent_size).astype(np.float32)
        refined = make_packet(target, held, max_bytes=size, horizon_bits=3.0 * latent_size)
        if refined is not None:
            header, used = _header(refined.data, held), _used(refined.data, held)
            overheads.append(header + len(refined.data) - used)
    return float(np.mean(overheads))


def _header(data: bytes, held: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    for length in range(1, len(data)):
        try:
            apply_packet(data[:length], held)
        except PacketError:
            continue
        return length
    return len(data)


def _used(data: bytes, held: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    whole = apply_packet(data, held).num_refined
    length = len(data)
    while length > 1 and apply_packet(data[: length - 1], held).num_refined == whole:
        length -= 1
    return length
