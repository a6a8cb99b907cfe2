import { createHash } from 'node:crypto';
import { bytesOfColumn } from './columns.ts';
import { DTYPES } from './dtype.ts';
import type { Manifest } from './manifest-table.ts';

/** Of a tensor the indices `start … start + length` along one dimension; all of it along the others. */
export interface Cut {
  readonly dim: number;
  readonly start: number;
  readonly length: number;
}

/**
 * The parts of many tensors, one entry for each: nine bytes. A dimension of {@link WHOLE} is the whole tensor; of a tensor
 * with length 0 nothing is kept.
 */
export interface Cuts {
  readonly dims: Uint8Array;
  readonly starts: Uint32Array;
  readonly lengths: Uint32Array;
}

/** In place of a dimension. No tensor has so many. */
export const WHOLE = 255;

/** Bytes of a tensor: `rows` runs of `rowBytes` bytes, whose starts are `pitch` bytes apart. */
export interface PartBytes {
  /** Of the first byte in the tensor. */
  readonly offset: number;
  readonly rowBytes: number;
  readonly rows: number;
  readonly pitch: number;
}

/** Digests are sums over such words of a tensor (native/memory/digest.h). */
const wordBytes = 8;

export function wholeCuts(entries: number): Cuts {
  return {
    dims: new Uint8Array(entries).fill(WHOLE),
    starts: new Uint32Array(entries),
    lengths: new Uint32Array(entries).fill(1),
  };
}

/** Null where the entry is the whole tensor. */
export function cutAt({ dims, starts, lengths }: Cuts, entry: number): Cut | null {
  if (dims[entry] === WHOLE) return null;
  return { dim: dims[entry]!, start: starts[entry]!, length: lengths[entry]! };
}

export function isKept({ dims, lengths }: Cuts, entry: number): boolean {
  return dims[entry] === WHOLE || lengths[entry]! > 0;
}

/** SHA-256, in hex. */
export function cutsDigest({ dims, starts, lengths }: Cuts): string {
  const hash = createHash('sha256').update(`weightcast cuts 1: ${dims.length}\n`);
  for (const column of [dims, starts, lengths]) hash.update(bytesOfColumn(column));
  return hash.digest('hex');
}

type Shapes = Pick<Manifest, 'dtypes' | 'shapeStarts' | 'dimensions'>;

/**
 * The bytes of a part of a row. Null for what is no part of it, and for one that begins or ends within a word: the digests
 * of such parts would not add up. Of elements that torch packs in pairs the last dimension is not the file's.
 */
export function partBytes(
  { dtypes, shapeStarts, dimensions }: Shapes,
  row: number,
  { dim, start, length }: Cut,
): PartBytes | null {
  const first = shapeStarts[row]!;
  const rank = shapeStarts[row + 1]! - first;
  const { bits } = DTYPES[dtypes[row]!]!;
  if (dim >= rank || (bits < 8 && dim === rank - 1)) return null;
  const size = dimensions[first + dim]!;
  if (length === 0 || start + length > size) return null;
  let rows = 1;
  for (let axis = 0; axis < dim; axis += 1) rows *= dimensions[first + axis]!;
  let innerBits = bits;
  for (let axis = dim + 1; axis < rank; axis += 1) innerBits *= dimensions[first + axis]!;
  const inner = innerBits / 8;
  const [offset, rowBytes, pitch] = [start * inner, length * inner, size * inner];
  const isOnWords = [offset, rowBytes, pitch].every((bytes) => bytes % wordBytes === 0);
  return isOnWords && rows * rowBytes > 0 ? { offset, rowBytes, rows, pitch } : null;
}
