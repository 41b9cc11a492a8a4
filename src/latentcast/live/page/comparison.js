// What two other ways would have shown, as the server works it out from a session's record.

import * as words from "./words.js";

/**
 * The comparison of a session, its pictures decoded; null if the server has no record of it.
 *
 * @param {object} ready the server's READY
 * @param {import("./decoder.js").PictureDecoder} decoder
 * @param {[number, number] | undefined} size of the pictures
 */
export async function fetchComparison({ session, key, latent_shape: shape }, decoder, size) {
  const address = `/v1/sessions/${encodeURIComponent(session)}/comparison?key=${encodeURIComponent(key)}`;
  const answer = await fetch(address);
  if (!answer.ok) return null;
  const { finished, compute_then_send: send, jpeg_previews: previews, deadline_ms: deadlineMs } = await answer.json();
  const sent = send.latent ? [{ ms: send.arrived_ms, ...(await decoder.decode(floats(send.latent), shape)) }] : [];
  return {
    finished: finished && (await load(finished, size)),
    send: {
      generatedMs: send.generated_ms,
      bytes: send.bytes,
      pictures: sent,
      late: send.arrived_ms > deadlineMs ? `${words.seconds(send.arrived_ms - deadlineMs)} late` : null,
    },
    previews: await Promise.all(
      previews.map(async ({ arrived_ms: ms, bytes, picture }) => ({ ms, bytes, image: await load(picture, size) })),
    ),
  };
}

/** Little-endian float32 in base64. */
function floats(text) {
  const view = new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** A picture as pixels, as large as the decoder's own pictures, smoothed where it is smaller. */
async function load(address, size) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const [width, height] = size ?? [picture.naturalWidth, picture.naturalHeight];
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
