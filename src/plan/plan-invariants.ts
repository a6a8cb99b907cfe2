import assert from 'node:assert/strict';
import { isOnDevice } from '../checkpoint/file-identity.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { ALIGNMENT } from './alignment.ts';
import type { FusedUnits } from './fused-tensors.ts';
import { MOST_SLOTS, SLOTS } from './memory-budget.ts';
import type { Plan, PlanRank } from './plan.ts';

/**
 * The invariants of every plan: each tensor is in exactly one bucket; within a slot tensors are
 * aligned and do not overlap; buckets fit in a slot, or in the large one; a bucket's owner can reach the segments of all its tensors; fused
 * tensors share a bucket.
 * A plan that breaks them would install wrong weights, so each plan is checked before use. Throws AssertionError.
 */
export function assertPlan(
  plan: Plan,
  manifest: Manifest,
  ranks: readonly PlanRank[],
  { units }: FusedUnits,
): void {
  const { mode, owners, tensorStarts, tensorOrder, bucketBytes, slots, slotBytes, largeSlotBytes } = plan;
  const hostOfRank = new Map(ranks.map(({ rank, host }) => [rank, host]));
  assert.equal(hostOfRank.size, ranks.length, 'a rank is given twice');
  assert.equal(slotBytes % ALIGNMENT, 0, 'slots are aligned');
  assert.equal(largeSlotBytes % ALIGNMENT, 0, 'the large slot is aligned');
  assert.ok(slots >= SLOTS[mode] && slots <= MOST_SLOTS, 'a mode has its slots');
  assert.equal(tensorStarts.length, owners.length + 1);
  assert.equal(bucketBytes.length, owners.length);
  assert.equal(tensorOrder.length, manifest.names.length, 'every tensor is planned');
  assert.equal(plan.tensorOffsets.length, tensorOrder.length);
  const bucketOf = new Int32Array(tensorOrder.length).fill(-1);
  for (let bucket = 0; bucket < owners.length; bucket += 1) {
    assertBucket(plan, manifest, bucket, hostOfRank.get(owners[bucket]!), bucketOf);
  }
  for (const rows of units) {
    const isWhole = rows.every((row) => bucketOf[row] === bucketOf[rows[0]!]);
    if (!isWhole) assert.fail(`${manifest.names[rows[0]!]} is not in one bucket with what it is fused with`);
  }
}

function assertBucket(
  plan: Plan,
  manifest: Manifest,
  bucket: number,
  host: string | undefined,
  bucketOf: Int32Array,
): void {
  const { owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes, slotBytes, largeSlotBytes } = plan;
  assert.ok(tensorStarts[bucket]! < tensorStarts[bucket + 1]!, 'a bucket holds a tensor');
  let end = 0;
  for (let entry = tensorStarts[bucket]!; entry < tensorStarts[bucket + 1]!; entry += 1) {
    const row = tensorOrder[entry]!;
    const offset = tensorOffsets[entry]!;
    // Plain comparisons, and messages only made when they fail: this runs for every tensor.
    if (bucketOf[row] !== -1) assert.fail(`row ${row} is planned twice, or is no row`);
    if (offset % ALIGNMENT !== 0 || offset < end) assert.fail(`row ${row} overlaps or is not aligned`);
    const segment = manifest.segments[manifest.segmentOf[row]!]!;
    if (segment.host !== host || (isOnDevice(segment.path) && segment.rank !== owners[bucket]))
      assert.fail(`row ${row} is out of its owner's reach`);
    bucketOf[row] = bucket;
    if (manifest.bytes[row]! > 0) end = offset + manifest.bytes[row]!;
  }
  assert.equal(end, bucketBytes[bucket], 'a bucket ends with its last tensor');
  assert.ok(end <= Math.max(slotBytes, largeSlotBytes), 'a bucket fits in a slot');
}
