"""Trellis-coded quantisation: the quantiser of each number depends on the parities of those before it.

Two scalar quantisers share a grid of half steps: quantiser 0 has the levels 2k, quantiser 1 the levels
2k - sgn(k). An eight-state machine, driven by the parity of k, says which of them codes the next number, so
that sequences are packed more densely than a single grid allows; the encoder looks for the cheapest sequence
(Viterbi). This is dependent quantisation as video coding has it (Schwarz et al., "Hybrid video coding with
trellis-coded quantization", DCC 2019), with both quantisers keeping zero, which is what low rates need.
Measured gaps to the rate-distortion function of a Gaussian are in docs/coding.md.
"""

from typing import Any

import numba
import numpy as np

__all__ = ["NEXT_STATE", "NUM_STATES", "OFFSET_UNIT", "QUANTIZER", "search"]

NEXT_STATE = np.array([[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]], dtype=np.int32)
"""State after a number, by state and parity of its k; int32 (8, 2)."""

QUANTIZER = np.array([0, 1, 0, 1, 0, 1, 0, 1], dtype=np.int32)
"""Which quantiser codes the next number in a state; int32 (8,)."""

NUM_STATES = 8

# The two ways into each state, as 2 * state + parity, the lower state first; int32 (8, 2).
_WAYS = np.argsort(NEXT_STATE.ravel(), kind="stable").reshape(NUM_STATES, 2).astype(np.int32)

OFFSET_UNIT = 64
"""Reconstruction points are whole 64ths of a half step: sgn(k) ((2 |k| - quantiser) 64 - offset)."""

_UNREACHED = 1e30


@numba.njit(cache=True)
def search(
    values: Any, scale_class: Any, cost_bits: Any, offset: Any, price: Any, base_classes: Any, per_octave: Any
) -> Any:
    """The sequence of k with the least squared error + price * bits (the Viterbi algorithm).

    Args:
        values: numbers in half steps, float32 (n,).
        scale_class: class of every number's scale, int32 (n,); see `latentcast.codec.entropy`.
        cost_bits: bits of a magnitude symbol, float64 (base_classes, 2, symbols), the last one the escape.
        offset: how far reconstruction points lie below their level in half steps, same shape.
        price: what a bit may cost in squared half steps.
        base_classes: classes that have tables; higher ones code their low bits plainly.
        per_octave: classes per doubling of the scale.

    Returns:
        k, int32 (n,), and the quantiser that codes each, int32 (n,).
    """
    n = values.size
    last = cost_bits.shape[2] - 1
    cost = np.full(NUM_STATES, _UNREACHED)
    cost[0] = 0.0
    new = np.empty(NUM_STATES)
    choice = np.zeros((n, 2, 2), np.int32)
    way_into = np.empty((n, NUM_STATES), np.int8)
    best = np.empty((2, 2))
    for i in range(n):
        magnitude = abs(np.float64(values[i]))
        row, shift = scale_class[i], 0
        while row >= base_classes:
            row -= per_octave
            shift += 1
        for quantizer in range(2):
            # Quantiser 0 rounds k to the nearest multiple of 2^shift; quantiser 1, whose levels lie half a
            # step lower, rounds up, so that zero stays alone and as rare as its table has it.
            lift = (1 << shift) - 1 if quantizer == 1 else (1 << shift) >> 1
            best[quantizer, 0] = best[quantizer, 1] = _UNREACHED
            # The levels on both sides have both parities; zero is the cheap alternative.
            below = int((magnitude + quantizer) * 0.5)
            for attempt in range(3):
                k = below + attempt if attempt < 2 else 0
                symbol = (k + lift) >> shift
                plain_bits = shift
                if symbol == 0:
                    plain_bits = shift - 1 if quantizer == 0 and shift > 0 else 0
                point = 0.0
                if k > 0:
                    point = 2.0 * k - quantizer
                    plain_bits += 1
                if symbol >= last:
                    rest = symbol - last + 1
                    plain_bits += 1
                    while rest > 1:
                        rest >>= 1
                        plain_bits += 2
                    symbol = last
                if shift == 0 and k > 0:
                    point -= offset[row, quantizer, symbol]
                error = magnitude - point
                total = error * error + price * (cost_bits[row, quantizer, symbol] + plain_bits)
                if total < best[quantizer, k & 1]:
                    best[quantizer, k & 1] = total
                    choice[i, quantizer, k & 1] = k
                if below == 0 and attempt == 1:
                    break
        for target in range(NUM_STATES):
            one, other = _WAYS[target, 0], _WAYS[target, 1]
            one_cost = cost[one >> 1] + best[(one >> 1) & 1, one & 1]
            other_cost = cost[other >> 1] + best[(other >> 1) & 1, other & 1]
            # Without a branch: which is less is as good as random.
            new[target] = min(one_cost, other_cost)
            way_into[i, target] = np.int8(other_cost < one_cost)
        cost, new = new, cost
    state = int(np.argmin(cost))
    k_of = np.empty(n, np.int32)
    quantizer_of = np.empty(n, np.int32)
    for i in range(n - 1, -1, -1):
        way = _WAYS[state, way_into[i, state]]
        state = way >> 1
        k = choice[i, state & 1, way & 1]
        k_of[i] = -k if values[i] < 0 else k
        quantizer_of[i] = state & 1
    return k_of, quantizer_of
