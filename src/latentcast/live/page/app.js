// The page: reads the form, runs a request, keeps the last runs.

import { Bands } from "./bands.js";
import { fetchComparison } from "./comparison.js";
import { LatestPicture, PictureDecoder } from "./decoder.js";
import { History } from "./history.js";
import { LiveError, LiveRequest } from "./live.js";
import { crcOfFloats } from "./protocol.js";
import { bytesBy, Stage } from "./stage.js";
import { tell } from "./summary.js";
import { Tables } from "./tables.js";
import * as words from "./words.js";

const MAX_PICTURES = 60;

const byId = (id) => document.getElementById(id);

const socketAddress = () => new URL("/v1/live", location.href.replace(/^http/, "ws")).href;

class App {
  constructor() {
    this.info = null;
    this.run = null;
    this.stage = new Stage();
    this.history = new History((run) => this.show(run));
    this.decoder = new PictureDecoder("/v1/decoder.onnx");
    this.tables = fetch("tables.npy")
      .then((answer) => answer.arrayBuffer())
      .then((file) => new Tables(file));
    this.tables.catch(() => {});
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.run) this.run.request.cancel();
      else this.start();
    });
    for (const id of ["deadline", "link"]) byId(id).addEventListener("input", () => this.describe());
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.run) byId("form").requestSubmit();
    });
    this.describe();
    this.connect();
  }

  /** Ask the server what it offers; again after a while if it does not answer. */
  async connect() {
    try {
      const answer = await fetch("/v1/info");
      if (!answer.ok) throw new Error(String(answer.status));
      this.info = await answer.json();
    } catch {
      this.status("down", "The server does not answer");
      setTimeout(() => this.connect(), 3000);
      return;
    }
    const { model, num_steps: steps, slot_ms: slotMs, emulates_links: emulates, example_prompts: examples } = this.info;
    this.status("up", `${model}, ${words.plural(steps, "step")} of ${Math.max(1, Math.round(slotMs))} ms`);
    byId("link-field").hidden = !emulates;
    byId("more").open = this.info.token_required;
    if (examples?.length) this.offerExamples(examples);
    this.warmUp(this.info.latent_shape);
    if (!this.touched) {
      // A little more than generation takes alone: enough for the last refinements.
      const wanted = Math.ceil((1.3 * steps * slotMs) / 500) * 500;
      byId("deadline").max = Math.max(2 * wanted, 8000);
      byId("deadline").value = Math.max(wanted, 2000);
      this.describe();
    }
  }

  /** The first picture takes longest: decode one that nobody sees. */
  warmUp(shape) {
    const size = shape.reduce((product, length) => product * length, 1);
    this.decoder.decode(new Float32Array(size), shape).catch(() => {});
  }

  status(state, text) {
    byId("server").dataset.state = state;
    byId("server").textContent = text;
  }

  offerExamples(examples) {
    byId("examples").replaceChildren(
      ...examples.map((text) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.addEventListener("click", () => {
          byId("prompt").value = text;
          byId("prompt").focus();
        });
        return button;
      }),
    );
    byId("examples").hidden = false;
    if (!byId("prompt").value) byId("prompt").value = examples[0];
  }

  describe() {
    const deadline = words.seconds(Number(byId("deadline").value));
    const link = words.link(Number(byId("link").value));
    byId("deadline-text").textContent = deadline;
    byId("link-text").textContent = link;
    byId("deadline").setAttribute("aria-valuetext", deadline);
    byId("link").setAttribute("aria-valuetext", link);
  }

  /** What the form asks for, as the fields of REQUEST. */
  fields() {
    const emulated = this.info?.emulates_links;
    const seed = byId("seed").value.trim();
    return {
      prompt: byId("prompt").value.trim(),
      seed: seed === "" ? null : Number(seed),
      deadline_ms: Number(byId("deadline").value),
      token: byId("token").value || null,
      link: emulated ? { kind: "rayleigh", snr_db: Number(byId("link").value) } : null,
    };
  }

  async start() {
    const fields = this.fields();
    this.touched = true;
    this.problem(null);
    this.running(true);
    const run = { prompt: fields.prompt, deadlineMs: fields.deadline_ms, link: fields.link, arrivals: [], pictures: [] };
    this.run = run;
    window.latentcast.run = run;
    this.history.select(null);
    byId("summary").textContent = "Preparing this browser …";
    try {
      run.request = { elapsedMs: 0, cancel: () => (run.cancelled = true) };
      this.stage.follow(run);
      // On a narrow screen the picture lies below the form.
      if (matchMedia("(max-width: 860px)").matches) byId("stage").scrollIntoView({ block: "start" });
      const tables = await this.tables;
      await this.decoder.ready.catch((error) => {
        throw new LiveError("decoder", error.message);
      });
      if (run.cancelled) throw new LiveError("cancelled", "Cancelled.");
      await this.deliver(run, fields, tables);
    } catch (error) {
      this.stop(run, error);
      return;
    }
    this.run = null;
    this.running(false);
    this.history.add(run);
    this.show(run);
    await this.compare(run);
  }

  /** Run the request and decode what comes, the newest first. */
  async deliver(run, fields, tables) {
    let bands = null;
    const pictures = new LatestPicture(
      this.decoder,
      (image, { ms, final }) => {
        if (final) {
          run.final = { ms: run.deadlineMs, image };
        } else {
          run.pictures.push({ ms, image });
          if (run.pictures.length > MAX_PICTURES) run.pictures.splice(1, 1);
        }
        this.stage.picture(image, ms);
      },
      (error) => run.request.fail(new LiveError("decoder", error.message)),
    );
    const offer = (ms, final = false) => {
      const { coefficients, ready } = run.request.device;
      pictures.offer(bands.inverse(coefficients), ready.latent_shape, { ms, final });
    };
    const draw = () => {
      if (this.run !== run || run.request.device.frozen) return;
      this.stage.tick();
      requestAnimationFrame(draw);
    };
    run.request = new LiveRequest(socketAddress(), fields, tables, {
      onSent: () => {
        byId("summary").textContent = "Sent. The server is generating.";
        draw();
      },
      onReady: (ready) => {
        run.ready = ready;
        bands = new Bands(ready.latent_shape);
        byId("summary").textContent = `Generating “${ready.caption}”. ${ready.notes.join(" ")}`.trim();
      },
      onRefinement: (ms, bytes) => {
        run.arrivals.push({ ms, bytes });
        offer(ms);
      },
      onDeadline: () => {
        this.stage.tick();
        if (run.arrivals.length > 0) offer(run.deadlineMs, true);
      },
    });
    const device = await run.request.run();
    await pictures.settled();
    run.summary = device.summary;
    run.failure = device.failure;
    // The server gave up before the deadline: what is held is final all the same.
    run.final ??= run.pictures.at(-1);
    run.coefficients = device.coefficients;
    run.latent = bands.inverse(device.coefficients);
    run.crc = crcOfFloats(device.coefficients);
  }

  async compare(run) {
    const image = run.final?.image;
    run.comparison = await fetchComparison(run.ready, this.decoder, image && [image.width, image.height]).catch(() => null);
    run.comparisonFailed = run.comparison === null;
    if (this.stage.run === run && !this.stage.playing) this.stage.showMoment(Number(byId("moment").value));
  }

  /** Put a finished run on stage. */
  show(run) {
    if (this.run) return;
    this.history.select(run);
    this.stage.review(run);
    byId("summary").replaceChildren(...tell(run, bytesBy(run, run.deadlineMs)));
  }

  stop(run, error) {
    this.run = null;
    this.running(false);
    const reason = error instanceof LiveError ? error : new LiveError("internal", String(error.message ?? error));
    this.stage.abandon();
    if (reason.code === "cancelled") {
      byId("summary").textContent = "Cancelled.";
      return;
    }
    if (reason.code === "unauthorized") {
      byId("more").open = true;
      byId("token").focus();
    }
    if (reason.code === "unreachable") this.connect();
    byId("summary").textContent = "";
    this.problem(words.failure(reason));
  }

  problem(text) {
    byId("problem").hidden = text === null;
    if (text === null) return;
    const headline = document.createElement("strong");
    headline.textContent = text[0];
    byId("problem").replaceChildren(headline, text[1]);
  }

  running(yes) {
    const button = byId("start");
    button.textContent = yes ? "Cancel" : "Generate";
    button.toggleAttribute("data-running", yes);
  }
}

// What tests read: the run under way or the last one.
window.latentcast = { run: null };
new App();
