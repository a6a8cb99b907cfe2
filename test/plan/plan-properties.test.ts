import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { layoutDigests, type Manifest } from '../../src/checkpoint/manifest.ts';
import { planUpdate, planWithNeeds } from '../../src/plan/buckets.ts';
import type { ModeChoice } from '../../src/plan/memory-budget.ts';
import {
  bucketCount,
  bucketTensors,
  linkSlotCount,
  type Plan,
  stagingSlotCount,
} from '../../src/plan/plan.ts';
import { checkProperty } from '../check-property.ts';
import { type Cluster, clusters, manifestOf, segmentOf } from './manifests.ts';

interface Planned extends Cluster {
  readonly plan: Plan;
  readonly choice: ModeChoice;
}

const bucketSizes = fc.integer({ min: 1, max: 300_000 });
const supplies = fc.record({ fraction: fc.constantFrom(0.5, 0.9, 1), bucketBytes: bucketSizes });

/** Checks a property of the plans of any clusters, with bucket sizes from a few tensors to all of them. */
function forPlans(property: (planned: Planned) => void): void {
  checkProperty(
    fc.property(clusters, supplies, ({ manifest, ranks }, spending) => {
      const { plan, choice } = planWithNeeds({ manifest, ranks, ...spending });
      property({ manifest, ranks, plan, choice });
    }),
    200,
  );
}

const hostOfRow = (manifest: Manifest, row: number) => manifest.segments[manifest.segmentOf[row]!]!.host;

function buckets(plan: Plan) {
  return Array.from({ length: bucketCount(plan) }, (_, bucket) => ({
    owner: plan.owners[bucket]!,
    bytes: plan.bucketBytes[bucket]!,
    ...bucketTensors(plan, bucket),
  }));
}

test('every tensor of the manifest is in exactly one bucket, those without bytes too', () => {
  forPlans(({ plan, manifest }) => {
    const rows = [...plan.tensorOrder].sort((a, b) => a - b);
    assert.deepEqual(
      rows,
      manifest.names.map((_, row) => row),
    );
    assert.equal(plan.tensorStarts[0], 0);
    assert.equal(plan.tensorStarts.at(-1), rows.length);
  });
});

test('tensors of a bucket are aligned, do not overlap, and end within the bucket, which fits in a slot', () => {
  forPlans(({ plan, manifest }) => {
    assert.equal(plan.slotBytes % 256, 0);
    for (const { rows, offsets, bytes } of buckets(plan)) {
      let end = 0;
      for (const [index, row] of rows.entries()) {
        assert.equal(offsets[index]! % 256, 0);
        assert.ok(offsets[index]! >= end);
        end = Math.max(end, offsets[index]! + manifest.bytes[row]!);
        assert.ok(offsets[index]! <= Math.max(plan.slotBytes, plan.largeSlotBytes));
      }
      assert.ok(manifest.bytes[rows.at(-1)!] === 0 || end === bytes);
      assert.ok(bytes <= Math.max(plan.slotBytes, plan.largeSlotBytes));
    }
  });
});

/** Those with bytes that the rank loaded. */
function bucketsOf(plan: Plan, manifest: Manifest, rank: number) {
  const isOwn = (row: number) =>
    manifest.bytes[row]! > 0 && manifest.segments[manifest.segmentOf[row]!]!.rank === rank;
  return buckets(plan).filter(({ rows }) => rows.some(isOwn));
}

/** Bytes of the tensors of a rank's segment, rounded up to the alignment, in the order in which they lie there. */
function weightsOf(manifest: Manifest, rank: number): number[] {
  const rows = manifest.names
    .map((_, row) => row)
    .filter((row) => manifest.segments[manifest.segmentOf[row]!]!.rank === rank && manifest.bytes[row]! > 0);
  rows.sort((a, b) => placeOf(manifest, a) - placeOf(manifest, b));
  return rows.map((row) => Math.ceil(manifest.bytes[row]! / 256) * 256);
}

/** As many as are filled one after the other, each as far as it goes; a tensor over the limit has one for itself. */
function fewestBuckets(weights: readonly number[], limit: number): number {
  let count = 0;
  let room = 0;
  for (const weight of weights) {
    if (weight > room) {
      count += 1;
      room = limit;
    }
    room = Math.max(room - weight, 0);
  }
  return count;
}

test('what a rank loaded goes into as few buckets as the limit allows', () => {
  forPlans(({ plan, manifest, choice }) => {
    for (const { rank } of manifest.segments) {
      const own = bucketsOf(plan, manifest, rank);
      assert.equal(own.length, fewestBuckets(weightsOf(manifest, rank), choice.bucketBytes));
    }
  });
});

test('of what a rank loaded no bucket is larger than their average and one tensor', () => {
  forPlans(({ plan, manifest, choice }) => {
    for (const { rank } of manifest.segments) {
      const weights = weightsOf(manifest, rank);
      const largest = Math.max(0, ...weights);
      if (largest > choice.bucketBytes) continue;
      const own = bucketsOf(plan, manifest, rank);
      const average = weights.reduce((sum, weight) => sum + weight, 0) / own.length;
      for (const { bytes } of own) assert.ok(bytes <= average + largest);
    }
  });
});

const placeOf = (manifest: Manifest, row: number) =>
  manifest.segmentOf[row]! * 2 ** 41 + manifest.offsets[row]!;

test('within a bucket tensors are in the order in which they lie in the segments', () => {
  forPlans(({ plan, manifest }) => {
    for (const { rows } of buckets(plan)) {
      const places = Array.from(rows, (row) => placeOf(manifest, row));
      assert.deepEqual(
        places,
        [...places].sort((a, b) => a - b),
      );
    }
  });
});

test('the owner of a bucket is on the host that holds its tensors', () => {
  forPlans(({ plan, manifest, ranks }) => {
    const hostOf = new Map(ranks.map(({ rank, host }) => [rank, host]));
    for (const { owner, rows } of buckets(plan)) {
      for (const row of rows) assert.equal(hostOfRow(manifest, row), hostOf.get(owner));
    }
  });
});

test('the ranks of a host upload evenly by bytes: none more than the average and one bucket', () => {
  forPlans(({ plan, manifest, ranks }) => {
    for (const host of new Set(ranks.map((rank) => rank.host))) {
      const own = buckets(plan).filter(({ rows }) => hostOfRow(manifest, rows[0]!) === host);
      const members = ranks.filter((rank) => rank.host === host);
      const total = own.reduce((sum, { bytes }) => sum + bytes, 0);
      const largest = Math.max(0, ...own.map(({ bytes }) => bytes));
      for (const { rank } of members) {
        const load = own.filter(({ owner }) => owner === rank).reduce((sum, { bytes }) => sum + bytes, 0);
        assert.ok(load <= total / members.length + largest, `rank ${rank} uploads ${load} of ${total}`);
      }
    }
  });
});

test('buckets go round-robin: between two of one owner, every owner that has some left has exactly one', () => {
  forPlans(({ plan }) => {
    const left = new Map<number, number>();
    for (const owner of plan.owners) left.set(owner, (left.get(owner) ?? 0) + 1);
    let position = 0;
    while (position < plan.owners.length) {
      const round = [...left.keys()].filter((owner) => left.get(owner)! > 0).sort((a, b) => a - b);
      const owners = [...plan.owners.subarray(position, position + round.length)];
      assert.deepEqual(
        owners.sort((a, b) => a - b),
        round,
      );
      for (const owner of round) left.set(owner, left.get(owner)! - 1);
      position += round.length;
    }
  });
});

test('the same input gives the same plan, in whatever order the ranks are given', () => {
  checkProperty(
    fc.property(clusters, bucketSizes, ({ manifest, ranks }, bucketBytes) => {
      const ascending = [...ranks].sort((one, other) => one.rank - other.rank);
      const plan = planUpdate({ manifest, ranks, fraction: 1, bucketBytes });
      assert.deepEqual(planUpdate({ manifest, ranks: ascending, fraction: 1, bucketBytes }), plan);
      assert.deepEqual(
        [...plan.ranks],
        ascending.map(({ rank }) => rank),
      );
      assert.equal(plan.layout, layoutDigests(manifest).lasting);
    }),
    200,
  );
});

test('the digest names the plan: it changes with the bucket size and with the ranks', () => {
  const manifest = manifestOf(
    [0, 1, 2].map((row) => ({ name: `t${row}`, bytes: 1000, segment: 0, offset: row * 1024 })),
    [segmentOf(0, 'a')],
  );
  const ranks = [0, 1].map((rank) => ({ rank, host: 'a', freeBytes: 2 ** 20 }));
  const digests = [
    planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 4096 }),
    planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 1024 }),
    planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 2048 }),
    planUpdate({ manifest, ranks: ranks.slice(0, 1), fraction: 1, bucketBytes: 4096 }),
    planUpdate({ manifest, ranks: ranks.slice(1), fraction: 1, bucketBytes: 4096 }),
  ].map(({ digest }) => digest);
  assert.equal(new Set(digests).size, digests.length);
});

test('one large tensor has a slot of its own, and makes neither slots nor the other buckets large', () => {
  const rows = Array.from({ length: 401 }, (_, row) => ({
    name: `t${row}`,
    bytes: row === 400 ? 10_000_000 : 100_000,
    segment: 0,
    offset: row * 131_072,
  }));
  const manifest = manifestOf(rows, [segmentOf(0, 'a')]);
  const ranks = [{ rank: 0, host: 'a', freeBytes: 10 ** 9 }];
  const plan = planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 800_000 });
  assert.equal(plan.slotBytes, 800_000);
  assert.equal(plan.largeSlotBytes, 10_000_128);
  assert.equal(plan.bucketBytes.filter((bytes) => bytes > 800_000).length, 1);
  assert.equal(bucketCount(plan), 59);
});

test('a rank takes the slots of its mode, but no link slot that would never hold a bucket', () => {
  forPlans(({ plan, choice }) => {
    const link = linkSlotCount(plan);
    assert.ok(link >= 1 && link <= Math.max(bucketCount(plan), 1));
    assert.ok(link + stagingSlotCount(plan) <= choice.slots);
    if (bucketCount(plan) >= choice.slots) assert.equal(link + stagingSlotCount(plan), choice.slots);
  });
});
