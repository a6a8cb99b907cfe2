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

/** A tensor of more than so many buckets has a slot of its own, if such tensors are few. */
const FAR_ABOVE = 2;

/** Tensors with slots of their own are uploaded one after another: they may make up this part of the bytes. */
const FEW = 1 / 4;

/** Smaller buckets than this, where memory is short, would take longer to announce than to copy. */
export const LEAST_BUCKET_BYTES = 2 ** 20;

/** Bytes of one tensor, or of several that share a bucket, aligned; and of how many that is the size. */
export interface ItemSize {
  readonly bytes: number;
  readonly count: number;
}

/** The device memory that a checkpoint needs. */
export interface MemoryNeeds {
  /** A tensor, or several that share a bucket: names, and aligned bytes of all. */
  readonly largest: { readonly tensors: readonly string[]; readonly bytes: number };
  /** All tensors, each rounded up to the alignment: no slot need be larger. */
  readonly totalBytes: number;
  /** The sizes that there are, the largest first. */
  readonly sizes: readonly ItemSize[];
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
  /** Of each slot, a multiple of 256. */
  readonly slotBytes: number;
  /** Of the one more slot for what is larger than `slotBytes`; 0 if nothing is. */
  readonly largeSlotBytes: number;
  /**
   * Up to which small tensors are packed together. Less than `slotBytes` where one large tensor makes the slots
   * large: that is no reason to move all the others in long, poorly overlapping pieces.
   */
  readonly bucketBytes: number;
  /** {@link MOST_SLOTS} where so many fit; without the large slot. */
  readonly slots: number;
  /** What all slots together may take. */
  readonly budget: number;
}

/**
 * How an update uses device memory. The budget is what the rank with least free memory may use; three slots if the
 * largest tensor fits in a third of it, four if that many of the size fit, two if it fits in half. Tensors far larger
 * than a bucket go through one slot of their own, one after another, if they are few or if memory is short: the largest
 * then takes its own bytes and two buckets.
 *
 * Throws a MemoryError that names the tensor, the rank and the bytes when that does not fit either, and a UsageError
 * for a fraction or a bucket size out of range.
 */
export function chooseMode(needs: MemoryNeeds, supply: MemorySupply): ModeChoice {
  const tightestRank = findTightestRank(supply);
  const budget = Math.floor(tightestRank.freeBytes * supply.fraction);
  for (const [mode, leastSlotBytes] of candidates(needs, supply)) {
    const choice = fit(mode, leastSlotBytes, needs, supply, budget);
    if (choice !== null) return choice;
  }
  throw tooLarge(needs, tightestRank, budget, supply);
}

/** In the order of preference: a mode, and the bytes that each slot has at least. What is larger has a slot of its own. */
function candidates(needs: MemoryNeeds, supply: MemorySupply): [Mode, number][] {
  const wanted = alignUp(supply.bucketBytes);
  const whole = Math.max(alignUp(needs.largest.bytes), ALIGNMENT);
  const isFar = ({ bytes }: ItemSize) => bytes > FAR_ABOVE * wanted;
  const least = leastBucketBytes(supply);
  const ordinary = Math.max(needs.sizes.find((size) => !isFar(size))?.bytes ?? 0, least);
  const farBytes = needs.sizes.filter(isFar).reduce((sum, { bytes, count }) => sum + bytes * count, 0);
  const shortest: [Mode, number] = ['serial', least];
  const apart: [Mode, number][] = [
    ['pipelined', ordinary],
    ['serial', ordinary],
  ];
  const together: [Mode, number][] = [
    ['pipelined', whole],
    ['serial', whole],
  ];
  if (farBytes === 0) return [...together, shortest];
  if (farBytes <= needs.totalBytes * FEW) return [...apart, shortest];
  return [together[0]!, apart[0]!, together[1]!, apart[1]!, shortest];
}

/**
 * The bucket size for ranks that ask for at least `wanted`. For more than two, and with memory to spare, it is twice that: each
 * broadcast and each call of an engine worker costs all of them a moment, and vLLM's loader takes 224 µs for a tensor instead
 * of 270 where it gets more of them at once (bench/results/engine-loader.md).
 */
export function usualBucketBytes(
  wanted: number,
  ranks: readonly { readonly freeBytes: number }[],
  fraction: number,
): number {
  const budget = fraction * Math.min(...ranks.map(({ freeBytes }) => freeBytes));
  const isAmple = budget >= 2 * MOST_SLOTS * (2 * wanted);
  return ranks.length > 2 && isAmple ? 2 * wanted : wanted;
}

function leastBucketBytes({ bucketBytes }: MemorySupply): number {
  return Math.min(alignUp(bucketBytes), LEAST_BUCKET_BYTES);
}

/** Null where it does not fit into the budget. */
function fit(
  mode: Mode,
  leastSlotBytes: number,
  { largest, totalBytes }: MemoryNeeds,
  { bucketBytes: requested, ranks }: MemorySupply,
  budget: number,
): ModeChoice | null {
  const largestBytes = Math.max(alignUp(largest.bytes), ALIGNMENT);
  const isApart = largestBytes > leastSlotBytes;
  const left = isApart ? budget - largestBytes : budget;
  const slotLimit = alignDown(left / SLOTS[mode]);
  if (slotLimit < leastSlotBytes) return null;
  const bucketBytes = Math.min(alignUp(requested), slotLimit, Math.max(totalBytes, ALIGNMENT));
  const slotBytes = Math.max(bucketBytes, leastSlotBytes);
  const largeSlotBytes = largestBytes > slotBytes ? largestBytes : 0;
  const takesTurns = mode === 'pipelined' && ranks.length > 1;
  const isAmple = takesTurns && slotBytes * MOST_SLOTS <= left;
  const slots = isAmple ? MOST_SLOTS : SLOTS[mode];
  return { mode, bucketBytes, slotBytes, largeSlotBytes, budget, slots };
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
  supply: MemorySupply,
): MemoryError {
  const names = tensors.map((name) => quoted(name)).join(', ');
  const what =
    tensors.length === 1 ? `tensor ${names} takes` : `tensors ${names}, which share a bucket, take`;
  const largest = Math.max(alignUp(bytes), ALIGNMENT);
  const least = Math.min(largest * SLOTS.serial, largest + leastBucketBytes(supply) * SLOTS.serial);
  return new MemoryError(
    `${what} ${formatExactBytes(bytes)}, and an update needs at least ` +
      `${formatExactBytes(least)} for that and the others; rank ${rank} has ${formatExactBytes(freeBytes)} of free device memory, ` +
      `of which an update may take ${formatExactBytes(budget)}`,
  );
}
