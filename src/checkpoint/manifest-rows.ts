import type { Manifest, SegmentInfo } from './manifest-table.ts';

/** The rows in order of placement, or null when they are in that order already. */
export function placementOrder(manifest: Manifest): Uint32Array | null {
  const { names, segmentOf, offsets, bytes } = manifest;
  // Tensors without bytes share their offset with the next one and come first, in the order of their names.
  const compare = (a: number, b: number) =>
    segmentOf[a]! - segmentOf[b]! ||
    offsets[a]! - offsets[b]! ||
    bytes[a]! - bytes[b]! ||
    (names[a]! < names[b]! ? -1 : 1);
  const rows = Uint32Array.from(names, (_, row) => row);
  for (let row = 1; row < rows.length; row += 1) {
    if (compare(row - 1, row) > 0) return rows.sort(compare);
  }
  return null;
}

/** A manifest of some rows, in the order given, over the same table of segments. */
export function selectRows(manifest: Manifest, rows: Uint32Array): Manifest {
  const selected = emptyManifest(manifest.checkpoint, manifest.segments, {
    names: Array.from(rows, (row) => manifest.names[row]!),
    dimensions: countDimensions(manifest, rows),
  });
  let dimension = 0;
  for (const [target, row] of rows.entries()) {
    selected.dtypes[target] = manifest.dtypes[row]!;
    selected.bytes[target] = manifest.bytes[row]!;
    selected.segmentOf[target] = manifest.segmentOf[row]!;
    selected.offsets[target] = manifest.offsets[row]!;
    selected.digests[target] = manifest.digests[row]!;
    for (let from = manifest.shapeStarts[row]!; from < manifest.shapeStarts[row + 1]!; from += 1) {
      selected.dimensions[dimension] = manifest.dimensions[from]!;
      dimension += 1;
    }
    selected.shapeStarts[target + 1] = dimension;
  }
  return selected;
}

/** Columns of the right length, all zero. */
export function emptyManifest(
  checkpoint: string,
  segments: readonly SegmentInfo[],
  { names, dimensions }: { readonly names: readonly string[]; readonly dimensions: number },
): Manifest {
  const count = names.length;
  return {
    checkpoint,
    names,
    dtypes: new Uint8Array(count),
    shapeStarts: new Uint32Array(count + 1),
    dimensions: new Float64Array(dimensions),
    bytes: new Float64Array(count),
    segments,
    segmentOf: new Uint32Array(count),
    offsets: new Float64Array(count),
    digests: new BigUint64Array(count),
  };
}

function countDimensions({ shapeStarts }: Manifest, rows: Uint32Array): number {
  let count = 0;
  for (const row of rows) count += shapeStarts[row + 1]! - shapeStarts[row]!;
  return count;
}
