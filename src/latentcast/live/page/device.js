// A device's side of one session, without I/O or clock: what it holds, and what it answers. See docs/protocol.md.

import { applyPacket, PacketError } from "./bitstream.js";
import * as protocol from "./protocol.js";

const { NO_PACKET, ProtocolError, Reason, Type } = protocol;

const MAX_GAPS = 16;

export class DeviceSession {
  /** @param {import("./tables.js").Tables} tables */
  constructor(tables) {
    this.tables = tables;
    this.ready = null;
    this.summary = null;
    this.failure = null;
    /** Whether the deadline has passed: what is held does not change any more. */
    this.frozen = false;
    /** What is held, float32 (M) in scan order, the part that arrived of an unfinished packet included. */
    this.coefficients = new Float32Array(0);
    this.receivedBytes = 0;
    this.awaitsReset = false;
    this.numGaps = 0;
    // The last whole packet and what was held after it; what there is of the next one.
    this.lastPacket = NO_PACKET;
    this.whole = this.coefficients;
    this.parts = new Uint8Array(0);
    this.nextFragment = 0;
    // Bytes of the next packet that are applied in `coefficients`.
    this.prefix = 0;
  }

  /** Whether the server has said its last word. */
  get over() {
    return this.summary !== null || this.failure !== null;
  }

  /**
   * Take the bytes of a message.
   *
   * @param {Uint8Array} bytes
   * @param {number} clockMs since the request went out, by a clock that nobody sets
   * @returns {{message: object | null, answers: Uint8Array[]}} the message, null if it is damaged
   * @throws {ProtocolError} if there are too many gaps to go on
   */
  receive(bytes, clockMs) {
    let message;
    try {
      message = protocol.parse(bytes);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      return { message: null, answers: this.gap() };
    }
    return { message, answers: this.take(message, bytes.length, clockMs) };
  }

  take(message, size, clockMs) {
    switch (message.type) {
      case Type.PING:
        return [protocol.pong(message.nonce)];
      case Type.READY:
        this.begin(message);
        return [];
      case Type.REFINEMENT: {
        this.receivedBytes += size;
        // What went wrong is said before the acknowledgement of what showed it.
        const answers = this.refine(message);
        answers.push(protocol.ack(message.packet, message.flags, this.receivedBytes, clockMs * 1000));
        return answers;
      }
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

  /** The deadline has come: what to tell the server. */
  deadline() {
    this.frozen = true;
    return this.ready === null ? [] : [this.held(Reason.DEADLINE)];
  }

  /** What to say on a new connection. */
  resume(token, rttMs) {
    this.receivedBytes = 0;
    this.awaitsReset = true;
    const { session, key } = this.ready;
    const first = protocol.resume({ session, key, token, rtt_ms: rttMs, ...this.report() });
    return this.frozen ? [first, this.held(Reason.DEADLINE)] : [first];
  }

  report() {
    return { packet: this.lastPacket, prefix: this.prefix, crc: protocol.crcOfFloats(this.coefficients) };
  }

  held(reason) {
    const { packet, prefix, crc } = this.report();
    return protocol.held(reason, packet, prefix, crc);
  }

  gap() {
    if (this.ready === null || this.frozen || this.awaitsReset) return [];
    if (++this.numGaps > MAX_GAPS) throw new ProtocolError(`${this.numGaps} messages were damaged or missing`);
    this.awaitsReset = true;
    return [this.held(Reason.GAP)];
  }

  begin(ready) {
    if (this.ready !== null) return;
    const size = ready.latent_shape.reduce((product, length) => product * length, 1);
    this.ready = ready;
    this.whole = this.coefficients = new Float32Array(size);
  }

  reset({ packet, keep }) {
    if (this.frozen || !this.awaitsReset) return;
    this.awaitsReset = false;
    this.whole = this.coefficients = keep ? this.coefficients : new Float32Array(this.whole.length);
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
    this.parts = parts;
    this.nextFragment++;
    const decodes = this.apply();
    if (!last) return [];
    if (!decodes) return this.gap();
    this.whole = this.coefficients;
    this.lastPacket = packet;
    this.forgetParts();
    return [];
  }

  /** Apply what there is of the next packet, if it decodes. */
  apply() {
    try {
      this.coefficients = applyPacket(this.parts, this.whole, this.tables);
      this.prefix = this.parts.length;
      return true;
    } catch (error) {
      if (!(error instanceof PacketError)) throw error;
      this.coefficients = this.whole;
      this.prefix = 0;
      return false;
    }
  }

  forgetParts() {
    this.parts = new Uint8Array(0);
    this.nextFragment = 0;
    this.prefix = 0;
  }
}
