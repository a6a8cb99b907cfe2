import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CheckpointError, MemoryError } from '../../src/errors.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { assertPlan } from '../../src/plan/plan-invariants.ts';
import { manifestOf, segmentOf } from './manifests.ts';

const rows = [
  { name: 'near', bytes: 1000, segment: 0, offset: 0 },
  { name: 'far', bytes: 1000, segment: 1, offset: 0 },
];
const manifest = manifestOf(rows, [segmentOf(0, 'here'), segmentOf(1, 'there')]);
/** How much of the memory, and in what pieces. */
const spending = { fraction: 1, bucketBytes: 2 ** 25 };
const here = { rank: 0, host: 'here', freeBytes: 10_000 };
const there = { rank: 1, host: 'there', freeBytes: 10_000 };

test('a tensor on a host where no rank takes part is named, with segment and host', () => {
  assert.throws(
    () => planUpdate({ manifest, ranks: [here], ...spending }),
    (error) =>
      error instanceof CheckpointError && /"far".*"\/dev\/shm\/test\/there\/1".*"there"/.test(error.message),
  );
});

test('too little memory on any rank is a MemoryError', () => {
  const ranks = [here, { ...there, freeBytes: 2000 }];
  assert.throws(() => planUpdate({ manifest, ranks, ...spending }), MemoryError);
});

test('a plan that breaks a promise is caught before it is used', () => {
  const ranks = [here, there];
  const plan = planUpdate({ manifest, ranks, ...spending });
  assertPlan(plan, manifest, ranks, fusedUnits(manifest, []));
  const broken = [
    { ...plan, tensorOrder: Uint32Array.of(0, 0) },
    { ...plan, tensorOrder: Uint32Array.of(0, 2) },
    { ...plan, tensorOrder: Uint32Array.of(0), tensorOffsets: Float64Array.of(0) },
    { ...plan, owners: Uint32Array.of(1, 0) },
    { ...plan, tensorOffsets: Float64Array.of(0, 100) },
    { ...plan, slotBytes: 768 },
    { ...plan, slotBytes: 1000 },
    { ...plan, bucketBytes: Float64Array.of(1000, 999) },
  ];
  for (const [index, wrong] of broken.entries()) {
    assert.throws(
      () => assertPlan(wrong, manifest, ranks, fusedUnits(manifest, [])),
      { name: 'AssertionError' },
      `case ${index}`,
    );
  }
});

test('tensors that overlap in a slot are caught', () => {
  const two = manifestOf([rows[0]!, { ...rows[1]!, segment: 0, offset: 1024 }], [segmentOf(0, 'here')]);
  const plan = planUpdate({ manifest: two, ranks: [here], ...spending });
  assert.deepEqual(plan.tensorOffsets, Float64Array.of(0, 1024));
  const wrong = { ...plan, tensorOffsets: Float64Array.of(0, 768), bucketBytes: Float64Array.of(1768) };
  assert.throws(() => assertPlan(wrong, two, [here], fusedUnits(two, [])), /overlaps/);
});

test('a rank given twice is a mistake of the caller', () => {
  assert.throws(() => planUpdate({ manifest, ranks: [here, here, there], ...spending }), {
    name: 'AssertionError',
  });
});
