// The strip chart under a picture: what arrived in each stretch of time, and how much in all.

const WIDTH = 600;
const HEIGHT = 76;
const NUM_BINS = 60;

const element = (name, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

/**
 * Draw it.
 *
 * @param {SVGElement} svg
 * @param {{ms: number, bytes: number}[]} arrivals
 * @param {number} deadlineMs
 * @param {number | null} cursorMs the moment shown, if it is not the deadline
 * @returns {{total: number, peak: number}} bytes in all, and bits per second in the busiest stretch
 */
export function drawChart(svg, arrivals, deadlineMs, cursorMs = null) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const x = (ms) => (WIDTH * Math.min(ms, deadlineMs)) / deadlineMs;
  const bins = new Float64Array(NUM_BINS);
  let total = 0;
  for (const { ms, bytes } of arrivals) {
    bins[Math.min(Math.floor((NUM_BINS * ms) / deadlineMs), NUM_BINS - 1)] += bytes;
    total += bytes;
  }
  const nodes = [element("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT })];
  const peak = Math.max(...bins, 1);
  bins.forEach((bytes, bin) => {
    if (bytes === 0) return;
    const height = Math.max(1.5, (0.92 * HEIGHT * bytes) / peak);
    const left = (WIDTH * bin) / NUM_BINS;
    nodes.push(
      element("rect", { class: "rate", x: left, y: HEIGHT - height, width: WIDTH / NUM_BINS - 2, height, rx: 1 }),
    );
  });
  if (total > 0) {
    let sum = 0;
    let path = `M0 ${HEIGHT}`;
    for (const { ms, bytes } of arrivals) {
      sum += bytes;
      path += `H${x(ms).toFixed(1)}V${(HEIGHT - (0.96 * HEIGHT * sum) / total).toFixed(1)}`;
    }
    nodes.push(element("path", { class: "total", d: path }));
  }
  if (cursorMs !== null) {
    nodes.push(element("line", { class: "cursor", x1: x(cursorMs), x2: x(cursorMs), y1: 0, y2: HEIGHT }));
  }
  svg.replaceChildren(...nodes);
  return { total, peak: total > 0 ? (8000 * peak * NUM_BINS) / deadlineMs : 0 };
}
