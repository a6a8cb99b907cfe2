import assert from 'node:assert/strict';
import { quoted } from '../checkpoint/printable.ts';
import { MemoryError, UsageError } from '../errors.ts';
import { formatExactBytes } from '../units.ts';
import { ALIGNMENT, alignDown, alignUp } from './alignment.ts';

/** `pipelined`: three slots or four, the three stages overlap. `serial`: two, for when device memory is short. */
export type Mode = 'pipelined' | 'serial';

/** At least. */
export const SLOTS = { pipelined: 3, serial: 2 } as const;

/**
 * One more slot lets an owner upload its next bucket while the last one is broadcast. With few ranks this keeps their
 * links busy (bench/results/collective.md).
 */
export const MOST_SLOTS = 4;

/** The device memory that a checkpoint needs. */
export interface MemoryNeeds {
  /** A tensor, or several that share a bucket: names, and aligned bytes of all. */
  readonly largest: { readonly tensors: readonly string[]; readonly bytes: number };
  /** All tensors, each rounded up to the alignment: no slot need be larger. */
  readonly totalBytes: number;
}

/** The device memory that there is. */
export interface MemorySupply {
  readonly ranks: readonly { readonly rank: number; readonly freeBytes: number }[];
  /** Part of the free memory that an update may take, in (0, 1]. */
  readonly fraction: number;
  /** The requested bucket size; the nearest possible one is used. */
  readonly bucketBytes: number;
}

export interface ModeChoice {
  readonly mode: Mode;
  /** Of each slot, a multiple of 256; the largest tensor, with what it is fused with, fits. */
  readonly slotBytes: number;
  /**
   * Up to which small tensors are packed together. Less than `slotBytes` where one large tensor makes the slots
   * large: that is no reason to move all the others in long, poorly overlapping pieces.
   */
  readonly bucketBytes: number;
  /** {@link MOST_SLOTS} where so many fit. */
  readonly slots: number;
  /** What all slots together may take. */
  readonly budget: number;
}

/**
 * How an update uses device memory. The budget is what the rank with least free memory may use; three slots if the
 * largest tensor fits in a third of it, four if that many of the size fit, two if it fits in half.
 *
 * Throws a MemoryError that names the tensor, the rank and the bytes when even two slots do not fit, and a UsageError
 * for a fraction or a bucket size out of range.
 */
export function chooseMode(needs: MemoryNeeds, supply: MemorySupply): ModeChoice {
  const tightestRank = findTightestRank(supply);
  const budget = Math.floor(tightestRank.freeBytes * supply.fraction);
  const largest = Math.max(alignUp(needs.largest.bytes), ALIGNMENT);
  for (const mode of ['pipelined', 'serial'] as const) {
    const slotLimit = alignDown(budget / SLOTS[mode]);
    if (largest > slotLimit) continue;
    const wanted = alignUp(supply.bucketBytes);
    const bucketBytes = Math.min(wanted, slotLimit, Math.max(needs.totalBytes, ALIGNMENT));
    const slotBytes = Math.max(bucketBytes, largest);
    const takesTurns = mode === 'pipelined' && supply.ranks.length > 1;
    const isAmple = takesTurns && slotBytes * MOST_SLOTS <= budget;
    return { mode, bucketBytes, slotBytes, budget, slots: isAmple ? MOST_SLOTS : SLOTS[mode] };
  }
  throw tooLarge(needs, tightestRank, budget, largest);
}

function findTightestRank({ ranks, fraction, bucketBytes }: MemorySupply) {
  if (!(fraction > 0 && fraction <= 1)) {
    throw new UsageError(`the fraction of free device memory must be over 0 and at most 1, not ${fraction}`);
  }
  if (!(bucketBytes > 0 && Number.isSafeInteger(bucketBytes))) {
    throw new UsageError(`the bucket size must be a whole number of bytes above 0, not ${bucketBytes}`);
  }
  assert.ok(ranks.length > 0, 'an update has ranks');
  return ranks.reduce((least, rank) => (rank.freeBytes < least.freeBytes ? rank : least));
}

function tooLarge(
  { largest: { tensors, bytes } }: MemoryNeeds,
  { rank, freeBytes }: { readonly rank: number; readonly freeBytes: number },
  budget: number,
  largest: number,
): MemoryError {
  const names = tensors.map((name) => quoted(name)).join(', ');
  const what =
    tensors.length === 1 ? `tensor ${names} takes` : `tensors ${names}, which share a bucket, take`;
  return new MemoryError(
    `${what} ${formatExactBytes(bytes)}, and an update needs at least two slots for that, ` +
      `${formatExactBytes(largest * SLOTS.serial)}; rank ${rank} has ${formatExactBytes(freeBytes)} of free device memory, ` +
      `of which an update may take ${formatExactBytes(budget)}`,
  );
}
