import type { SegmentInfo } from '../checkpoint/manifest.ts';

/** What a checkpoint asks of host memory: a segment on a host, for the share of a rank. */
export type SegmentNeed = Pick<SegmentInfo, 'host' | 'rank' | 'bytes'>;

/** Index of the first set that has just the segments needed, whatever their order; null if there is none. */
export function findSet(
  sets: readonly (readonly SegmentInfo[])[],
  needs: readonly SegmentNeed[],
): number | null {
  const wanted = sizesOf(needs);
  const found = sets.findIndex((set) => sizesOf(set) === wanted);
  return found < 0 ? null : found;
}

/** The same for two sets if and only if one can take the place of the other. */
export function sizesOf(set: readonly SegmentNeed[]): string {
  return set
    .map(({ host, rank, bytes }) => JSON.stringify([host, rank, bytes]))
    .sort()
    .join();
}
