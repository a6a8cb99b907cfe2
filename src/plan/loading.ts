import assert from 'node:assert/strict';
import type { Manifest, SegmentInfo } from '../checkpoint/manifest.ts';
import { placementOrder, selectRows } from '../checkpoint/manifest-rows.ts';
import { quoted } from '../checkpoint/printable.ts';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { CheckpointError } from '../errors.ts';
import { alignUp } from './byte-units.ts';
import { contiguousShares } from './contiguous-shares.ts';

/** What one rank loads of a checkpoint on disk. `rows`, `placeOf` and `offsets` go together. */
export interface LoadShare {
  readonly rank: number;
  /** Rows of the index: a contiguous run. */
  readonly rows: Uint32Array;
  /** 0: in the rank's own segment. n: stays in file `adopted[n - 1]`. */
  readonly placeOf: Uint32Array;
  /** Where each tensor starts, in the segment (multiples of 256) or in the adopted file. */
  readonly offsets: Float64Array;
  /** Of the rank's own segment; 0 if it needs none. */
  readonly segmentBytes: number;
  /** Indices of files in shared memory, whose tensors are used where they are. */
  readonly adopted: readonly number[];
  /** What to read into the segment: three numbers a range, file offset, segment offset, bytes. */
  readonly reads: readonly { readonly file: number; readonly ranges: Float64Array }[];
}

/**
 * Deals the tensors of an index out to ranks: each gets a contiguous run of whole tensors, as even by bytes as such
 * runs can be. With fewer tensors than ranks some get none.
 */
export function planLoading(index: CheckpointIndex, ranks: readonly number[]): LoadShare[] {
  const starts = contiguousShares(index.bytes, ranks.length);
  const shares = ranks.map((rank, share) => layOut(index, rank, starts[share]!, starts[share + 1]!));
  assert.equal(
    shares.reduce((sum, share) => sum + share.rows.length, 0),
    index.names.length,
    'every tensor is loaded once',
  );
  return shares;
}

function layOut(index: CheckpointIndex, rank: number, start: number, end: number): LoadShare {
  const rows = Uint32Array.from({ length: end - start }, (_, position) => start + position);
  const placeOf = new Uint32Array(rows.length);
  const offsets = new Float64Array(rows.length);
  const adopted: number[] = [];
  const reads: { file: number; ranges: number[] }[] = [];
  let segmentBytes = 0;
  for (const [position, row] of rows.entries()) {
    const file = index.fileOf[row]!;
    const bytes = index.bytes[row]!;
    // Rows are ordered by file, so the file of the row before is always the last one seen.
    if (index.files[file]!.inSharedMemory) {
      if (adopted.at(-1) !== file) adopted.push(file);
      placeOf[position] = adopted.length;
      offsets[position] = index.offsets[row]!;
      continue;
    }
    offsets[position] = segmentBytes;
    if (reads.at(-1)?.file !== file) reads.push({ file, ranges: [] });
    addRange(reads.at(-1)!.ranges, index.offsets[row]!, segmentBytes, bytes);
    // A tensor without bytes still needs a segment to be in.
    segmentBytes += alignUp(Math.max(bytes, 1));
  }
  return {
    rank,
    rows,
    placeOf,
    offsets,
    segmentBytes,
    adopted,
    reads: reads
      .filter(({ ranges }) => ranges.length > 0)
      .map(({ file, ranges }) => ({ file, ranges: Float64Array.from(ranges) })),
  };
}

/** Lengthens the last range where file and segment both go on without a gap. */
function addRange(ranges: number[], fileOffset: number, segmentOffset: number, bytes: number): void {
  if (bytes === 0) return;
  const last = ranges.length - 3;
  if (last >= 0) {
    const length = ranges[last + 2]!;
    if (ranges[last]! + length === fileOffset && ranges[last + 1]! + length === segmentOffset) {
      ranges[last + 2] = length + bytes;
      return;
    }
  }
  ranges.push(fileOffset, segmentOffset, bytes);
}

/** A share as a rank gets it: what it will hold, digests still 0, and what it reads into its own segment. */
export interface DealtShare {
  readonly rank: number;
  /** Its own segment, if it has one, comes first; after it come adopted files. */
  readonly manifest: Manifest;
  /** Path of its own segment. */
  readonly segment: string | null;
  readonly reads: readonly { readonly path: string; readonly ranges: Float64Array }[];
}

/** {@link planLoading}, told in manifests. Ranks that get nothing are left out. */
export function dealFiles(order: {
  readonly checkpoint: string;
  readonly index: CheckpointIndex;
  /** With the rank behind it, the name of each rank's own segment in its host's directory. */
  readonly segmentName: string;
  readonly ranks: readonly { readonly rank: number; readonly host: string; readonly directory: string }[];
}): DealtShare[] {
  const { checkpoint, index, segmentName, ranks } = order;
  const memberOf = new Map(ranks.map((member) => [member.rank, member]));
  const shares = planLoading(
    index,
    ranks.map(({ rank }) => rank),
  ).filter((share) => share.rows.length > 0);
  return shares.map((share) => {
    const { rank, segmentBytes, reads } = share;
    const { host, directory } = memberOf.get(rank)!;
    const path = `${directory}/${segmentName}${rank}`;
    return {
      rank,
      manifest: shareManifest(checkpoint, index, share, host, path),
      segment: segmentBytes > 0 ? path : null,
      reads: reads.map(({ file, ranges }) => ({ path: index.files[file]!.path, ranges })),
    };
  });
}

function shareManifest(
  checkpoint: string,
  index: CheckpointIndex,
  { rank, rows, placeOf, offsets, segmentBytes, adopted }: LoadShare,
  host: string,
  segmentPath: string,
): Manifest {
  const own: SegmentInfo[] = segmentBytes > 0 ? [{ path: segmentPath, bytes: segmentBytes, host, rank }] : [];
  const files = adopted.map((file) => ({
    path: index.files[file]!.path,
    bytes: index.files[file]!.bytes,
    host,
    rank,
  }));
  const [start, end] = [rows[0]!, rows.at(-1)! + 1];
  const firstDimension = index.shapeStarts[start]!;
  return {
    checkpoint,
    names: index.names.slice(start, end),
    dtypes: index.dtypes.slice(start, end),
    shapeStarts: index.shapeStarts.slice(start, end + 1).map((position) => position - firstDimension),
    dimensions: index.dimensions.slice(firstDimension, index.shapeStarts[end]!),
    bytes: index.bytes.slice(start, end),
    segments: [...own, ...files],
    segmentOf: placeOf.map((place) => (place === 0 ? 0 : own.length + place - 1)),
    offsets,
    digests: new BigUint64Array(rows.length),
  };
}

/**
 * Deals out tensors that lie in shared memory already: each rank digests a contiguous run, even by bytes, of what
 * its host holds. Throws a CheckpointError that names a tensor on a host without ranks.
 */
export function dealManifest(
  manifest: Manifest,
  ranks: readonly { readonly rank: number; readonly host: string }[],
): DealtShare[] {
  const order = placementOrder(manifest) ?? Uint32Array.from(manifest.names, (_, row) => row);
  const hostOf = (row: number) => manifest.segments[manifest.segmentOf[row]!]!.host;
  const hosts = new Set(ranks.map(({ host }) => host));
  const stray = order.find((row) => !hosts.has(hostOf(row)));
  if (stray !== undefined) {
    throw new CheckpointError(
      `tensor ${quoted(manifest.names[stray]!)} lies on host ${quoted(hostOf(stray))}, which has no rank`,
    );
  }
  return [...hosts].flatMap((host) => {
    const rows = order.filter((row) => hostOf(row) === host);
    const members = ranks.filter((member) => member.host === host);
    const starts = contiguousShares(
      Float64Array.from(rows, (row) => manifest.bytes[row]!),
      members.length,
    );
    return members.flatMap(({ rank }, share) => {
      const own = rows.subarray(starts[share]!, starts[share + 1]!);
      return own.length === 0
        ? []
        : [{ rank, manifest: selectRows(manifest, own), segment: null, reads: [] }];
    });
  });
}
