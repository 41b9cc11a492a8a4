// Messages of the live protocol, docs/protocol.md, as a device needs them. No I/O, no clock.

export const VERSION = 1;
export const CODEC = "progressive/1";
export const MAX_FROM_SERVER = 65536;

export const Type = Object.freeze({
  REQUEST: 1, ACK: 2, CANCEL: 3, PING: 4, PONG: 5, RESUME: 6, HELD: 7,
  READY: 16, REFINEMENT: 17, RESET: 18, SUMMARY: 19, ERROR: 20,
});

/** Why a device says what it holds. */
export const Reason = Object.freeze({ DEADLINE: 0, GAP: 1 });

/** No packet was applied. */
export const NO_PACKET = 65535;

/** Bytes that are no message, or none that a server sends. */
export class ProtocolError extends Error {}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** CRC-32 as in zlib. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/** CRC-32 of numbers as little-endian float32. */
export function crcOfFloats(values) {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, index) => view.setFloat32(4 * index, value, true));
  return crc32(bytes);
}

/** A message: its type, a body, and the checksum of both. */
export function message(type, body = new Uint8Array()) {
  const bytes = new Uint8Array(body.length + 5);
  bytes[0] = type;
  bytes.set(body, 1);
  new DataView(bytes.buffer).setUint32(body.length + 1, crc32(bytes.subarray(0, body.length + 1)), true);
  return bytes;
}

/** A message with a JSON body; null is what is meant where a key is left out. */
const jsonMessage = (type, value) =>
  message(type, new TextEncoder().encode(JSON.stringify(value, (_, item) => item ?? undefined)));

/** A message of whole numbers: [bytes, value] each, little-endian. */
function numbersMessage(type, ...fields) {
  const body = new Uint8Array(fields.reduce((sum, [bytes]) => sum + bytes, 0));
  let at = 0;
  for (const [bytes, value] of fields) {
    for (let byte = 0; byte < bytes; byte++) body[at++] = Math.floor(value / 256 ** byte) % 256;
  }
  return message(type, body);
}

const WRAP = 2 ** 32;

export const request = (fields) => jsonMessage(Type.REQUEST, { version: VERSION, ...fields });
export const resume = (fields) => jsonMessage(Type.RESUME, { version: VERSION, ...fields });
export const cancel = () => message(Type.CANCEL);
export const ping = (nonce) => numbersMessage(Type.PING, [4, nonce]);
export const pong = (nonce) => numbersMessage(Type.PONG, [4, nonce]);
export const ack = (packet, flags, receivedBytes, clockMicroseconds) =>
  numbersMessage(
    Type.ACK, [2, packet], [1, flags], [4, receivedBytes % WRAP], [4, Math.floor(clockMicroseconds) % WRAP],
  );
export const held = (reason, packet, prefix, crc) =>
  numbersMessage(Type.HELD, [1, reason], [2, packet], [4, prefix], [4, crc]);

/**
 * A message from a server as {type, ...fields}.
 *
 * @param {Uint8Array} bytes
 * @throws {ProtocolError} for anything else
 */
export function parse(bytes) {
  if (bytes.length < 5 || bytes.length > MAX_FROM_SERVER) {
    throw new ProtocolError(`a message of ${bytes.length} bytes; one has 5 to ${MAX_FROM_SERVER}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 4;
  if (view.getUint32(end, true) !== crc32(bytes.subarray(0, end))) {
    throw new ProtocolError("a message was damaged on its way: its checksum is wrong");
  }
  const type = bytes[0];
  const need = (length, atLeast = false) => {
    if (atLeast ? end - 1 < length : end - 1 !== length) {
      throw new ProtocolError(`a message of type ${type} has a body of ${end - 1} bytes`);
    }
  };
  switch (type) {
    case Type.PING:
    case Type.PONG:
      need(4);
      return { type, nonce: view.getUint32(1, true) };
    case Type.REFINEMENT:
      need(4, true);
      return {
        type,
        packet: view.getUint16(1, true),
        flags: bytes[3],
        fragment: bytes[3] & 127,
        last: bytes[3] >= 128,
        data: bytes.slice(4, end),
      };
    case Type.RESET:
      need(3);
      if (bytes[3] > 1) throw new ProtocolError(`RESET says keep ${bytes[3]}; it must be 0 or 1`);
      return { type, packet: view.getUint16(1, true), keep: bytes[3] === 1 };
    case Type.READY:
    case Type.SUMMARY:
    case Type.ERROR:
      return { ...object(bytes.subarray(1, end), type), type };
    default:
      throw new ProtocolError(`a message of type ${type}, which a server does not send`);
  }
}

function object(body, type) {
  try {
    const value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {
    // Said below.
  }
  throw new ProtocolError(`the body of a message of type ${type} is no JSON object`);
}
