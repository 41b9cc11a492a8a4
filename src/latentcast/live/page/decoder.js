// The picture decoder: a worker that holds the model, asked one latent at a time.

export class PictureDecoder {
  /** @param {string} url of the ONNX file: "latent" (batch, C, H, W) to "picture" (batch, 3, 8H, 8W) in 0..1 */
  constructor(url) {
    this.worker = new Worker(new URL("./decoder_worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.nextId = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.waiting.values()) {
        reject(new Error(`the decoder does not start in this browser: ${event.message ?? "unknown reason"}`));
      }
      this.waiting.clear();
    };
    this.ready = this.ask({ kind: "load", url });
    // Whoever awaits it hears of a failure; nobody needs to.
    this.ready.catch(() => {});
  }

  ask(message) {
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...message });
    });
  }

  /**
   * The picture of a latent.
   *
   * @param {Float32Array} latent
   * @param {[number, number, number]} shape channels, height, width
   * @returns {Promise<{image: ImageData, milliseconds: number}>}
   */
  async decode(latent, shape) {
    await this.ready;
    const { pixels, width, height, milliseconds } = await this.ask({ kind: "decode", latent, shape });
    return { image: new ImageData(pixels, width, height), milliseconds };
  }
}

/** Shows the newest of what it is given: while one latent is being decoded, only the last that comes waits. */
export class LatestPicture {
  /**
   * @param {PictureDecoder} decoder
   * @param {(image: ImageData, tag: any) => void} show
   * @param {(error: Error) => void} fail
   */
  constructor(decoder, show, fail) {
    this.decoder = decoder;
    this.show = show;
    this.fail = fail;
    this.next = null;
    this.busy = null;
  }

  /** Ask for a picture; `tag` comes back with it. */
  offer(latent, shape, tag) {
    this.next = { latent, shape, tag };
    this.busy ??= this.run()
      .catch(this.fail)
      .finally(() => (this.busy = null));
  }

  /** When all that was asked for is shown or overtaken. */
  async settled() {
    while (this.busy) await this.busy;
  }

  async run() {
    while (this.next) {
      const { latent, shape, tag } = this.next;
      this.next = null;
      const { image, milliseconds } = await this.decoder.decode(latent, shape);
      this.show(image, { ...tag, milliseconds });
    }
  }
}
