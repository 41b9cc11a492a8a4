// What two other ways would have shown, as the server works it out from a session's record.

import * as words from "./words.js";

/** The comparison of a session, its pictures decoded; null if the server has no record of it. */
export async function fetchComparison({ session, key }, side) {
  const address = `/v1/sessions/${encodeURIComponent(session)}/comparison?key=${encodeURIComponent(key)}`;
  const answer = await fetch(address);
  if (!answer.ok) return null;
  const { finished, compute_then_send: send, jpeg_previews: previews, deadline_ms: deadlineMs } = await answer.json();
  const sent = send.picture ? [{ ms: send.arrived_ms, image: await load(send.picture, side) }] : [];
  return {
    finished: finished && (await load(finished, side)),
    send: {
      generatedMs: send.generated_ms,
      bytes: send.bytes,
      pictures: sent,
      late: send.arrived_ms > deadlineMs ? `${words.seconds(send.arrived_ms - deadlineMs)} late` : null,
    },
    previews: await Promise.all(
      previews.map(async ({ arrived_ms: ms, bytes, picture }) => ({ ms, bytes, image: await load(picture, side) })),
    ),
  };
}

/** A picture as pixels, as large as the decoder's own pictures, smoothed where it is smaller. */
async function load(address, side) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const [width, height] = side ?? [picture.naturalWidth, picture.naturalHeight];
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
