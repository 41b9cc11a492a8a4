// What is on stage: the picture of one run, the two other ways beside it, and the clock under them.

import { drawChart } from "./chart.js";
import * as words from "./words.js";

const byId = (id) => document.getElementById(id);

/** A square that shows a picture, or says why it shows none. */
class Pane {
  constructor(id, name) {
    this.root = byId(id);
    this.name = name;
    this.frame = this.root.querySelector(".frame");
    this.canvas = this.root.querySelector("canvas");
    this.empty = this.root.querySelector(".empty");
    this.state = this.root.querySelector(".state");
    this.shown = null;
  }

  show(image, state) {
    if (image !== this.shown) {
      this.canvas.width = image.width;
      this.canvas.height = image.height;
      this.canvas.getContext("2d").putImageData(image, 0, 0);
      this.shown = image;
    }
    this.frame.dataset.filled = "";
    this.state.textContent = state;
    this.canvas.setAttribute("aria-label", `${this.name}: ${state}`);
  }

  clear(text, state = "") {
    delete this.frame.dataset.filled;
    this.shown = null;
    this.empty.textContent = text;
    this.state.textContent = state;
    this.canvas.setAttribute("aria-label", `${this.name}: ${text}`);
  }
}

/** The last of a list that had come by a moment. */
export const latest = (list, ms) => list.findLast((item) => item.ms <= ms) ?? null;

/** Peak signal-to-noise ratio of a picture against the finished one, in words. */
function likeness(image, finished) {
  if (!finished || image.width !== finished.width || image.height !== finished.height) return "";
  let sum = 0;
  for (let index = 0; index < image.data.length; index++) {
    if (index % 4 !== 3) sum += (image.data[index] - finished.data[index]) ** 2;
  }
  const psnr = 10 * Math.log10(65025 / Math.max(sum / (0.75 * image.data.length), 1e-3));
  return psnr > 60 ? "as finished" : `PSNR ${psnr.toFixed(1)} dB`;
}

export class Stage {
  constructor() {
    this.ours = new Pane("pane-ours", "latentcast");
    this.send = new Pane("pane-send", "Compute, then send");
    this.jpeg = new Pane("pane-jpeg", "JPEG previews");
    this.run = null;
    byId("moment").addEventListener("input", (event) => {
      this.stop();
      this.showMoment(Number(event.target.value));
    });
    byId("play").addEventListener("click", () => (this.playing ? this.stop() : this.play()));
  }

  /** Begin to follow a run that is being delivered. */
  follow(run) {
    this.stop();
    this.run = run;
    byId("replay").hidden = true;
    this.ours.clear("Waiting for the first refinement");
    this.send.clear("known after the run");
    this.jpeg.clear("known after the run");
    this.tick();
  }

  /** Nothing comes of the run. */
  abandon() {
    for (const pane of [this.ours, this.send, this.jpeg]) pane.clear("No picture this time");
    this.clock(0);
  }

  /** Draw the clock of the run under way; called for every frame. */
  tick() {
    const { run } = this;
    const ms = Math.min(run.request?.elapsedMs ?? 0, run.deadlineMs);
    this.clock(ms);
    this.chart(null);
  }

  /** Show a newer picture of the run under way. */
  picture(image, ms) {
    this.ours.show(image, `${words.bytes(bytesBy(this.run, ms))} after ${words.seconds(ms)}`);
  }

  /** Show a finished run, which can be gone through. */
  review(run) {
    this.stop();
    this.run = run;
    const moment = byId("moment");
    moment.max = run.deadlineMs;
    byId("replay").hidden = run.pictures.length === 0;
    this.showMoment(run.deadlineMs);
  }

  /** Everything as it was at a moment of the run. */
  showMoment(ms) {
    const { run } = this;
    byId("moment").value = ms;
    byId("moment").setAttribute("aria-valuetext", words.seconds(ms));
    byId("moment-text").textContent = words.seconds(ms);
    this.clock(ms);
    this.chart(ms < run.deadlineMs ? ms : null);
    const atDeadline = ms >= run.deadlineMs;
    const finished = run.comparison?.finished ?? null;
    const picture = atDeadline && run.final ? run.final : latest(run.pictures, ms);
    if (picture) this.ours.show(picture.image, join(likeness(picture.image, finished), words.bytes(bytesBy(run, ms))));
    else this.ours.clear(atDeadline ? "Nothing arrived in time" : "Nothing yet");
    this.showOthers(ms, finished);
  }

  showOthers(ms, finished) {
    const { comparison, deadlineMs } = this.run;
    if (!comparison) {
      const text = this.run.comparisonFailed ? "The server kept no record of this run" : "being worked out …";
      this.send.clear(text);
      this.jpeg.clear(text);
      return;
    }
    const { send, previews } = comparison;
    const whole = latest(send.pictures, ms);
    if (whole) this.send.show(whole.image, join(likeness(whole.image, finished), words.bytes(send.bytes)));
    else this.send.clear(nothingYet(send, ms, deadlineMs), send.late ?? "");
    const preview = latest(previews, ms);
    if (preview) this.jpeg.show(preview.image, join(likeness(preview.image, finished), words.bytes(preview.bytes)));
    else this.jpeg.clear(ms < deadlineMs ? "Nothing yet" : "No JPEG fits the bytes");
  }

  chart(cursorMs) {
    const { total, peak } = drawChart(byId("chart"), this.run.arrivals, this.run.deadlineMs, cursorMs);
    byId("peak").textContent = total > 0 ? `, up to ${words.rate(peak)}` : "";
    byId("total").textContent = total > 0 ? `, ${words.bytes(total)} in all` : "";
  }

  clock(ms) {
    const { deadlineMs } = this.run;
    const bar = byId("bar");
    const percent = Math.round((100 * ms) / deadlineMs);
    bar.firstElementChild.style.transform = `scaleX(${ms / deadlineMs})`;
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${words.seconds(ms)} of ${words.seconds(deadlineMs)}`);
    bar.toggleAttribute("data-over", ms >= deadlineMs);
    byId("elapsed").textContent = words.seconds(ms);
    byId("remaining").textContent = ms >= deadlineMs ? "deadline" : `deadline in ${words.seconds(deadlineMs - ms)}`;
  }

  play() {
    const began = performance.now();
    this.playing = true;
    byId("play").textContent = "Stop";
    const advance = () => {
      if (!this.playing) return;
      const ms = Math.min(performance.now() - began, this.run.deadlineMs);
      this.showMoment(ms);
      if (ms < this.run.deadlineMs) requestAnimationFrame(advance);
      else this.stop();
    };
    advance();
  }

  stop() {
    this.playing = false;
    byId("play").textContent = "Replay";
  }
}

export const bytesBy = (run, ms) => run.arrivals.reduce((sum, item) => sum + (item.ms <= ms ? item.bytes : 0), 0);

const join = (...parts) => parts.filter(Boolean).join(", ");

function nothingYet({ generatedMs }, ms, deadlineMs) {
  if (generatedMs === null || ms < generatedMs) return ms < deadlineMs ? "Still computing" : "Still computing at the deadline";
  return ms < deadlineMs ? "On its way" : "Not there by the deadline";
}
