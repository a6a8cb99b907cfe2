import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { Encoder, ExtData, type ExtensionCodecType, decode as unpack } from '@msgpack/msgpack';
import { describe, ProtocolError } from '../errors.ts';

/**
 * MessagePack for messages between processes: plain objects, arrays, strings, finite and infinite numbers, booleans,
 * null, `Uint8Array` (native bin), and by extension types the typed arrays below and bigints of 64 bits.
 */

// Typed arrays are sent as they lie in memory.
assert.equal(endianness(), 'LE', 'weightcast runs on little-endian machines only');

const typedArrays = [
  { type: 1, view: Uint16Array },
  { type: 2, view: Int32Array },
  { type: 3, view: Uint32Array },
  { type: 4, view: Float64Array },
  { type: 5, view: BigUint64Array },
] as const;
const unsignedBigint = 6;
const signedBigint = 7;

const extensions: ExtensionCodecType<undefined> = {
  /** Called for all but numbers, strings, booleans and null; returns null for what the encoder handles. */
  tryToEncode(value) {
    if (typeof value === 'bigint') return encodeBigint(value);
    if (typeof value !== 'object' || value === null)
      throw new ProtocolError(`a ${typeof value} cannot be sent`);
    if (Array.isArray(value)) {
      if (value.includes(undefined)) throw new ProtocolError('undefined in an array cannot be sent');
      return null;
    }
    if (value instanceof Uint8Array) return null;
    const array = typedArrays.find((entry) => value instanceof entry.view);
    if (array !== undefined) return new ExtData(array.type, bytesOf(value as NodeJS.TypedArray));
    checkPlain(value);
    return null;
  },
  decode(data, type) {
    if (type === unsignedBigint || type === signedBigint) return decodeBigint(data, type);
    const array = typedArrays.find((entry) => entry.type === type);
    if (array === undefined) throw new ProtocolError(`unknown extension type ${type}`);
    const { view: View } = array;
    if (data.byteLength % View.BYTES_PER_ELEMENT !== 0) {
      throw new ProtocolError(`a ${View.name} of ${data.byteLength} bytes`);
    }
    // Copied, for alignment: even where the offset is a multiple, ZeroMQ's memory may start at any address.
    return new View(data.slice().buffer);
  },
};

/** Containers within containers; a value that contains itself is deeper than any limit. */
const maxDepth = 64;

const encoding = { extensionCodec: extensions, ignoreUndefined: true, maxDepth };

/** Of an envelope, its body and what lies in that: where bulk is. */
const bulkDepth = 3;
/** For all but the bulk of a message. */
const ordinaryBytes = 2_048;

/** Its memory is that of the longest message so far, up to this. */
const keptBytes = 2 ** 22;
let encoder = new Encoder(encoding);

/**
 * Encodes a value into memory of its own: later changes of `value` do not show in the result.
 * Properties that are `undefined` are left out. Throws `ProtocolError` for what would arrive as something else:
 * functions, class instances, bigints beyond 64 bits.
 */
export function encode(value: unknown): Uint8Array {
  return encodeShared(value).slice();
}

/** The same into memory that the next call overwrites. */
export function encodeShared(value: unknown): Uint8Array {
  try {
    const bulk = bulkBytes(value, bulkDepth);
    // Room for the bulk at once, since it would double its memory, and copy it, until it has.
    if (bulk > keptBytes)
      return new Encoder({ ...encoding, initialBufferSize: bulk + ordinaryBytes }).encodeSharedRef(value);
    const encoded = encoder.encodeSharedRef(value === undefined ? null : value);
    if (encoded.byteLength > keptBytes) encoder = new Encoder(encoding);
    return encoded;
  } catch (error) {
    if (error instanceof ProtocolError) throw error;
    throw new ProtocolError(`a message cannot be encoded: ${describe(error)}`, { cause: error });
  }
}

/** Bytes of the binaries and typed arrays that lie in plain objects, so many of them within each other. */
function bulkBytes(value: unknown, depth: number): number {
  if (ArrayBuffer.isView(value)) return value.byteLength;
  if (depth === 0 || typeof value !== 'object' || value === null || Array.isArray(value)) return 0;
  return Object.values(value).reduce<number>((sum, part) => sum + bulkBytes(part, depth - 1), 0);
}

/**
 * Decodes what {@link encode} made. A `Uint8Array` in the result is a view of `bytes`; everything else is a copy.
 * Throws `ProtocolError` for anything malformed or truncated.
 *
 * The peer is authenticated, so this protects from faults and not from attacks; the transport limits the size of a
 * message. Lengths of strings, binaries and extensions are checked against the bytes there are, maps grow as they are
 * read; but memory for an array is allocated as its header claims, so the claim has a limit: each element takes a
 * byte.
 */
export function decode(bytes: Uint8Array): unknown {
  const { buffer, byteOffset, byteLength } = bytes;
  try {
    // Of a Buffer the decoder would make Buffers.
    return unpack(new Uint8Array(buffer, byteOffset, byteLength), {
      extensionCodec: extensions,
      maxArrayLength: byteLength,
      mapKeyConverter,
    });
  } catch (error) {
    if (error instanceof ProtocolError) throw error;
    throw new ProtocolError(`a message cannot be decoded: ${describe(error)}`, { cause: error });
  }
}

function mapKeyConverter(key: unknown): string {
  if (typeof key === 'string') return key;
  throw new ProtocolError(`a map key that is a ${typeof key} and not a string`);
}

function checkPlain(value: object): void {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    throw new ProtocolError(
      `an object of class ${value.constructor.name} cannot be sent, only plain objects and arrays`,
    );
  }
  if (Object.hasOwn(value, '__proto__'))
    throw new ProtocolError('an object with a key __proto__ cannot be sent');
}

function bytesOf(array: NodeJS.TypedArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function encodeBigint(value: bigint): ExtData {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  if (value >= 0n) {
    if (BigInt.asUintN(64, value) !== value) throw new ProtocolError(`the bigint ${value} is beyond 64 bits`);
    view.setBigUint64(0, value, true);
    return new ExtData(unsignedBigint, data);
  }
  if (BigInt.asIntN(64, value) !== value) throw new ProtocolError(`the bigint ${value} is beyond 64 bits`);
  view.setBigInt64(0, value, true);
  return new ExtData(signedBigint, data);
}

function decodeBigint(data: Uint8Array, type: number): bigint {
  if (data.byteLength !== 8) throw new ProtocolError(`a bigint of ${data.byteLength} bytes`);
  const view = new DataView(data.buffer, data.byteOffset, 8);
  return type === unsignedBigint ? view.getBigUint64(0, true) : view.getBigInt64(0, true);
}
