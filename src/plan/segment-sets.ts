import type { SegmentInfo } from '../checkpoint/manifest.ts';

/** The host memory that a checkpoint needs: a segment on a host, for the share of a rank. */
export type SegmentNeed = Pick<SegmentInfo, 'host' | 'rank' | 'bytes'>;

/** Index of the first set that has exactly the segments needed, in any order; null for none. */
export function findSet(
  sets: readonly (readonly SegmentInfo[])[],
  needs: readonly SegmentNeed[],
): number | null {
  const wanted = sizesOf(needs);
  const found = sets.findIndex((set) => sizesOf(set) === wanted);
  return found < 0 ? null : found;
}

/** Equal for two sets if and only if one can replace the other. */
export function sizesOf(set: readonly SegmentNeed[]): string {
  return set
    .map(({ host, rank, bytes }) => JSON.stringify([host, rank, bytes]))
    .sort()
    .join();
}
