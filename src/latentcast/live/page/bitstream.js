// The progressive bitstream of docs/bitstream.md: what a device holds after a packet, bit for bit as in Python.

import { PacketError, RangeDecoder, Undetermined } from "./range_decoder.js";

export { PacketError };

const NEXT_STATE = [
  [0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5],
];
const FIRST_COUNTS = [400, 300, 300, 180, 180, 100, 100, 60, 60, 30, 30, 20, 20, 10, 10, 10];
const PLAIN_CLASS = FIRST_COUNTS.length - 1;
const MAX_CLASS = 107;
const ESCAPE = 23;
const MAX_ESCAPE_DIGITS = 8;

/** A 64th of the half step number `index`, a float32. */
export function stepUnit(index) {
  const fraction = Math.fround(2 ** (-(index % 32) / 32));
  return (fraction * 2 ** (4 - Math.floor(index / 32))) / 64;
}

function damaged() {
  return new PacketError("a packet describes what no encoder writes; it was damaged on its way");
}

/**
 * What the device holds after a packet, or after the part of it that arrived.
 *
 * @param {Uint8Array} data a packet, or any first part of one
 * @param {Float32Array} held what it holds, which stays as it is
 * @param {import("./tables.js").Tables} tables
 * @returns {Float32Array}
 * @throws {PacketError} if the bytes are not a packet
 */
export function applyPacket(data, held, tables) {
  const after = held.slice();
  const decoder = new RangeDecoder(data);
  let header;
  try {
    header = readHeader(decoder, held.length);
  } catch (error) {
    if (!(error instanceof Undetermined)) throw error;
    throw new PacketError(`a packet of ${data.length} bytes is shorter than its header`);
  }
  try {
    readRuns(decoder, header, after, tables);
  } catch (error) {
    if (!(error instanceof Undetermined)) throw error;
  }
  if (!after.every(Number.isFinite)) throw damaged();
  return after;
}

function readHeader(decoder, size) {
  const step = decoder.plain(10);
  const shape = decoder.plain(1);
  const start = decoder.plain(Math.max(1, 32 - Math.clz32(size - 1)));
  if (start >= size) throw damaged();
  return { step, shape, start };
}

function readRuns(decoder, { step, shape, start }, held, tables) {
  const size = held.length;
  const group = size < 8192 ? 64 : 128;
  const unit = stepUnit(step);
  const flags = new Flags(decoder);
  const classes = new Classes(decoder);
  let state = 0;
  for (let low = 0, high; low < size; low = high) {
    const place = (start + low) % size;
    high = Math.min(low + group - (place % group), low + size - place, size);
    if (low > 0 && !flags.next()) continue;
    const number = classes.next();
    const shift = Math.max(0, (number - 16) >> 2);
    const row = number - 4 * shift;
    for (let position = low; position < high; position++) {
      const quantizer = state % 2;
      const which = 2 * row + quantizer;
      const symbol = decoder.symbol(tables.cumulative[shape][which]);
      const magnitude = readMagnitude(decoder, symbol, shift, quantizer);
      if (magnitude > 0) {
        const negative = decoder.plain(1);
        const offset = shift === 0 ? tables.offset[shape][which][symbol] : 0;
        const point = (2 * magnitude - quantizer) * 64 - offset;
        const where = (start + position) % size;
        // Rounded three times, as float32 is on every device.
        const change = Math.fround(Math.fround(negative ? -point : point) * unit);
        held[where] = Math.fround(held[where] + change);
      }
      state = NEXT_STATE[state][magnitude % 2];
    }
  }
}

function readMagnitude(decoder, symbol, shift, quantizer) {
  let magnitude = symbol;
  if (symbol === ESCAPE) {
    let digits = 0;
    while (decoder.plain(1)) {
      if (++digits > MAX_ESCAPE_DIGITS) throw damaged();
    }
    magnitude = ESCAPE - 1 + 2 ** digits + decoder.plain(digits);
  }
  if (shift === 0) return magnitude;
  if (magnitude === 0) return quantizer === 0 ? decoder.plain(shift - 1) : 0;
  return magnitude * 2 ** shift + decoder.plain(shift) - (quantizer === 0 ? 2 ** (shift - 1) : 2 ** shift - 1);
}

/** Whether a run is refined, given whether the one before was. */
class Flags {
  constructor(decoder) {
    this.decoder = decoder;
    this.chance = [2048, 3072];
    this.before = 1;
  }

  next() {
    const chance = this.chance[this.before];
    const refined = this.decoder.symbol([0, chance, 4096]) === 0;
    this.chance[this.before] += refined ? (4064 - chance) >> 4 : -((chance - 32) >> 4);
    this.before = refined ? 1 : 0;
    return refined;
  }
}

/** The scale classes of refined runs, each by its change from the last. */
class Classes {
  constructor(decoder) {
    this.decoder = decoder;
    this.counts = FIRST_COUNTS.slice();
    this.last = -1;
  }

  next() {
    const change = this.last < 0 ? PLAIN_CLASS : this.readChange();
    this.last =
      change === PLAIN_CLASS
        ? this.decoder.plain(7)
        : this.last + (change % 2 === 0 ? change / 2 : -(change + 1) / 2);
    if (this.last < 0 || this.last > MAX_CLASS) throw damaged();
    return this.last;
  }

  readChange() {
    const sums = [0];
    for (const count of this.counts) sums.push(sums[sums.length - 1] + count);
    const change = this.decoder.symbol(sums);
    this.counts[change] += 24;
    if (sums[sums.length - 1] + 24 > 3800) this.counts = this.counts.map((count) => (count + 1) >> 1);
    return change;
  }
}
