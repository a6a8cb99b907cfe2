import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryError, UsageError } from '../../src/errors.ts';
import { chooseMode } from '../../src/plan/memory-budget.ts';

const usualBucketBytes = 32 * 2 ** 20;

const needs = (bytes: number, totalBytes = 2 ** 40) => ({
  largest: { tensors: ['lm_head.weight'], bytes },
  totalBytes,
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
    () => chooseMode(needs(3 * 2 ** 30), supply(5 * 2 ** 30, undefined, 0.9)),
    (error) => {
      assert.ok(error instanceof MemoryError);
      assert.equal(error.exitCode, 2);
      assert.doesNotMatch(error.message, /\n/);
      for (const part of [
        '"lm_head.weight"',
        '3 GiB (3221225472 bytes)',
        'rank 7',
        '5 GiB (5368709120 bytes)',
        '4.5 GiB (4831838208 bytes)',
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
  const large = chooseMode(needs(2 ** 30 + 1), supply(2 ** 40));
  assert.equal(large.slotBytes, 2 ** 30 + 256);
  assert.equal(large.bucketBytes, usualBucketBytes);
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

test('slots never shrink below the largest tensor', () => {
  assert.equal(chooseMode(needs(100_000), supply(2 ** 30, 1024)).slotBytes, 100_096);
});

test('slots are no larger than the checkpoint needs, and never empty', () => {
  assert.equal(chooseMode(needs(1000, 4096), supply(2 ** 40)).slotBytes, 4096);
  assert.equal(chooseMode(needs(0, 0), supply(2 ** 40)).slotBytes, 256);
});

test('all slots together stay within the budget', () => {
  for (let free = 600; free < 60_000; free += 97) {
    const { mode, slots, slotBytes, bucketBytes } = chooseMode(needs(200), supply(free, 15_000));
    assert.ok(slotBytes * slots <= free);
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
