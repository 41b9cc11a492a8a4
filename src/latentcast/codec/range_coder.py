r"""The compiled range coder and the layout of a packet's symbols.

A byte-wise range coder (Martin 1979, with the carry handling that LZMA made known). Its special property is
on the decoding side: after the last byte that arrived, nothing is known about the code value but an interval,
and a symbol counts only if both ends of that interval agree on it. Every prefix of a packet therefore
decodes to the longest run of symbols that it determines: an encoder may cut anywhere and needs no
termination, and what arrived by a deadline is never lost.

Numbers lie in scan order in groups of `group_size`, seen as a ring from `start`. A packet holds, in order:

| part | coded as |
| --- | --- |
| step index (10 bits), shape (1 bit), start (as many bits as M - 1 has) | plainly |
| per group, but the first: is it refined? | adaptive bit, given whether the one before was |
| its scale class | plainly (7 bits) at first, then adaptively: its change from the last refined group |
| its numbers: min((\|k\| + lift) >> shift, escape) | tables by class and trellis quantiser |
| escape: Elias gamma of the excess; low bits; sign | plainly |

The first group begins at `start` and may be the rest of one that an earlier packet left unfinished.
"""

from typing import Any

import numba
import numpy as np

from latentcast.codec.trellis import NEXT_STATE, OFFSET_UNIT, QUANTIZER

__all__ = ["CLASS_BITS", "COMPLETE", "DAMAGED", "HEADER_MISSING", "decode_symbols", "encode_symbols"]

CLASS_BITS = 7
TABLE_BITS = 15
MAX_ESCAPE_DIGITS = 8

# What became of the decoding of some bytes.
COMPLETE, HEADER_MISSING, DAMAGED = range(3)

# What changes only from byte to byte: of the encoder, and of the decoder (the next byte, how wide the unknown
# tail is, and whether the code value left the coder's range, as it does in no packet of an encoder).
CACHE, PENDING, LENGTH, STARTED = range(4)
NEXT, UNKNOWN, BROKEN = range(3)

FLAG_BITS = 12
FLAG_RATE = 4
FLAG_FLOOR = 32
FIRST_FLAG_CHANCE = (1 << 11, 3 << 10)

# Prior counts of a class's change 0, -1, 1, -2, 2, ...; the last stands for "written plainly".
CHANGE_COUNTS = np.array([400, 300, 300, 180, 180, 100, 100, 60, 60, 30, 30, 20, 20, 10, 10, 10], np.int64)
CHANGE_GAIN = 24
CHANGE_LIMIT = 3800


@numba.njit(cache=True)
def _put_byte(low: Any, coder: Any, out: Any) -> Any:
    if low < 0xFF000000 or low > 0xFFFFFFFF:
        carry = low >> 32
        if coder[STARTED] == 1:
            if coder[LENGTH] < out.size:
                out[coder[LENGTH]] = (coder[CACHE] + carry) & 0xFF
            coder[LENGTH] += 1
        while coder[PENDING] > 0:
            if coder[LENGTH] < out.size:
                out[coder[LENGTH]] = (0xFF + carry) & 0xFF
            coder[LENGTH] += 1
            coder[PENDING] -= 1
        coder[CACHE] = (low >> 24) & 0xFF
        coder[STARTED] = 1
    else:
        coder[PENDING] += 1
    return (low & 0x00FFFFFF) << 8


@numba.njit(cache=True)
def _encode(low: Any, width: Any, coder: Any, out: Any, start: Any, frequency: Any, unit: Any) -> Any:
    """The lower end and the width of the interval after a symbol; the registers stay in the processor's."""
    low += unit * start
    width = unit * frequency
    while width < 1 << 24:
        width <<= 8
        low = _put_byte(low, coder, out)
    return low, width


@numba.njit(cache=True)
def _encode_plain(low: Any, width: Any, coder: Any, out: Any, value: Any, bits: Any) -> Any:
    while bits > 0:
        part = min(bits, 12)
        bits -= part
        low, width = _encode(low, width, coder, out, (value >> bits) & ((1 << part) - 1), 1, width >> part)
    return low, width


@numba.njit(cache=True)
def _finish(low: Any, width: Any, coder: Any, out: Any) -> None:
    """Write the one or two bytes that determine the last symbol, whatever would follow them."""
    for missing in (24, 16):
        value = (low + (1 << missing) - 1) >> missing << missing
        if value + (1 << missing) <= low + width:
            break
    for _ in range(5 - missing // 8):
        value = _put_byte(value, coder, out)


@numba.njit(cache=True)
def _adapt(counts: Any, symbol: Any, total: Any) -> Any:
    counts[symbol] += CHANGE_GAIN
    total += CHANGE_GAIN
    if total > CHANGE_LIMIT:
        total = 0
        for other in range(counts.size):
            counts[other] = (counts[other] + 1) >> 1
            total += counts[other]
    return total


@numba.njit(cache=True)
def _adapt_flag(chance: Any, before: Any, flag: Any) -> None:
    if flag:
        chance[before] += ((1 << FLAG_BITS) - FLAG_FLOOR - chance[before]) >> FLAG_RATE
    else:
        chance[before] -= (chance[before] - FLAG_FLOOR) >> FLAG_RATE


@numba.njit(cache=True)
def encode_symbols(
    header: Any,
    header_bits: Any,
    edges: Any,
    classes: Any,
    k: Any,
    cumulative: Any,
    per_octave: Any,
    out: Any,
) -> Any:
    """Write symbols until the output is full; returns their bytes, more than out.size if some did not fit.

    Args:
        header: values to write plainly first, int64.
        header_bits: bits of each, int64.
        edges: where groups begin, from the start, int64 (groups + 1).
        classes: scale class of every group, -1 where it is not refined; the first must be; int64.
        k: the refined groups' numbers one after the other, int32.
        cumulative: int64 (classes, 2, symbols + 1).
        per_octave: classes per octave.
        out: uint8, as long as the packet may be.
    """
    base_classes, escape = cumulative.shape[0], cumulative.shape[2] - 2
    coder = np.zeros(4, np.int64)
    low, width = 0, 0xFFFFFFFF
    for field in range(header.size):
        low, width = _encode_plain(low, width, coder, out, header[field], header_bits[field])
    chance = np.array(FIRST_FLAG_CHANCE, np.int64)
    counts = CHANGE_COUNTS.copy()
    total = counts.sum()
    before, last_class, state, position = 1, -1, 0, 0
    for group in range(classes.size):
        if coder[LENGTH] + coder[PENDING] > out.size + 8:
            break
        number = classes[group]
        if group > 0:
            unit = width >> FLAG_BITS
            flag = 1 if number >= 0 else 0
            if flag == 1:
                low, width = _encode(low, width, coder, out, 0, chance[before], unit)
            else:
                low, width = _encode(
                    low, width, coder, out, chance[before], (1 << FLAG_BITS) - chance[before], unit
                )
            _adapt_flag(chance, before, flag)
            before = flag
            if flag == 0:
                continue
        if last_class < 0:
            low, width = _encode_plain(low, width, coder, out, number, CLASS_BITS)
        else:
            change = number - last_class
            symbol = min(2 * change if change >= 0 else -2 * change - 1, counts.size - 1)
            below = 0
            for other in range(symbol):
                below += counts[other]
            low, width = _encode(low, width, coder, out, below, counts[symbol], width // total)
            total = _adapt(counts, symbol, total)
            if symbol == counts.size - 1:
                low, width = _encode_plain(low, width, coder, out, number, CLASS_BITS)
        last_class = number
        row, shift = number, 0
        while row >= base_classes:
            row -= per_octave
            shift += 1
        lifts = ((1 << shift) >> 1, (1 << shift) - 1)
        # Low bits of a symbol 0: of the numbers that round to zero, none with quantiser 1.
        zero_bits = (max(0, shift - 1), 0)
        for _ in range(edges[group + 1] - edges[group]):
            quantizer = QUANTIZER[state]
            magnitude = abs(np.int64(k[position]))
            high = (magnitude + lifts[quantizer]) >> shift
            symbol = min(high, escape)
            from_slot = cumulative[row, quantizer, symbol]
            low, width = _encode(
                low,
                width,
                coder,
                out,
                from_slot,
                cumulative[row, quantizer, symbol + 1] - from_slot,
                width >> TABLE_BITS,
            )
            if symbol == escape:
                rest, digits = high - escape + 1, 0
                while rest >> (digits + 1) > 0:
                    digits += 1
                for _ in range(digits):
                    low, width = _encode_plain(low, width, coder, out, 1, 1)
                low, width = _encode_plain(low, width, coder, out, 0, 1)
                low, width = _encode_plain(low, width, coder, out, rest & ((1 << digits) - 1), digits)
            if shift > 0:
                if high == 0:
                    low, width = _encode_plain(low, width, coder, out, magnitude, zero_bits[quantizer])
                else:
                    low, width = _encode_plain(
                        low, width, coder, out, (magnitude + lifts[quantizer]) & ((1 << shift) - 1), shift
                    )
            if magnitude > 0:
                # The sign, spelt out: the call takes as long as all the rest of a number.
                width >>= 1
                if k[position] < 0:
                    low += width
                while width < 1 << 24:
                    width <<= 8
                    low = _put_byte(low, coder, out)
            state = NEXT_STATE[state, magnitude & 1]
            position += 1
    _finish(low, width, coder, out)
    return coder[LENGTH]


@numba.njit(cache=True)
def _highest(code: Any, width: Any, tail: Any) -> Any:
    """The code value, if every missing byte were 255."""
    return min(code + tail[UNKNOWN], width - 1)


@numba.njit(cache=True)
def _accept(code: Any, tail: Any, data: Any, start: Any, frequency: Any, unit: Any) -> Any:
    """Code value and width of the interval after a symbol."""
    code -= unit * start
    width = unit * frequency
    if code >= width:
        tail[BROKEN] = 1
        code = width - 1
    while width < 1 << 24:
        width <<= 8
        code <<= 8
        if tail[NEXT] < data.size:
            code |= data[tail[NEXT]]
        else:
            tail[UNKNOWN] = min(tail[UNKNOWN] << 8 | 0xFF, width - 1)
        tail[NEXT] += 1
    return code, width


@numba.njit(cache=True)
def _decode_plain(code: Any, width: Any, tail: Any, data: Any, bits: Any) -> Any:
    """The value, or -1 where the bytes do not determine it; code value and width of the interval."""
    value = 0
    while bits > 0:
        part = min(bits, 12)
        bits -= part
        unit = width >> part
        end = (1 << part) - 1
        symbol = min(code // unit, end)
        if symbol != min(_highest(code, width, tail) // unit, end):
            return -1, code, width
        code, width = _accept(code, tail, data, symbol, 1, unit)
        value = value << part | symbol
    return value, code, width


@numba.njit(cache=True)
def decode_symbols(
    data: Any,
    header_bits: Any,
    held: Any,
    group_size: Any,
    max_class: Any,
    tables: Any,
    offsets: Any,
    per_octave: Any,
    step_sizes: Any,
) -> Any:
    """Read every symbol that the bytes determine, and refine what is held by it.

    Each refined number gets float32(point) * step added, both in float32, where point is the reconstruction
    point in 64ths of a half step, a whole number, and step a 64th of the packet's half step.

    Args:
        data: uint8.
        header_bits: bits of step, shape and start, int64 (3,).
        held: float32 (M,); changed in place.
        group_size: numbers in a group.
        max_class: highest scale class that is valid.
        tables: cumulative frequencies of all shapes, int64 (shapes, classes, 2, symbols + 1).
        offsets: reconstruction offsets of all shapes, int64 (shapes, classes, 2, symbols).
        per_octave: classes per octave.
        step_sizes: a 64th of every half step, float32.

    Returns:
        How many numbers were refined; how far from the start the last of them lies, plus 1; the start; and
        COMPLETE, HEADER_MISSING, or DAMAGED if something is out of range, after which `held` is worthless.
    """
    tail = np.zeros(3, np.int64)
    refined, reached, start, status = _decode_groups(
        data, header_bits, held, group_size, max_class, tables, offsets, per_octave, step_sizes, tail
    )
    return refined, reached, start, DAMAGED if tail[BROKEN] == 1 else status


@numba.njit(cache=True)
def _decode_groups(
    data: Any,
    header_bits: Any,
    held: Any,
    group_size: Any,
    max_class: Any,
    tables: Any,
    offsets: Any,
    per_octave: Any,
    step_sizes: Any,
    tail: Any,
) -> Any:
    size = held.size
    refined, reached = 0, 0
    header = np.zeros(3, np.int64)
    code, width = 0, 0xFFFFFFFF
    for place in range(4):
        code <<= 8
        tail[UNKNOWN] <<= 8
        if place < data.size:
            code |= data[place]
        else:
            tail[UNKNOWN] |= 0xFF
    tail[NEXT] = 4
    for field in range(3):
        header[field], code, width = _decode_plain(code, width, tail, data, header_bits[field])
        if header[field] < 0:
            return refined, reached, 0, HEADER_MISSING
    start = header[2]
    if start >= size or header[1] >= tables.shape[0] or header[0] >= step_sizes.size:
        return refined, reached, start, DAMAGED
    step = step_sizes[header[0]]
    offset = offsets[header[1]]
    cumulative = tables[header[1]]
    base_classes, escape = cumulative.shape[0], cumulative.shape[2] - 2
    chance = np.array(FIRST_FLAG_CHANCE, np.int64)
    counts = CHANGE_COUNTS.copy()
    total = counts.sum()
    before, last_class, state, low = 1, -1, 0, 0
    while low < size:
        place = (start + low) % size
        high_edge = min(min(low + group_size - place % group_size, low + size - place), size)
        if low > 0:
            unit = width >> FLAG_BITS
            limit = chance[before]
            flag = 1 if code < unit * limit else 0
            if flag != (1 if _highest(code, width, tail) < unit * limit else 0):
                return refined, reached, start, COMPLETE
            if flag == 1:
                code, width = _accept(code, tail, data, 0, limit, unit)
            else:
                code, width = _accept(code, tail, data, limit, (1 << FLAG_BITS) - limit, unit)
            _adapt_flag(chance, before, flag)
            before = flag
            if flag == 0:
                low = high_edge
                continue
        symbol = counts.size - 1
        if last_class >= 0:
            unit = width // total
            symbol, below = 0, 0
            while symbol < counts.size - 1 and code >= unit * (below + counts[symbol]):
                below += counts[symbol]
                symbol += 1
            above = below + counts[symbol]
            if above < total and _highest(code, width, tail) >= unit * above:
                return refined, reached, start, COMPLETE
            code, width = _accept(code, tail, data, below, counts[symbol], unit)
            total = _adapt(counts, symbol, total)
        if symbol == counts.size - 1:
            number, code, width = _decode_plain(code, width, tail, data, CLASS_BITS)
            if number < 0:
                return refined, reached, start, COMPLETE
        else:
            number = last_class + (symbol // 2 if symbol % 2 == 0 else -(symbol + 1) // 2)
        if number < 0 or number > max_class:
            return refined, reached, start, DAMAGED
        last_class = number
        row, shift = number, 0
        while row >= base_classes:
            row -= per_octave
            shift += 1
        lifts = ((1 << shift) >> 1, (1 << shift) - 1)
        # Low bits of a symbol 0: of the numbers that round to zero, none with quantiser 1.
        zero_bits = (max(0, shift - 1), 0)
        for position in range(low, high_edge):
            quantizer = QUANTIZER[state]
            table = cumulative[row, quantizer]
            unit = width >> TABLE_BITS
            symbol = 0
            # Products, not quotients: a division costs more than all the rest.
            while symbol < escape and code >= unit * table[symbol + 1]:
                symbol += 1
            if symbol < escape and _highest(code, width, tail) >= unit * table[symbol + 1]:
                return refined, reached, start, COMPLETE
            code, width = _accept(code, tail, data, table[symbol], table[symbol + 1] - table[symbol], unit)
            magnitude = symbol
            if symbol == escape:
                digits, more = 0, 1
                while more == 1 and digits <= MAX_ESCAPE_DIGITS:
                    more, code, width = _decode_plain(code, width, tail, data, 1)
                    digits += 1
                if more < 0:
                    return refined, reached, start, COMPLETE
                if more == 1:
                    return refined, reached, start, DAMAGED
                digits -= 1
                rest, code, width = _decode_plain(code, width, tail, data, digits)
                if rest < 0:
                    return refined, reached, start, COMPLETE
                magnitude = (1 << digits | rest) - 1 + escape
            if shift > 0:
                low_bits, code, width = _decode_plain(
                    code, width, tail, data, zero_bits[quantizer] if magnitude == 0 else shift
                )
                if low_bits < 0:
                    return refined, reached, start, COMPLETE
                magnitude = low_bits if magnitude == 0 else (magnitude << shift | low_bits) - lifts[quantizer]
            sign = 0
            if magnitude > 0:
                unit = width >> 1
                sign = 1 if code >= unit else 0
                if sign == 0 and _highest(code, width, tail) >= unit:
                    return refined, reached, start, COMPLETE
                code, width = _accept(code, tail, data, sign, 1, unit)
            if magnitude > 0:
                point = (2 * magnitude - quantizer) * OFFSET_UNIT
                if shift == 0:
                    point -= offset[row, quantizer, symbol]
                if sign == 1:
                    point = -point
                where = (start + position) % size
                held[where] = held[where] + np.float32(point) * step
            state = NEXT_STATE[state, magnitude & 1]
            reached = position + 1
            refined += 1
        low = high_edge
    return refined, reached, start, COMPLETE
