import { createHash } from 'node:crypto';
import type { Plan } from './plan.ts';

/** SHA-256, in hex, of a plan. */
export function planDigest(plan: Omit<Plan, 'digest'>): string {
  const { layout, mode, slots, slotBytes, largeSlotBytes, ranks, owners } = plan;
  const { tensorStarts, tensorOrder, tensorOffsets, bucketBytes, cuts } = plan;
  const counts = [ranks.length, owners.length, tensorOrder.length];
  const hash = createHash('sha256').update(
    JSON.stringify([
      'weightcast plan 5',
      layout,
      mode,
      slots,
      slotBytes,
      largeSlotBytes,
      ...counts,
      cuts !== null,
    ]),
  );
  const columns = [ranks, owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes];
  const ofCuts = cuts === null ? [] : [cuts.dims, cuts.starts, cuts.lengths];
  for (const column of [...columns, ...ofCuts]) hash.update(column);
  return hash.digest('hex');
}
