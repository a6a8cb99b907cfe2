import { decode, encode } from '@msgpack/msgpack';
import * as z from 'zod';
import { describe, ProtocolError } from '../errors.ts';
import { bytesOfColumn, columnOfBytes } from './columns.ts';
import { DTYPES, shapeText } from './dtype.ts';
import { type Manifest, shapeOf } from './manifest-table.ts';
import { escapeControls, quoted } from './printable.ts';

/** Incremented when the form changes; other forms are refused. */
const FORM = 1;

const binary = z.instanceof(Uint8Array<ArrayBufferLike>);
const wholeNumber = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

/**
 * Names are one string and their lengths (in UTF-16 units), numbers are the little-endian bytes of their typed
 * arrays: MessagePack then has a dozen things to encode instead of a million.
 */
const encodedManifest = z.object({
  form: z.literal(FORM),
  checkpoint: z.string(),
  names: z.string(),
  nameLengths: binary,
  dtypes: binary,
  shapeStarts: binary,
  dimensions: binary,
  bytes: binary,
  /** path, bytes, host, rank */
  segments: z.array(z.tuple([z.string().min(1), wholeNumber, z.string(), wholeNumber])),
  segmentOf: binary,
  offsets: binary,
  digests: binary,
});

export function encodeManifest(manifest: Manifest): Uint8Array {
  const { checkpoint, names, dtypes, shapeStarts, dimensions, bytes, segments, segmentOf, offsets, digests } =
    manifest;
  const encoded: z.infer<typeof encodedManifest> = {
    form: FORM,
    checkpoint,
    names: names.join(''),
    nameLengths: bytesOfColumn(Uint32Array.from(names, (name) => name.length)),
    dtypes,
    shapeStarts: bytesOfColumn(shapeStarts),
    dimensions: bytesOfColumn(dimensions),
    bytes: bytesOfColumn(bytes),
    segments: segments.map((segment) => [segment.path, segment.bytes, segment.host, segment.rank]),
    segmentOf: bytesOfColumn(segmentOf),
    offsets: bytesOfColumn(offsets),
    digests: bytesOfColumn(digests),
  };
  return encode(encoded);
}

/**
 * The manifest that {@link encodeManifest} encoded. Throws a ProtocolError of one line for anything else: in
 * the result every index is in range, every size is right, and every tensor lies within its segment.
 */
export function decodeManifest(encoded: Uint8Array): Manifest {
  const parsed = encodedManifest.safeParse(decodeMessage(encoded));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    reject(`field ${issue.path.join('.') || '(all)'}: ${issue.message}`);
  }
  const { data } = parsed;
  const manifest: Manifest = {
    checkpoint: data.checkpoint,
    names: splitNames(data.names, columnOfBytes('manifest', Uint32Array, data.nameLengths)),
    dtypes: data.dtypes.slice(),
    shapeStarts: columnOfBytes('manifest', Uint32Array, data.shapeStarts),
    dimensions: columnOfBytes('manifest', Float64Array, data.dimensions),
    bytes: columnOfBytes('manifest', Float64Array, data.bytes),
    segments: data.segments.map(([path, bytes, host, rank]) => ({ path, bytes, host, rank })),
    segmentOf: columnOfBytes('manifest', Uint32Array, data.segmentOf),
    offsets: columnOfBytes('manifest', Float64Array, data.offsets),
    digests: columnOfBytes('manifest', BigUint64Array, data.digests),
  };
  checkLengths(manifest);
  for (let row = 0; row < manifest.names.length; row += 1) {
    const fault = faultOf(manifest, row);
    if (fault !== null) reject(`tensor ${quoted(manifest.names[row]!)} ${fault}`);
  }
  if (new Set(manifest.names).size !== manifest.names.length) reject('a name occurs twice');
  return manifest;
}

function reject(reason: string): never {
  throw new ProtocolError(`not a manifest: ${escapeControls(reason)}`);
}

function decodeMessage(encoded: Uint8Array): unknown {
  try {
    return decode(encoded);
  } catch (error) {
    return reject(describe(error));
  }
}

function splitNames(joined: string, lengths: Uint32Array): string[] {
  const names = new Array<string>(lengths.length);
  let start = 0;
  for (const [row, length] of lengths.entries()) {
    names[row] = joined.slice(start, start + length);
    start += length;
  }
  if (start !== joined.length) reject('the lengths of the names do not add up');
  return names;
}

function checkLengths(manifest: Manifest): void {
  const { names, dtypes, shapeStarts, dimensions, bytes, segmentOf, offsets, digests } = manifest;
  for (const column of [dtypes, bytes, segmentOf, offsets, digests]) {
    if (column.length !== names.length) reject('its columns differ in length');
  }
  if (
    shapeStarts.length !== names.length + 1 ||
    shapeStarts[0] !== 0 ||
    shapeStarts.at(-1) !== dimensions.length
  ) {
    reject('its shapes do not match its tensors');
  }
}

/** What is wrong with a row, or null. */
function faultOf(manifest: Manifest, row: number): string | null {
  const { dtypes, shapeStarts, dimensions, bytes, segments, segmentOf, offsets } = manifest;
  const dtype = DTYPES[dtypes[row]!];
  const segment = segments[segmentOf[row]!];
  const end = shapeStarts[row + 1]!;
  if (dtype === undefined) return `has the unknown dtype ${dtypes[row]}`;
  if (segment === undefined) return `is in segment ${segmentOf[row]} of ${segments.length}`;
  if (shapeStarts[row]! > end) return 'has a shape that ends before it begins';
  let bits = dtype.bits;
  for (let axis = shapeStarts[row]!; axis < end; axis += 1) {
    if (!isWholeNumber(dimensions[axis]!)) return `has a dimension of ${dimensions[axis]}`;
    bits *= dimensions[axis]!;
  }
  if (bits !== bytes[row]! * 8) {
    return `takes ${bytes[row]} bytes, but is ${dtype.name} ${shapeText(shapeOf(manifest, row))}`;
  }
  if (!isWholeNumber(offsets[row]!) || offsets[row]! + bytes[row]! > segment.bytes) {
    return `does not lie within segment ${quoted(segment.path)}`;
  }
  return null;
}

function isWholeNumber(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
