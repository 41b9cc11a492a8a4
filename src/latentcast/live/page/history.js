// The last few runs, to be looked at again.

import * as words from "./words.js";

const MAX_RUNS = 6;

export class History {
  /** @param {(run: object) => void} choose called with a run that is to be shown */
  constructor(choose) {
    this.choose = choose;
    this.runs = [];
    this.list = document.getElementById("runs");
  }

  add(run) {
    this.runs = [run, ...this.runs].slice(0, MAX_RUNS);
    this.list.replaceChildren(...this.runs.map((each) => this.item(each)));
    document.getElementById("history").hidden = false;
  }

  select(run) {
    [...this.list.children].forEach((item, index) => {
      item.firstElementChild.setAttribute("aria-current", String(this.runs[index] === run));
    });
  }

  item(run) {
    const button = document.createElement("button");
    button.type = "button";
    const canvas = document.createElement("canvas");
    const image = run.final?.image;
    if (image) {
      canvas.width = image.width;
      canvas.height = image.height;
      canvas.getContext("2d").putImageData(image, 0, 0);
    }
    canvas.setAttribute("aria-hidden", "true");
    const title = document.createElement("b");
    title.textContent = run.prompt;
    const details = document.createElement("small");
    const mse = run.summary?.reached_mse ?? run.summary?.predicted_mse;
    const parts = [words.seconds(run.deadlineMs), run.link && words.link(run.link.snr_db).split(",")[0]];
    if (mse !== undefined && mse !== null && image) parts.push(`error ${words.error(mse)}`);
    if (!image) parts.push("nothing in time");
    details.textContent = parts.filter(Boolean).join(" · ");
    button.append(canvas, title, details);
    button.addEventListener("click", () => this.choose(run));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}
