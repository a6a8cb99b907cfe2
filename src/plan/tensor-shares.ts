import { alignUp } from './alignment.ts';
import { contiguousShares } from './contiguous-shares.ts';

/** A run of tensors for one rank's segment. */
export interface TensorShare {
  readonly rank: number;
  /** How many; they follow those of the share before. */
  readonly tensors: number;
  /** Of the segment. */
  readonly bytes: number;
}

/**
 * Distributes tensors of these sizes over ranks in contiguous runs, even by bytes. Ranks that get none are left out.
 */
export function shareTensors(bytes: Float64Array, ranks: readonly number[]): TensorShare[] {
  const starts = contiguousShares(bytes, ranks.length);
  return ranks.flatMap((rank, share) => {
    const run = bytes.subarray(starts[share]!, starts[share + 1]!);
    return run.length === 0 ? [] : [{ rank, tensors: run.length, bytes: placeTensors(run).end }];
  });
}

/** Where tensors of these sizes start in a segment, and where it ends. */
export function placeTensors(bytes: Float64Array): { readonly offsets: Float64Array; readonly end: number } {
  const offsets = new Float64Array(bytes.length);
  let end = 0;
  for (const [row, size] of bytes.entries()) {
    offsets[row] = end;
    // A tensor without bytes needs a place too.
    end += alignUp(Math.max(size, 1));
  }
  return { offsets, end };
}
