import assert from 'node:assert/strict';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { alignUp } from './alignment.ts';
import { contiguousShares } from './contiguous-shares.ts';
import { fusedUnits } from './fused-tensors.ts';
import { byLayer, layerKeys } from './layer-order.ts';
import { deal } from './owners.ts';
import { packRows } from './packing.ts';

/** A disk reads this much in one go as fast as more of it, and no bucket that ranks broadcast is usually smaller. */
const MOST_STRIPE_BYTES = 32 * 2 ** 20;

/** Of each rank, at least: they make its share as even as that. */
const STRIPES = 32;

/** What one rank loads of a checkpoint on disk. `rows`, `placeOf` and `offsets` go together. */
export interface LoadShare {
  readonly rank: number;
  /** Rows of the index. */
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
 * Distributes the tensors of an index over ranks, even by bytes. What is read from files goes to the ranks in stripes, in
 * turns and layer by layer: when all ranks feed an update at once, in the order in which they loaded, each layer is whole
 * soon after its first tensor has come. Files in shared memory are not torn apart like that, because a rank that feeds
 * from one pins all of it: each rank gets a run of their tensors. With fewer tensors than ranks some ranks get none. What is in
 * the memory of a device goes to the rank on it, by `rankOnDevice`.
 */
export function planLoading(
  index: CheckpointIndex,
  ranks: readonly number[],
  rankOnDevice: (device: string) => number = () => assert.fail('no file is on a device'),
): LoadShare[] {
  const rows = [...index.names.keys()];
  const fileOf = (row: number) => index.files[index.fileOf[row]!]!;
  const isAdopted = (row: number) => fileOf(row).inSharedMemory && fileOf(row).device === null;
  const read = stripesOf(
    index,
    rows.filter((row) => !fileOf(row).inSharedMemory),
    ranks,
  );
  const adopted = runsOf(index, rows.filter(isAdopted), ranks);
  const onDevices = onDevicesOf(index, ranks, rankOnDevice);
  const shares = ranks.map((rank) =>
    layOut(index, rank, [...read.get(rank)!, ...adopted.get(rank)!, ...onDevices.get(rank)!]),
  );
  assert.equal(
    shares.reduce((sum, share) => sum + share.rows.length, 0),
    index.names.length,
    'every tensor is loaded once',
  );
  return shares;
}

/** Of each rank, the rows that it reads, in the order of layers; fused tensors go to one rank. */
function stripesOf(
  { names, bytes, fileOf, offsets }: CheckpointIndex,
  rows: readonly number[],
  ranks: readonly number[],
): Map<number, number[]> {
  const total = rows.reduce((sum, row) => sum + alignUp(bytes[row]!), 0);
  const limit = Math.min(MOST_STRIPE_BYTES, Math.ceil(total / ranks.length / STRIPES));
  const table = { names, bytes, offsets, segmentOf: fileOf };
  const stripes = packRows(table, fusedUnits({ names }, []), byLayer(layerKeys(names), rows), limit);
  const { owners } = deal(stripes, ranks);
  const rowsOf = new Map<number, number[]>(ranks.map((rank) => [rank, []]));
  for (const [stripe, owner] of owners.entries()) rowsOf.get(owner)!.push(...stripes[stripe]!.rows);
  return rowsOf;
}

/** Of each rank, a contiguous run of these rows. */
function runsOf(
  { bytes }: CheckpointIndex,
  rows: readonly number[],
  ranks: readonly number[],
): Map<number, number[]> {
  const starts = contiguousShares(
    Float64Array.from(rows, (row) => bytes[row]!),
    ranks.length,
  );
  return new Map(ranks.map((rank, share) => [rank, rows.slice(starts[share]!, starts[share + 1]!)]));
}

/** Of each rank, the rows of files in the memory of its device. */
function onDevicesOf(
  { files, fileOf }: CheckpointIndex,
  ranks: readonly number[],
  rankOnDevice: (device: string) => number,
): Map<number, number[]> {
  const rowsOf = new Map<number, number[]>(ranks.map((rank) => [rank, []]));
  const ownerOf = files.map(({ device }) => (device === null ? null : rankOnDevice(device)));
  for (const [row, file] of fileOf.entries()) {
    const owner = ownerOf[file]!;
    if (owner !== null) rowsOf.get(owner)!.push(row);
  }
  return rowsOf;
}

/** What is read comes first among `rows`; what is adopted after it, file by file. */
function layOut(index: CheckpointIndex, rank: number, rows: readonly number[]): LoadShare {
  const placeOf = new Uint32Array(rows.length);
  const offsets = new Float64Array(rows.length);
  const adopted: number[] = [];
  const rangesOf = new Map<number, number[]>();
  let segmentBytes = 0;
  for (const [position, row] of rows.entries()) {
    const file = index.fileOf[row]!;
    const bytes = index.bytes[row]!;
    if (index.files[file]!.inSharedMemory) {
      if (adopted.at(-1) !== file) adopted.push(file);
      placeOf[position] = adopted.length;
      offsets[position] = index.offsets[row]!;
      continue;
    }
    offsets[position] = segmentBytes;
    const ranges = rangesOf.get(file) ?? [];
    rangesOf.set(file, ranges);
    addRange(ranges, index.offsets[row]!, segmentBytes, bytes);
    // A tensor without bytes still needs a place in a segment.
    segmentBytes += alignUp(Math.max(bytes, 1));
  }
  const reads = [...rangesOf]
    .filter(([, ranges]) => ranges.length > 0)
    .map(([file, ranges]) => ({ file, ranges: Float64Array.from(ranges) }));
  return { rank, rows: Uint32Array.from(rows), placeOf, offsets, segmentBytes, adopted, reads };
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
