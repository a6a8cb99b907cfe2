import { createHash } from 'node:crypto';
import { bytesOfColumn } from '../checkpoint/columns.ts';
import type { Cuts } from '../checkpoint/cuts.ts';
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

/** Ranks that are sent the same have them in common. */
const sentDigests = new WeakMap<Cuts, { readonly order: Uint32Array; readonly digest: string }>();

/** SHA-256, in hex, of what a plan with parts sends of which tensors, in their order; of whole tensors an empty string. */
export function sentDigest({ tensorOrder, cuts }: Pick<Plan, 'tensorOrder' | 'cuts'>): string {
  if (cuts === null) return '';
  const known = sentDigests.get(cuts);
  if (known?.order === tensorOrder) return known.digest;
  const hash = createHash('sha256').update(`weightcast sent 1: ${tensorOrder.length}\n`);
  for (const column of [tensorOrder, cuts.dims, cuts.starts, cuts.lengths])
    hash.update(bytesOfColumn(column));
  const digest = hash.digest('hex');
  sentDigests.set(cuts, { order: tensorOrder, digest });
  return digest;
}
