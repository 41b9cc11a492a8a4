// The range decoder of docs/bitstream.md: it stops where the bytes no longer determine a symbol.

/** Bytes that no encoder writes. */
export class PacketError extends Error {}

/** The bytes end: what was read so far counts. */
export class Undetermined extends Error {}

const UNDETERMINED = new Undetermined("the bytes do not determine the next symbol");

export class RangeDecoder {
  /** @param {Uint8Array} data a packet, or any first part of one */
  constructor(data) {
    this.data = data;
    this.place = 0;
    this.code = 0;
    this.unknown = 0;
    for (let i = 0; i < 4; i++) this.take();
    this.width = 2 ** 32 - 1;
  }

  // Products stay below 2^53, but not below 2^31: no << and no >> here.
  take() {
    const missing = this.place >= this.data.length;
    this.code = this.code * 256 + (missing ? 0 : this.data[this.place]);
    this.unknown = this.unknown * 256 + (missing ? 255 : 0);
    this.place++;
  }

  /** The highest value that the code may have, whatever bytes follow. */
  highest() {
    return Math.min(this.code + this.unknown, this.width - 1);
  }

  accept(below, frequency, unit) {
    this.code -= unit * below;
    this.width = unit * frequency;
    if (this.code >= this.width) throw new PacketError("a packet describes what no encoder writes");
    this.unknown = Math.min(this.unknown, this.width - 1);
    while (this.width < 2 ** 24) {
      this.width *= 256;
      this.take();
    }
  }

  /** The symbol with sums[s] <= value < sums[s + 1]; sums go from 0 to a total. */
  symbol(sums) {
    const last = sums.length - 2;
    const unit = Math.floor(this.width / sums[last + 1]);
    let s = 0;
    while (s < last && this.code >= unit * sums[s + 1]) s++;
    if (s < last && this.highest() >= unit * sums[s + 1]) throw UNDETERMINED;
    this.accept(sums[s], sums[s + 1] - sums[s], unit);
    return s;
  }

  /** A number of some bits. */
  plain(bits) {
    let value = 0;
    while (bits > 0) {
      const part = Math.min(bits, 12);
      bits -= part;
      const unit = Math.floor(this.width / 2 ** part);
      const end = 2 ** part - 1;
      const symbol = Math.min(Math.floor(this.code / unit), end);
      if (symbol < end && this.highest() >= unit * (symbol + 1)) throw UNDETERMINED;
      this.accept(symbol, 1, unit);
      value = value * 2 ** part + symbol;
    }
    return value;
  }
}
