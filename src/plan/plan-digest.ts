import { createHash } from 'node:crypto';
import type { Plan } from './plan.ts';

/** SHA-256, in hex, of a plan. */
export function planDigest(plan: Omit<Plan, 'digest'>): string {
  const { layout, mode, slots, slotBytes, largeSlotBytes, ranks, owners } = plan;
  const { tensorStarts, tensorOrder, tensorOffsets, bucketBytes } = plan;
  const counts = [ranks.length, owners.length, tensorOrder.length];
  const hash = createHash('sha256').update(
    JSON.stringify(['weightcast plan 4', layout, mode, slots, slotBytes, largeSlotBytes, ...counts]),
  );
  for (const column of [ranks, owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes])
    hash.update(column);
  return hash.digest('hex');
}
