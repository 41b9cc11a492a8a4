// A device's side of one session, without I/O or clock: what it holds, and what it answers.

import { applyPacket, PacketError } from "./bitstream.js";
import { ack, crcOfFloats, held as heldMessage, NO_PACKET, pong, ProtocolError, Reason, resume, Type } from "./protocol.js";

export class DeviceSession {
  /** @param {import("./tables.js").Tables} tables */
  constructor(tables) {
    this.tables = tables;
    this.ready = null;
    this.summary = null;
    this.failure = null;
    /** Whether the deadline has passed: what is held does not change any more. */
    this.frozen = false;
    this.lastPacket = NO_PACKET;
    this.whole = new Float32Array(0);
    this.shown = this.whole;
    this.parts = new Uint8Array(0);
    this.nextFragment = 0;
    this.receivedBytes = 0;
    this.awaitsReset = false;
  }

  /** What is held, float32 (M) in scan order, the part that arrived of an unfinished packet included. */
  get coefficients() {
    return this.shown;
  }

  /** What HELD and RESUME say is held. */
  get report() {
    return { packet: this.lastPacket, prefix: this.parts.length, crc: crcOfFloats(this.shown) };
  }

  get over() {
    return this.summary !== null || this.failure !== null;
  }

  /**
   * Take a message.
   *
   * @param {object} message as `parse` returns it
   * @param {number} size its length in bytes
   * @param {number} clockMs of any beginning
   * @returns {Uint8Array[]} what to answer
   */
  receive(message, size, clockMs) {
    switch (message.type) {
      case Type.PING:
        return [pong(message.nonce)];
      case Type.READY:
        this.begin(message);
        return [];
      case Type.REFINEMENT:
        this.receivedBytes += size;
        return [ack(message.packet, message.flags, this.receivedBytes, clockMs * 1000), ...this.refine(message)];
      case Type.RESET:
        this.reset(message);
        return [];
      case Type.SUMMARY:
        this.summary = message;
        return [];
      case Type.ERROR:
        this.failure = message;
        return [];
      default:
        return [];
    }
  }

  /** A message was damaged: ask how to go on, once. */
  gap() {
    if (this.ready === null || this.frozen || this.awaitsReset) return [];
    this.awaitsReset = true;
    return [this.heldMessage(Reason.GAP)];
  }

  /** The deadline has come: what to tell the server. */
  deadline() {
    this.frozen = true;
    return this.ready === null ? [] : [this.heldMessage(Reason.DEADLINE)];
  }

  /** What to say first on a new connection. */
  resume(token, rttMs) {
    this.receivedBytes = 0;
    this.awaitsReset = true;
    const { session, key } = this.ready;
    return resume({ session, key, token, rtt_ms: rttMs, ...this.report });
  }

  heldMessage(reason) {
    const { packet, prefix, crc } = this.report;
    return heldMessage(reason, packet, prefix, crc);
  }

  begin(ready) {
    if (this.ready !== null) return;
    const size = ready.latent_shape.reduce((product, length) => product * length, 1);
    if (!(size > 0 && size <= 2 ** 24)) throw new ProtocolError(`a latent of ${size} numbers`);
    this.ready = ready;
    this.whole = this.shown = new Float32Array(size);
  }

  reset({ packet, keep }) {
    if (this.frozen || !this.awaitsReset) return;
    this.awaitsReset = false;
    this.whole = this.shown = keep ? this.shown : new Float32Array(this.shown.length);
    this.lastPacket = packet === 0 ? NO_PACKET : packet - 1;
    this.forgetParts();
  }

  refine({ packet, fragment, last, data }) {
    if (this.ready === null || this.frozen || this.awaitsReset) return [];
    const next = this.lastPacket === NO_PACKET ? 0 : this.lastPacket + 1;
    if (packet < next || (packet === next && fragment < this.nextFragment)) return []; // A duplicate.
    if (packet !== next || fragment !== this.nextFragment) return this.gap();
    const parts = new Uint8Array(this.parts.length + data.length);
    parts.set(this.parts);
    parts.set(data, this.parts.length);
    let shown = this.whole;
    try {
      shown = applyPacket(parts, this.whole, this.tables);
    } catch (error) {
      if (!(error instanceof PacketError)) throw error;
      // Too short for a header yet; a packet that ends like that is damaged.
      if (last) return this.gap();
    }
    this.shown = shown;
    if (last) {
      this.whole = shown;
      this.lastPacket = packet;
      this.forgetParts();
    } else {
      this.parts = parts;
      this.nextFragment = fragment + 1;
    }
    return [];
  }

  forgetParts() {
    this.parts = new Uint8Array(0);
    this.nextFragment = 0;
  }
}
