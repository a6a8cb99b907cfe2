import { bucketCount } from '../../plan/plan.ts';
import type { OpenEpoch } from './open.ts';

/** Of the timelines of an update, about: a rank's grows with the number of buckets. */
const timelineBytes = 4 * 2 ** 20;
/** A span is three numbers; a bucket is broadcast and reloaded on every rank, and uploaded on one. */
const bucketTimelineBytes = 2 * 3 * 8;

/** The first ranks, as many as timelines are shown; at least one. */
export function timedRanks({ groups }: OpenEpoch, exchanges: number): Set<number> {
  const timed = new Set<number>();
  let bytes = 0;
  for (const { ranks, plan } of groups) {
    for (const { rank } of ranks) {
      bytes += bucketCount(plan) * bucketTimelineBytes * exchanges;
      if (bytes > timelineBytes && timed.size > 0) return timed;
      timed.add(rank);
    }
  }
  return timed;
}
