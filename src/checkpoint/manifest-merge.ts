import assert from 'node:assert/strict';
import { CheckpointError } from '../errors.ts';
import { segmentFile } from './file-identity.ts';
import { emptyManifest, placementOrder, selectRows } from './manifest-rows.ts';
import type { Manifest, SegmentInfo } from './manifest-table.ts';
import { quoted } from './printable.ts';

/**
 * One manifest of what several ranks hold of a checkpoint. Segments stand in the order (rank, host, path), a file
 * that several ranks adopted only once; tensors in the order in which they lie in the segments. So the result, and
 * with it the layout digest, does not depend on the order in which the parts arrived.
 *
 * Throws a CheckpointError when parts are of different checkpoints, when two hold a tensor of the same name, or when
 * they disagree about a segment's size.
 */
export function mergeManifests(parts: readonly Manifest[]): Manifest {
  return mergeInOrder(parts).merged;
}

/** `order`: the rows of all parts, part after part, in the order of the merged ones; null if that is the same. */
function mergeInOrder(parts: readonly Manifest[]): { merged: Manifest; order: Uint32Array | null } {
  assert.ok(parts.length > 0, 'there is something to merge');
  checkSameCheckpoint(parts);
  const joined = concatenate(parts);
  checkNamesUnique(joined);
  const order = placementOrder(joined);
  return { merged: order === null ? joined : selectRows(joined, order), order };
}

/**
 * Merges as {@link mergeManifests}. Parts that share their columns with those that were merged last, as the shares of a
 * publisher's next version do, have other segments and digests only.
 */
export class ManifestMerger {
  #last: {
    readonly parts: readonly Manifest[];
    readonly merged: Manifest;
    readonly order: Uint32Array | null;
  } | null = null;

  /** Throws as {@link mergeManifests}. */
  merge(parts: readonly Manifest[]): Manifest {
    const { checkpoint } = parts[0]!;
    const last = this.#last;
    if (last !== null && isSame(parts, last.parts)) {
      checkSameCheckpoint(parts);
      const { segments } = mergeSegments(parts);
      const digests = joinedDigests(parts);
      const ordered = last.order === null ? digests : BigUint64Array.from(last.order, (row) => digests[row]!);
      return { ...last.merged, checkpoint, segments, digests: ordered };
    }
    const { merged, order } = mergeInOrder(parts);
    this.#last = { parts, merged, order };
    return merged;
  }
}

/** The same columns but for digests, in segments that stand in the same order. */
function isSame(parts: readonly Manifest[], others: readonly Manifest[]): boolean {
  if (parts.length !== others.length || !parts.every((part, at) => isSameLayout(part, others[at]!)))
    return false;
  const [now, before] = [mergeSegments(parts).indexOf, mergeSegments(others).indexOf];
  return now.every((indexes, part) => indexes.every((index, at) => index === before[part]![at]));
}

function isSameLayout(one: Manifest, other: Manifest): boolean {
  return (
    one.segments.length === other.segments.length &&
    (['names', 'dtypes', 'shapeStarts', 'dimensions', 'bytes', 'segmentOf', 'offsets'] as const).every(
      (column) => one[column] === other[column],
    )
  );
}

function joinedDigests(parts: readonly Manifest[]): BigUint64Array {
  const digests = new BigUint64Array(parts.reduce((sum, part) => sum + part.names.length, 0));
  let row = 0;
  for (const part of parts) {
    digests.set(part.digests, row);
    row += part.names.length;
  }
  return digests;
}

function checkSameCheckpoint(parts: readonly Manifest[]): void {
  const { checkpoint } = parts[0]!;
  const other = parts.find((part) => part.checkpoint !== checkpoint);
  if (other === undefined) return;
  throw new CheckpointError(
    `parts of ${quoted(checkpoint)} and ${quoted(other.checkpoint)} cannot be one checkpoint`,
  );
}

/** The segments of all parts, each place once, and for every part where its segments stand among them. */
function mergeSegments(parts: readonly Manifest[]) {
  const byPlace = new Map<string, SegmentInfo>();
  for (const segment of parts.flatMap((part) => part.segments)) {
    const key = placeOf(segment);
    const known = byPlace.get(key);
    if (known !== undefined && known.bytes !== segment.bytes) {
      throw new CheckpointError(
        `ranks ${known.rank} and ${segment.rank} disagree about the size of ${quoted(segmentFile(segment.path))}: ${known.bytes} and ${segment.bytes} bytes`,
      );
    }
    // The lowest rank that holds it counts as its loader.
    if (known === undefined || segment.rank < known.rank) byPlace.set(key, segment);
  }
  const segments = [...byPlace.values()].sort(bySegmentOrder);
  const position = new Map(segments.map((segment, index) => [placeOf(segment), index]));
  const indexOf = parts.map((part) =>
    Uint32Array.from(part.segments, (segment) => position.get(placeOf(segment))!),
  );
  return { segments, indexOf };
}

function placeOf(segment: SegmentInfo): string {
  return `${segment.host}\0${segment.path}`;
}

function bySegmentOrder(a: SegmentInfo, b: SegmentInfo): number {
  return a.rank - b.rank || (placeOf(a) < placeOf(b) ? -1 : 1);
}

/** All rows of all parts, part after part, over one table of segments. */
function concatenate(parts: readonly Manifest[]): Manifest {
  const { segments, indexOf } = mergeSegments(parts);
  const count = parts.reduce((sum, part) => sum + part.names.length, 0);
  const joined = emptyManifest(parts[0]!.checkpoint, segments, {
    names: parts.flatMap((part) => part.names),
    dimensions: parts.reduce((sum, part) => sum + part.dimensions.length, 0),
  });
  let row = 0;
  let dimension = 0;
  for (const [index, part] of parts.entries()) {
    joined.dtypes.set(part.dtypes, row);
    joined.bytes.set(part.bytes, row);
    joined.offsets.set(part.offsets, row);
    joined.digests.set(part.digests, row);
    joined.dimensions.set(part.dimensions, dimension);
    for (let local = 0; local < part.names.length; local += 1) {
      joined.segmentOf[row + local] = indexOf[index]![part.segmentOf[local]!]!;
      joined.shapeStarts[row + local] = dimension + part.shapeStarts[local]!;
    }
    row += part.names.length;
    dimension += part.dimensions.length;
  }
  joined.shapeStarts[count] = dimension;
  return joined;
}

function checkNamesUnique(manifest: Manifest): void {
  const { names, segments, segmentOf } = manifest;
  if (new Set(names).size === names.length) return;
  const first = new Map<string, number>();
  for (const [row, name] of names.entries()) {
    const other = first.get(name);
    if (other === undefined) {
      first.set(name, row);
      continue;
    }
    const [a, b] = [segments[segmentOf[other]!]!, segments[segmentOf[row]!]!];
    throw new CheckpointError(
      `tensor ${quoted(name)} is held twice: by rank ${a.rank} in ${quoted(segmentFile(a.path))} and by rank ${b.rank} in ${quoted(segmentFile(b.path))}`,
    );
  }
}
