// The entropy tables: latentcast/codec/tables.npy, read as it is.

const SHAPES = 2;
const ENTRIES = 3;
const ROWS = 20;
const SYMBOLS = 24;

/** The tables of a device: cumulated frequencies and reconstruction offsets, by shape, row and quantiser. */
export class Tables {
  /** @param {ArrayBuffer} file the bytes of tables.npy */
  constructor(file) {
    const view = new DataView(file);
    const count = SHAPES * ENTRIES * ROWS * 2 * SYMBOLS;
    const begin = file.byteLength > 10 ? 10 + view.getUint16(8, true) : 0;
    if (begin === 0 || view.getUint32(0) !== 0x934e554d || file.byteLength !== begin + 2 * count) {
      throw new RangeError(`tables.npy has ${file.byteLength} bytes; it must be a NumPy file of ${count} numbers`);
    }
    this.cumulative = [];
    this.offset = [];
    for (let shape = 0; shape < SHAPES; shape++) {
      const read = (entry) => {
        const first = begin + 2 * (shape * ENTRIES + entry) * ROWS * 2 * SYMBOLS;
        return Array.from({ length: ROWS * 2 }, (_, which) =>
          Int32Array.from({ length: SYMBOLS }, (_, s) => view.getUint16(first + 2 * (which * SYMBOLS + s), true)),
        );
      };
      this.cumulative.push(
        read(0).map((frequency) => {
          const sums = new Int32Array(SYMBOLS + 1);
          frequency.forEach((value, s) => (sums[s + 1] = sums[s] + value));
          return sums;
        }),
      );
      this.offset.push(read(1));
    }
  }
}
