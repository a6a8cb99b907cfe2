import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryError, UsageError } from '../../src/errors.ts';
import { alignUp } from '../../src/plan/alignment.ts';
import { chooseMode } from '../../src/plan/memory-budget.ts';

const usualBucketBytes = 32 * 2 ** 20;

/** Of a checkpoint with so many tensors of that size, and small ones. */
const needs = (bytes: number, totalBytes = 2 ** 40, count = 1) => ({
  largest: { tensors: ['lm_head.weight'], bytes },
  totalBytes,
  sizes: [
    { bytes: alignUp(bytes), count },
    { bytes: 256, count: 1 },
  ],
});
const supply = (freeBytes: number, bucketBytes = usualBucketBytes, fraction = 1) => ({
  ranks: [
    { rank: 4, freeBytes: freeBytes * 2 },
    { rank: 7, freeBytes },
    { rank: 9, freeBytes: freeBytes + 1 },
  ],
  fraction,
  bucketBytes,
});

test('the largest tensor at a third of the budget is still pipelined, one step more is serial', () => {
  assert.equal(chooseMode(needs(2560), supply(3 * 2560)).mode, 'pipelined');
  assert.equal(chooseMode(needs(2560), supply(3 * 2560 - 1)).mode, 'serial');
  assert.equal(chooseMode(needs(2561), supply(3 * 2560)).mode, 'serial', 'it is aligned up');
});

test('the largest tensor at half of the budget is still serial, one step more is a MemoryError', () => {
  assert.equal(chooseMode(needs(2560), supply(2 * 2560)).mode, 'serial');
  assert.throws(() => chooseMode(needs(2560), supply(2 * 2560 - 1)), MemoryError);
});

test('a MemoryError names the tensor, its bytes, the rank with least free memory and how much that is, in one line', () => {
  assert.throws(
    () => chooseMode(needs(3 * 2 ** 30), supply(3 * 2 ** 30, undefined, 0.9)),
    (error) => {
      assert.ok(error instanceof MemoryError);
      assert.equal(error.exitCode, 2);
      assert.doesNotMatch(error.message, /\n/);
      for (const part of [
        '"lm_head.weight"',
        '3 GiB (3221225472 bytes)',
        'rank 7',
        '2.7 GiB (2899102924 bytes)',
      ]) {
        assert.ok(error.message.includes(part), `"${error.message}" has ${part}`);
      }
      return true;
    },
  );
});

test('only the given fraction of free memory is used', () => {
  assert.equal(chooseMode(needs(2560), supply(6 * 2560, undefined, 0.5)).mode, 'pipelined');
  assert.equal(chooseMode(needs(2560), supply(6 * 2560, undefined, 0.49)).mode, 'serial');
});

test('with plenty of memory a slot is of the size asked for, or the largest tensor', () => {
  assert.equal(chooseMode(needs(1000), supply(2 ** 40)).slotBytes, usualBucketBytes);
  const larger = chooseMode(needs(2 * usualBucketBytes - 1), supply(2 ** 40));
  assert.equal(larger.slotBytes, 2 * usualBucketBytes);
  assert.equal(larger.largeSlotBytes, 0);
  assert.equal(larger.bucketBytes, usualBucketBytes);
});

test('a tensor far larger than a bucket has a slot of its own, and the others are as without it', () => {
  const choice = chooseMode(needs(2 ** 30 + 1), supply(2 ** 40));
  assert.deepEqual(
    [choice.mode, choice.slots, choice.slotBytes, choice.largeSlotBytes],
    ['pipelined', 4, usualBucketBytes, 2 ** 30 + 256],
  );
});

test('where most bytes are in large tensors these are pipelined while memory lasts', () => {
  const most = needs(2 ** 30, 100 * 2 ** 30, 100);
  const choose = (budget: number) => {
    const { mode, slotBytes, largeSlotBytes } = chooseMode(most, supply(budget));
    return { mode, slotBytes, largeSlotBytes };
  };
  const apart = { slotBytes: usualBucketBytes, largeSlotBytes: 2 ** 30 };
  assert.deepEqual(choose(3 * 2 ** 30), { mode: 'pipelined', slotBytes: 2 ** 30, largeSlotBytes: 0 });
  assert.deepEqual(choose(3 * 2 ** 30 - 1), { mode: 'pipelined', ...apart });
  assert.deepEqual(choose(2 ** 30 + 3 * 2 ** 20), {
    mode: 'pipelined',
    slotBytes: 2 ** 20,
    largeSlotBytes: 2 ** 30,
  });
});

test('a large tensor needs its own bytes and two buckets, and one byte less is a MemoryError that says so', () => {
  const least = 2 ** 30 + 2 * 2 ** 20;
  const { mode, slots, slotBytes, largeSlotBytes } = chooseMode(needs(2 ** 30), supply(least));
  assert.deepEqual([mode, slots, slotBytes, largeSlotBytes], ['serial', 2, 2 ** 20, 2 ** 30]);
  assert.throws(
    () => chooseMode(needs(2 ** 30), supply(least - 1)),
    (error) => error instanceof MemoryError && error.message.includes(`(${least} bytes)`),
  );
});

test('ranks that take turns get a fourth slot where it fits, a rank that is alone never', () => {
  const slotsOf = (free: number, ranks: number) => {
    const members = Array.from({ length: ranks }, (_, rank) => ({ rank, freeBytes: free }));
    return chooseMode(needs(2560), { ...supply(free, 2560), ranks: members }).slots;
  };
  assert.equal(slotsOf(4 * 2560, 2), 4);
  assert.equal(slotsOf(4 * 2560 - 1, 2), 3);
  assert.equal(slotsOf(2 ** 40, 1), 3);
  assert.equal(slotsOf(2 * 2560, 2), 2);
});

test('a requested bucket size is taken, aligned up', () => {
  assert.equal(chooseMode(needs(1000), supply(2 ** 40, 2 ** 30)).slotBytes, 2 ** 30);
  assert.equal(chooseMode(needs(1000), supply(2 ** 40, 5000)).slotBytes, 5120);
});

test('a bucket size that does not fit shrinks to what does, in the same mode', () => {
  const choice = chooseMode(needs(1000), supply(3 * 10_000, 2 ** 30));
  assert.deepEqual([choice.mode, choice.slotBytes, choice.bucketBytes], ['pipelined', 9984, 9984]);
});

test('slots never shrink below the largest tensor, but for one that has its own', () => {
  assert.equal(chooseMode(needs(100_000), supply(2 ** 30, 60_000)).slotBytes, 100_096);
});

test('slots are no larger than the checkpoint needs, and never empty', () => {
  assert.equal(chooseMode(needs(1000, 4096), supply(2 ** 40)).slotBytes, 4096);
  assert.equal(chooseMode(needs(0, 0), supply(2 ** 40)).slotBytes, 256);
});

test('all slots together stay within the budget', () => {
  for (let free = 600; free < 60_000; free += 97) {
    const { mode, slots, slotBytes, largeSlotBytes, bucketBytes } = chooseMode(
      needs(200),
      supply(free, 15_000),
    );
    assert.ok(slotBytes * slots + largeSlotBytes <= free);
    assert.ok(mode === 'serial' ? slots === 2 : slots >= 3);
    assert.ok(bucketBytes <= slotBytes && slotBytes % 256 === 0);
  }
});

test('a fraction or a bucket size out of range is a UsageError', () => {
  for (const fraction of [0, -1, 1.1, Number.NaN]) {
    assert.throws(() => chooseMode(needs(1), supply(2 ** 20, undefined, fraction)), UsageError);
  }
  for (const bucketBytes of [0, -5, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => chooseMode(needs(1), supply(2 ** 20, bucketBytes)), UsageError);
  }
});
