import assert from 'node:assert/strict';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { alignUp } from './alignment.ts';
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
 * Distributes the tensors of an index over ranks: each gets a contiguous run of whole tensors, as even by bytes as
 * such runs can be. With fewer tensors than ranks some ranks get none.
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
    // A tensor without bytes still needs a place in a segment.
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
