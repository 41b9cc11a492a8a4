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
def _bits(k: Any, cost_bits: Any, quantizer: Any, shift: Any) -> Any:
    """Bits of a k whose low bits are written plainly, or that is beyond the symbols (docs/bitstream.md)."""
    last = cost_bits.size - 1
    # Quantiser 0 rounds k to the nearest multiple of 2^shift; quantiser 1, whose levels lie half a step
    # lower, rounds up, so that zero stays alone and as rare as its table has it.
    symbol = (k + ((1 << shift) - 1 if quantizer == 1 else (1 << shift) >> 1)) >> shift
    bits = shift
    if symbol == 0:
        bits = shift - 1 if quantizer == 0 and shift > 0 else 0
    if k > 0:
        bits += 1
    if symbol >= last:
        rest = symbol - last + 1
        bits += 1
        while rest > 1:
            rest >>= 1
            bits += 2
        symbol = last
    return bits + cost_bits[symbol]


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
    symbols = cost_bits.shape[2]
    # Of the class in hand: the levels that have a symbol of their own, and what each costs.
    level = np.zeros((2, symbols))
    paid = np.zeros((2, symbols))
    choice = np.empty((n, 2, 2), np.int32)
    ways = np.empty(n, np.uint8)
    best = np.empty((2, 2))
    row, shift, known = 0, 0, -1
    c0 = 0.0
    c1 = c2 = c3 = c4 = c5 = c6 = c7 = _UNREACHED
    for i in range(n):
        if scale_class[i] != known:
            known = row = scale_class[i]
            shift = 0
            while row >= base_classes:
                row -= per_octave
                shift += 1
            for quantizer in range(2):
                for k in range(symbols):
                    paid[quantizer, k] = price * (cost_bits[row, quantizer, k] + min(k, 1))
                    level[quantizer, k] = 2.0 * k - quantizer - offset[row, quantizer, k] if k > 0 else 0.0
        magnitude = abs(np.float64(values[i]))
        for quantizer in range(2):
            # The levels on both sides have both parities; zero is the cheap alternative.
            below = int((magnitude + quantizer) * 0.5)
            if shift == 0 and below + 1 < symbols - 1:
                error = magnitude - level[quantizer, below]
                even = error * error + paid[quantizer, below]
                error = magnitude - level[quantizer, below + 1]
                odd = error * error + paid[quantizer, below + 1]
                even_k, odd_k = below, below + 1
                if below & 1:
                    even, odd, even_k, odd_k = odd, even, odd_k, even_k
                zero = magnitude * magnitude + paid[quantizer, 0]
                if zero < even:
                    even, even_k = zero, 0
                best[quantizer, 0], best[quantizer, 1] = even, odd
                choice[i, quantizer, 0], choice[i, quantizer, 1] = even_k, odd_k
            else:
                best[quantizer, 0] = best[quantizer, 1] = _UNREACHED
                for attempt in range(3):
                    k = below + attempt if attempt < 2 else 0
                    point = 2.0 * k - quantizer if k > 0 else 0.0
                    if shift == 0 and k < symbols:
                        point = level[quantizer, k]
                    error = magnitude - point
                    total = error * error + price * _bits(k, cost_bits[row, quantizer], quantizer, shift)
                    if total < best[quantizer, k & 1]:
                        best[quantizer, k & 1] = total
                        choice[i, quantizer, k & 1] = k
        b00, b01, b10, b11 = best[0, 0], best[0, 1], best[1, 0], best[1, 1]
        # Spelt out: the registers of a processor hold all states. Each comes from two, as NEXT_STATE has it.
        e0, e1, e2, e3 = c0 + b00, c2 + b00, c0 + b01, c2 + b01
        e4, e5, e6, e7 = c3 + b11, c1 + b10, c3 + b10, c1 + b11
        o0, o1, o2, o3 = c4 + b01, c6 + b01, c4 + b00, c6 + b00
        o4, o5, o6, o7 = c5 + b10, c7 + b11, c5 + b11, c7 + b10
        ways[i] = (
            (o0 < e0)
            | (o1 < e1) << 1
            | (o2 < e2) << 2
            | (o3 < e3) << 3
            | (o4 < e4) << 4
            | (o5 < e5) << 5
            | (o6 < e6) << 6
            | (o7 < e7) << 7
        )
        c0, c1, c2, c3 = min(e0, o0), min(e1, o1), min(e2, o2), min(e3, o3)
        c4, c5, c6, c7 = min(e4, o4), min(e5, o5), min(e6, o6), min(e7, o7)
    state = int(np.argmin(np.array([c0, c1, c2, c3, c4, c5, c6, c7])))
    k_of = np.empty(n, np.int32)
    quantizer_of = np.empty(n, np.int32)
    for i in range(n - 1, -1, -1):
        way = _WAYS[state, ways[i] >> state & 1]
        state = way >> 1
        k = choice[i, state & 1, way & 1]
        k_of[i] = -k if values[i] < 0 else k
        quantizer_of[i] = state & 1
    return k_of, quantizer_of
