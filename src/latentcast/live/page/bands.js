// From coefficients to a latent: the inverse of latentcast/codec/bands.py.

const BLOCK = 4;

/** The orthonormal DCT-II of `size` numbers, row by row in doubles. */
function dct(size) {
  const matrix = new Float64Array(size * size);
  for (let k = 0; k < size; k++) {
    const scale = Math.sqrt((k === 0 ? 1 : 2) / size);
    for (let n = 0; n < size; n++) {
      matrix[k * size + n] = scale * Math.cos((Math.PI * (2 * n + 1) * k) / (2 * size));
    }
  }
  return matrix;
}

/** Blocks of four transformed, and their means once more across the blocks; the last block may be shorter. */
function axis(length) {
  const matrix = new Float64Array(length * length);
  const frequency = new Float64Array(length);
  const numBlocks = Math.ceil(length / BLOCK);
  for (let block = 0; block < numBlocks; block++) {
    const start = block * BLOCK;
    const size = Math.min(BLOCK, length - start);
    const small = dct(size);
    for (let k = 0; k < size; k++) {
      for (let n = 0; n < size; n++) matrix[(start + k) * length + start + n] = small[k * size + n];
      frequency[start + k] = k * (12 / size) * numBlocks;
    }
  }
  const across = dct(numBlocks);
  const means = new Float64Array(numBlocks * length);
  for (let k = 0; k < numBlocks; k++) {
    for (let block = 0; block < numBlocks; block++) {
      for (let n = 0; n < length; n++) {
        means[k * length + n] += across[k * numBlocks + block] * matrix[block * BLOCK * length + n];
      }
    }
  }
  for (let k = 0; k < numBlocks; k++) {
    matrix.set(means.subarray(k * length, (k + 1) * length), k * BLOCK * length);
    frequency[k * BLOCK] = 3 * k;
  }
  return { matrix: Float64Array.from(matrix, Math.fround), frequency, numBlocks };
}

/** The transform of one shape of latents. */
export class Bands {
  /** @param {[number, number, number]} shape channels, height, width */
  constructor(shape) {
    const [channels, height, width] = shape;
    this.shape = shape;
    this.size = channels * height * width;
    this.rows = axis(height);
    this.columns = axis(width);
    const square = new Float64Array(this.size);
    for (let index = 0; index < this.size; index++) {
      const row = Math.floor(index / width) % height;
      square[index] =
        (this.rows.frequency[row] * this.columns.numBlocks) ** 2 +
        (this.columns.frequency[index % width] * this.rows.numBlocks) ** 2;
    }
    // Sorting is stable: equal frequencies stay in the latent's order.
    this.order = Uint32Array.from([...square.keys()].sort((a, b) => square[a] - square[b]));
  }

  /** The latent, float32 (channels, height, width), of coefficients in scan order, float32 (M). */
  inverse(coefficients) {
    const [channels, height, width] = this.shape;
    const spectrum = new Float64Array(this.size);
    for (let place = 0; place < this.size; place++) spectrum[this.order[place]] = coefficients[place];
    const latent = new Float32Array(this.size);
    const half = new Float64Array(height * width);
    for (let channel = 0; channel < channels; channel++) {
      const base = channel * height * width;
      half.fill(0);
      for (let k = 0; k < height; k++) {
        for (let row = 0; row < height; row++) {
          const weight = this.rows.matrix[k * height + row];
          if (weight === 0) continue;
          for (let j = 0; j < width; j++) half[row * width + j] += weight * spectrum[base + k * width + j];
        }
      }
      for (let row = 0; row < height; row++) {
        const line = new Float64Array(width);
        for (let k = 0; k < width; k++) {
          const value = half[row * width + k];
          for (let column = 0; column < width; column++) {
            line[column] += value * this.columns.matrix[k * width + column];
          }
        }
        latent.set(line, base + row * width);
      }
    }
    return latent;
  }
}
