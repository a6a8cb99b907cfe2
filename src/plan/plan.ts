import type { Cuts } from '../checkpoint/cuts.ts';
import { MOST_SLOTS, type Mode, SLOTS } from './memory-budget.ts';

/** One is filled while the other is read; serial mode has no others. */
const leastLinkSlots = SLOTS.serial;
export const MOST_STAGING_SLOTS = MOST_SLOTS - leastLinkSlots;
/** Of a rank that is alone in its update, and the one for large buckets. */
export const MOST_LINK_SLOTS = SLOTS.pipelined + 1;

/**
 * Which bucket goes from which owner, in what order, in which mode; in columns, as a manifest. Bucket `b` is the
 * entries `tensorStarts[b] … tensorStarts[b + 1]` of `tensorOrder` and `tensorOffsets`.
 */
export interface Plan {
  /** SHA-256, in hex, of all the rest. */
  readonly digest: string;
  /** Lasting one of `layoutDigests` of the manifest whose rows the plan refers to. */
  readonly layout: string;
  readonly mode: Mode;
  /** How many slots of device memory a rank may allocate; it allocates no more than there are buckets. */
  readonly slots: number;
  /** Of each slot, a multiple of 256. */
  readonly slotBytes: number;
  /** Of one more slot, for the buckets that are larger than `slotBytes`; 0 if none is. A multiple of 256. */
  readonly largeSlotBytes: number;
  /** All ranks that take part, ascending. */
  readonly ranks: Uint32Array;
  /** The rank that uploads each bucket, in the order in which buckets are streamed. */
  readonly owners: Uint32Array;
  /** One entry more than buckets. */
  readonly tensorStarts: Uint32Array;
  /** Rows of the manifest. */
  readonly tensorOrder: Uint32Array;
  /** Which part of each of these tensors is sent, in their order; null: all of all. Only for a rank that is alone. */
  readonly cuts: Cuts | null;
  /** Where each tensor lies in its bucket's slot: multiples of 256. */
  readonly tensorOffsets: Float64Array;
  /** From the start of the slot to the end of the last tensor; 0 only where a host holds no bytes at all. */
  readonly bucketBytes: Float64Array;
}

/** A rank that takes part in an update. */
export interface PlanRank {
  readonly rank: number;
  readonly host: string;
  readonly freeBytes: number;
  /**
   * Its engine worker keeps tensors in the device's memory until their layer is whole: of a layer's experts this share. Null: it
   * keeps none, or nobody knows.
   */
  readonly waiting?: { readonly experts: number } | null;
}

export function bucketCount(plan: Plan): number {
  return plan.owners.length;
}

/**
 * Slots of its own into which an owner uploads its buckets ahead, so that the uploads of several owners overlap. A
 * rank that is alone needs none: it uploads into one link slot while the worker reads another.
 */
export function stagingSlotCount({ mode, slots, ranks }: Plan): number {
  return mode === 'pipelined' && ranks.length > 1 ? slots - leastLinkSlots : 0;
}

/** A large bucket is a tensor, or several that are fused, with a slot of its own: it is not staged. */
export function isLarge({ bucketBytes, slotBytes }: Plan, bucket: number): boolean {
  return bucketBytes[bucket]! > slotBytes;
}

/**
 * Slots that engine workers read from, without the one for large buckets: no more than there are buckets for them, but
 * one even for an empty plan.
 */
export function linkSlotCount(plan: Plan): number {
  const ordinary = [...plan.owners.keys()].filter((bucket) => !isLarge(plan, bucket)).length;
  const least = plan.largeSlotBytes > 0 ? 0 : 1;
  return Math.min(plan.slots - stagingSlotCount(plan), Math.max(ordinary, least));
}

type SlotSizes = Pick<Plan, 'slots' | 'slotBytes' | 'largeSlotBytes'>;

/** Device memory that a rank allocates for all of its slots, at most. */
export function slotMemory({ slots, slotBytes, largeSlotBytes }: SlotSizes): number {
  return slots * slotBytes + largeSlotBytes;
}

/** The manifest rows of one bucket and their offsets in its slot. */
export function bucketTensors(plan: Plan, bucket: number): { rows: Uint32Array; offsets: Float64Array } {
  const [start, end] = [plan.tensorStarts[bucket]!, plan.tensorStarts[bucket + 1]!];
  return { rows: plan.tensorOrder.subarray(start, end), offsets: plan.tensorOffsets.subarray(start, end) };
}
