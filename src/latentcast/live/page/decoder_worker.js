// Turns latents into pictures by onnxruntime-web, away from the page's thread.

import * as ort from "./vendor/onnxruntime-web/ort.wasm.min.mjs";

// One thread needs no cross-origin isolation; the worker keeps the page smooth.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./vendor/onnxruntime-web/", import.meta.url).href;

let session = null;

async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the server has no decoder for browsers (${answer.status})`);
  session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), {
    executionProviders: ["wasm"],
  });
}

async function decode(latent, shape) {
  const [channels, height, width] = shape;
  const started = performance.now();
  const feeds = { latent: new ort.Tensor("float32", latent, [1, channels, height, width]) };
  const { picture } = await session.run(feeds);
  const [, , rows, columns] = picture.dims;
  const planes = picture.data;
  const pixels = new Uint8ClampedArray(4 * rows * columns);
  for (let index = 0; index < rows * columns; index++) {
    // Clamped arrays round to the nearest whole number.
    for (let colour = 0; colour < 3; colour++) pixels[4 * index + colour] = 255 * planes[colour * rows * columns + index];
    pixels[4 * index + 3] = 255;
  }
  picture.dispose();
  return { pixels, width: columns, height: rows, milliseconds: performance.now() - started };
}

self.onmessage = async ({ data }) => {
  const { id, kind } = data;
  try {
    const result = kind === "load" ? await load(data.url) : await decode(data.latent, data.shape);
    self.postMessage({ id, result }, result ? [result.pixels.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};
