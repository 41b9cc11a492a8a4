// One request over a WebSocket: measures the round trip, asks, acknowledges, comes back after a broken connection.

import { DeviceSession } from "./device.js";
import { cancel, CODEC, NO_PACKET, ping, ProtocolError, request, Type } from "./protocol.js";

const CONNECT_MS = 5000;
const NUM_PINGS = 3;
const PING_MS = 2000;
const SUMMARY_MS = 2000;
const FIRST_RETRY_MS = 50;
const QUIET_MS = 5000;
const BROKEN_MS = 15000;

/** Why a request came to nothing. `code` is the server's, or "unreachable", "lost", "cancelled". */
export class LiveError extends Error {
  constructor(code, message, retryAfterMs = null) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** One request, from connection to summary. */
export class LiveRequest {
  /**
   * @param {string} url of the WebSocket
   * @param {object} fields prompt, seed, deadline_ms, token, link
   * @param {import("./tables.js").Tables} tables
   * @param {{onSent?: Function, onReady?: Function, onRefinement?: Function, onDeadline?: Function}} events
   */
  constructor(url, fields, tables, events = {}) {
    this.url = url;
    this.fields = fields;
    this.events = events;
    this.device = new DeviceSession(tables);
    this.socket = null;
    this.sentAt = null;
    this.ended = false;
    this.pongs = new Map();
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.done.catch(() => clearTimeout(this.timer));
  }

  /** Milliseconds since the request was sent. */
  get elapsedMs() {
    return this.sentAt === null ? 0 : performance.now() - this.sentAt;
  }

  /** Run it; resolves with the device's session after the summary. */
  run() {
    this.start().catch((error) => this.fail(error));
    return this.done;
  }

  cancel() {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(cancel());
    this.fail(new LiveError("cancelled", "Cancelled."));
  }

  async start() {
    await this.connect();
    const rtt = await this.measure(NUM_PINGS);
    if (this.ended) return;
    if (!this.socket) throw new LiveError("unreachable", "The connection broke at once.");
    const { deadline_ms: deadlineMs } = this.fields;
    this.socket.send(request({ codecs: [CODEC], latents: null, rtt_ms: rtt, ...this.fields }));
    this.sentAt = performance.now();
    this.timer = setTimeout(() => this.freeze(), deadlineMs);
    this.events.onSent?.();
  }

  connect() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(this.url);
      socket.binaryType = "arraybuffer";
      const timer = setTimeout(() => socket.close(), CONNECT_MS);
      socket.onopen = () => {
        clearTimeout(timer);
        this.socket = socket;
        this.watch(socket);
        resolve();
      };
      socket.onmessage = ({ data }) => this.take(socket, data);
      socket.onclose = () => {
        clearTimeout(timer);
        reject(new LiveError("unreachable", "The server does not answer."));
        if (socket === this.socket) this.lost();
      };
    });
  }

  /** Keep a quiet connection alive, and take a silent one for broken. */
  watch(socket) {
    this.heardAt = performance.now();
    const timer = setInterval(() => {
      const quietMs = performance.now() - this.heardAt;
      if (socket.readyState !== WebSocket.OPEN) clearInterval(timer);
      else if (quietMs > BROKEN_MS) socket.close();
      else if (quietMs > QUIET_MS) socket.send(ping(0));
    }, 1000);
  }

  /** The least round trip of some PINGs, in milliseconds. */
  async measure(count) {
    const socket = this.socket;
    let least = PING_MS;
    for (let attempt = 0; attempt < count && socket.readyState === WebSocket.OPEN; attempt++) {
      const nonce = Math.floor(Math.random() * 2 ** 32);
      const began = performance.now();
      const answered = new Promise((resolve) => this.pongs.set(nonce, resolve));
      socket.send(ping(nonce));
      await Promise.race([answered, sleep(PING_MS)]);
      this.pongs.delete(nonce);
      least = Math.min(least, performance.now() - began);
    }
    return least;
  }

  take(socket, data) {
    if (socket !== this.socket) return;
    // A busy browser may call the timer late.
    if (this.sentAt !== null && this.elapsedMs >= this.fields.deadline_ms) this.freeze();
    this.heardAt = performance.now();
    try {
      const { message, answers } = this.device.receive(new Uint8Array(data), this.elapsedMs);
      this.send(answers);
      if (message) this.react(message);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fail(new LiveError("lost", `The connection is too bad: ${error.message}.`));
    }
  }

  react(message) {
    if (message.type === Type.PONG) this.pongs.get(message.nonce)?.();
    if (message.type === Type.READY) {
      const { prompt, seed } = this.fields; // Said only where it is another.
      const { notes = [] } = message;
      this.events.onReady?.({ ...message, notes, caption: message.caption ?? prompt, seed: message.seed ?? seed });
    }
    if (message.type === Type.REFINEMENT && !this.device.frozen) {
      this.events.onRefinement?.(this.elapsedMs, message.data.length);
    }
    if (message.type === Type.SUMMARY) this.finish(() => this.resolve(this.device));
    if (message.type === Type.ERROR) {
      // What has come so far is still worth showing.
      if (this.device.lastPacket !== NO_PACKET) this.finish(() => this.resolve(this.device));
      else this.fail(new LiveError(message.code, message.message, message.retry_after_ms ?? null));
    }
  }

  freeze() {
    if (this.device.frozen) return;
    this.send(this.device.deadline());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      // The picture is there; only the server's word on it is missing.
      if (this.device.ready) this.finish(() => this.resolve(this.device));
      else this.fail(new LiveError("lost", "The server did not answer before the deadline."));
    }, SUMMARY_MS);
    this.events.onDeadline?.();
  }

  async lost() {
    this.socket = null;
    if (this.ended) return;
    if (this.device.ready === null) {
      if (this.sentAt !== null) this.fail(new LiveError("lost", "The connection broke before the server answered."));
      return;
    }
    // The timer of the deadline, and then of the summary, ends this.
    for (let wait = FIRST_RETRY_MS; !this.ended; wait = Math.min(2 * wait, 1000)) {
      await sleep(wait);
      try {
        await this.connect();
        const rtt = await this.measure(1);
        if (this.socket) this.send(this.device.resume(this.fields.token ?? null, rtt));
        return;
      } catch (error) {
        if (!(error instanceof LiveError)) throw error;
      }
    }
  }

  send(messages) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (const bytes of messages) this.socket.send(bytes);
  }

  fail(error) {
    this.finish(() => this.reject(error));
  }

  finish(settle) {
    clearTimeout(this.timer);
    this.ended = true;
    settle();
    this.socket?.close();
  }
}
