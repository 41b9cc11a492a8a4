// Numbers as people read them.

export const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 9950 ? 1 : 0)} s`;

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 999_500) return `${(count / 1000).toFixed(count < 9950 ? 1 : 0)} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}

export function rate(bitsPerSecond) {
  if (bitsPerSecond < 999.5) return `${Math.round(bitsPerSecond)} bit/s`;
  if (bitsPerSecond < 999_500) return `${(bitsPerSecond / 1000).toFixed(bitsPerSecond < 9950 ? 1 : 0)} kbit/s`;
  return `${(bitsPerSecond / 1e6).toFixed(1)} Mbit/s`;
}

/** Two significant digits, without exponent where that stays readable. */
export function error(value) {
  if (value === 0 || value >= 1e-5) return String(Number(value.toPrecision(2)));
  return value.toExponential(1);
}

/** An error per number of a latent of unit variance as a ratio of signal to error. */
export const decibels = (mse) => `${(-10 * Math.log10(Math.max(mse, 1e-12))).toFixed(1)} dB`;

/** How near a picture is to the finished one, by the error of its latent. */
export function closeness(mse) {
  if (mse < 0.003) return "can hardly be told from the finished one";
  if (mse < 0.03) return "is very close to the finished one";
  if (mse < 0.15) return "is close to the finished one";
  return mse < 0.5 ? "shows roughly what the finished one shows" : "shows little of the finished one yet";
}

export function link(snrDb) {
  const names = [[-8, "hopeless"], [-3, "poor"], [3, "fair"], [9, "good"], [16, "very good"], [Infinity, "easy"]];
  const [, name] = names.find(([limit]) => snrDb < limit);
  return `${snrDb > 0 ? "+" : ""}${String(snrDb).replace("-", "−")} dB, ${name}`;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Why a request failed, as [headline, explanation]. */
export function failure({ code, message, retryAfterMs }) {
  const again = retryAfterMs ? ` Try again in ${seconds(Math.max(retryAfterMs, 100))}.` : "";
  const headlines = {
    busy: ["The server is busy", `It cannot finish your picture in time beside the others.${again}`],
    unauthorized: ["The token is missing or wrong", "Enter the token that the server's operator gave you, under More."],
    "deadline-too-short": ["That deadline is too short", `${message}${again}`],
    "shutting-down": ["The server is shutting down", `It takes no new pictures.${again}`],
    unreachable: ["The server does not answer", "Check that it is running and that you are connected, then try again."],
    lost: ["The connection was lost", `${message} Try again.`],
    decoder: ["This browser cannot decode pictures", message],
  };
  return headlines[code] ?? ["That did not work", `${message}${again}`];
}
