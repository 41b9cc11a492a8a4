// How a run went, in plain words.

import * as words from "./words.js";

const span = (text, name = "") => Object.assign(document.createElement("span"), { textContent: text, className: name });

/**
 * Nodes that say it.
 *
 * @param {object} run
 * @param {number} numBytes of refinements until the deadline
 */
export function tell(run, numBytes) {
  const { summary, deadlineMs, arrivals } = run;
  const deadline = words.seconds(deadlineMs);
  const nodes = [];
  if (arrivals.length === 0) {
    nodes.push(`Nothing reached this page within ${deadline}: the link carried too little. `);
  } else {
    nodes.push(`In ${deadline} the link carried ${words.bytes(numBytes)} of refinements. `);
  }
  if (!summary) {
    const why = run.failure ? `: ${run.failure.message}` : "";
    nodes.push(span(`The server did not confirm what this page holds${why}.`, "differs"));
    return nodes;
  }
  const mse = summary.reached_mse ?? summary.predicted_mse;
  if (mse !== null && arrivals.length > 0) {
    nodes.push(`The picture ${words.closeness(mse)}: latent error ${words.error(mse)} (${words.decibels(mse)}). `);
  }
  if (summary.agrees === true) nodes.push(span("The server agrees, bit for bit.", "agrees"));
  else if (summary.agrees === false) nodes.push(span("The server believes that this page holds something else.", "differs"));
  const details = [
    words.plural(summary.packets, "packet"),
    `step ${summary.steps} of ${summary.num_steps}`,
    summary.mean_rate_bits_per_second ? `link about ${words.rate(summary.mean_rate_bits_per_second)}` : null,
    summary.predicted_mse === null ? null : `error foretold ${words.error(summary.predicted_mse)}`,
    `seed ${run.ready.seed}`,
  ];
  nodes.push(Object.assign(document.createElement("small"), { textContent: details.filter(Boolean).join(" · ") }));
  return nodes;
}
