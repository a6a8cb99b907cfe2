import * as z from 'zod';
import { ProtocolError } from '../errors.ts';
import { decode, encode } from './codec.ts';

/**
 * A frame is one ZeroMQ message part. 16 bytes of header, then MessagePack:
 *
 * | byte | content                                                              |
 * |------|----------------------------------------------------------------------|
 * | 0    | 0x57, to tell bytes that are no frame from frames of another version  |
 * | 1    | protocol version                                                     |
 * | 2    | kind                                                                 |
 * | 3    | 0                                                                    |
 * | 4    | session, u32: the number the hub gave in its welcome; 0 before       |
 * | 8    | position, f64: how many messages the sender sent before this frame   |
 * | 16   | payload                                                              |
 *
 * Bytes 0 to 3 and the payload of `refusal` are the same in every version. All numbers are little-endian.
 *
 * A spoke says `hello` and the hub answers `welcome`: a session has begun. In it both send `message` and, every so
 * often and after so many messages received, `alive`, which acknowledges. A message that is longer than a frame may be
 * comes in several frames, all but the last of the kind `part`; each counts as a message. Positions show gaps: when a broken connection
 * has lost messages, the session ends rather than continue without them. `bye` ends a session in order, and `bye-ack`
 * confirms that everything before it has arrived. With a `refusal` the hub answers a hello it does not accept and an
 * `alive` of a session it does not know.
 */
export const protocolVersion = 3;
export const headerBytes = 16;
const firstByte = 0x57;

const kinds = ['hello', 'welcome', 'refusal', 'message', 'alive', 'bye', 'bye-ack', 'part'] as const;
export type FrameKind = (typeof kinds)[number];

export interface Frame {
  readonly kind: FrameKind;
  readonly session: number;
  readonly position: number;
  readonly payload: Uint8Array;
}

const text = z.string();
const count = z.int().nonnegative();

/** The payloads of all kinds but `message` and `part`, whose payload is an envelope or a piece of one. */
const payloads = {
  hello: z.object({}),
  welcome: z.object({ node: text }),
  refusal: z.object({ node: text, reason: text }),
  alive: z.object({ receivedMessages: count, receivedBytes: count }),
  bye: z.object({ reason: text }),
  'bye-ack': z.object({}),
};
type ControlKind = keyof typeof payloads;
export type Payload<K extends ControlKind> = z.infer<(typeof payloads)[K]>;

/** A frame of any kind but `message` and `part`. */
export function controlFrame<K extends ControlKind>(
  kind: K,
  session: number,
  position: number,
  payload: Payload<K>,
): Uint8Array {
  return assemble(kind, session, position, encode(payload));
}

/** The frames that carry an encoded envelope, `frameBytes` of it each; `position` is that of the first. */
export function messageFrames(
  session: number,
  position: number,
  envelope: Uint8Array,
  frameBytes: number,
): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let start = 0; start === 0 || start < envelope.byteLength; start += frameBytes) {
    const piece = envelope.subarray(start, start + frameBytes);
    const kind = start + frameBytes < envelope.byteLength ? 'part' : 'message';
    frames.push(assemble(kind, session, position + frames.length, piece));
  }
  return frames;
}

function assemble(kind: FrameKind, session: number, position: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(headerBytes + payload.byteLength);
  const view = new DataView(frame.buffer);
  frame[0] = firstByte;
  frame[1] = protocolVersion;
  frame[2] = kinds.indexOf(kind);
  view.setUint32(4, session, true);
  view.setFloat64(8, position, true);
  frame.set(payload, headerBytes);
  return frame;
}

/** The protocol version of a frame if it is not ours; null for our own version and for bytes that are no frame. */
export function foreignVersion(bytes: Uint8Array): number | null {
  if (bytes.byteLength < 4 || bytes[0] !== firstByte || bytes[1] === protocolVersion) return null;
  return bytes[1]!;
}

/** Throws a `ProtocolError` for anything but a frame of this version. */
export function parseFrame(bytes: Uint8Array): Frame {
  if (bytes.byteLength < headerBytes) throw new ProtocolError(`a frame of ${bytes.byteLength} bytes`);
  if (bytes[0] !== firstByte) throw new ProtocolError('bytes that do not begin like a frame');
  if (bytes[1] !== protocolVersion) throw new ProtocolError(`a frame of protocol version ${bytes[1]}`);
  const kind = kinds[bytes[2]!];
  if (kind === undefined || bytes[3] !== 0) throw new ProtocolError(`a frame of unknown kind ${bytes[2]}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const position = view.getFloat64(8, true);
  if (!Number.isSafeInteger(position) || position < 0)
    throw new ProtocolError(`a frame at position ${position}`);
  return { kind, session: view.getUint32(4, true), position, payload: bytes.subarray(headerBytes) };
}

/** Throws a `ProtocolError` when the payload does not match its kind. */
export function parsePayload<K extends ControlKind>(kind: K, frame: Frame): Payload<K> {
  const parsed = payloads[kind].safeParse(decode(frame.payload));
  if (!parsed.success) throw new ProtocolError(`a ${kind} frame with a malformed payload`);
  return parsed.data as Payload<K>;
}
