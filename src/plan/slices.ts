import type { Manifest } from '../checkpoint/manifest.ts';
import { placementOrder } from '../checkpoint/manifest-rows.ts';

/** A joining host receives through several ranks, so even a small checkpoint has slices for each of them. */
const slicesWanted = 64;
const leastBytes = 16 * 2 ** 20;
const mostBytes = 2 ** 30;

/** Adjacent whole tensors of a segment, which one rank of another host receives as one unit. */
export interface Slice {
  /** Index into the manifest's segments. */
  readonly segment: number;
  /** Of its first byte, in the segment. */
  readonly offset: number;
  readonly bytes: number;
}

export interface Slices {
  readonly slices: readonly Slice[];
  /** Of each row of the manifest, the slice that it lies in. */
  readonly sliceOf: Uint32Array;
}

/**
 * Cuts a checkpoint into slices. They follow from the manifest alone, so that a number means the same slice to all
 * ranks. A tensor is never cut.
 */
export function cutSlices(manifest: Manifest): Slices {
  const { names, segmentOf, offsets, bytes } = manifest;
  const total = bytes.reduce((sum, size) => sum + size, 0);
  const limit = Math.min(mostBytes, Math.max(leastBytes, total / slicesWanted));
  const order = placementOrder(manifest);
  const slices: { segment: number; offset: number; bytes: number }[] = [];
  const sliceOf = new Uint32Array(names.length);
  for (let position = 0; position < names.length; position += 1) {
    const row = order === null ? position : order[position]!;
    const end = offsets[row]! + bytes[row]!;
    let slice = slices.at(-1);
    const isFull = slice !== undefined && slice.bytes > 0 && end - slice.offset > limit;
    if (slice === undefined || slice.segment !== segmentOf[row] || isFull) {
      slice = { segment: segmentOf[row]!, offset: offsets[row]!, bytes: 0 };
      slices.push(slice);
    }
    slice.bytes = Math.max(slice.bytes, end - slice.offset);
    sliceOf[row] = slices.length - 1;
  }
  return { slices, sliceOf };
}
