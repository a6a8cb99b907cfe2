import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { contiguousShares } from '../../src/plan/contiguous-shares.ts';
import { checkProperty } from '../check-property.ts';

const sum = (weights: Iterable<number>) => [...weights].reduce((a, b) => a + b, 0);

function loads(weights: Float64Array, starts: Uint32Array): number[] {
  return Array.from({ length: starts.length - 1 }, (_, share) =>
    sum(weights.subarray(starts[share], starts[share + 1])),
  );
}

/** The smallest largest share, by trying every cut (dynamic programming). */
function bestLargest(weights: Float64Array, shares: number): number {
  let best = Array.from({ length: weights.length + 1 }, (_, end) => sum(weights.subarray(0, end)));
  for (let share = 1; share < shares; share += 1) {
    best = best.map((_, end) => {
      const cuts = Array.from({ length: end + 1 }, (_, cut) =>
        Math.max(best[cut]!, sum(weights.subarray(cut, end))),
      );
      return Math.min(...cuts);
    });
  }
  return best[weights.length]!;
}

/** Of every order of magnitude, and of like items as well as of unlike ones. */
const weightLists = fc
  .oneof(
    ...[1, 10, 1e6, 2 ** 45].map((largest) =>
      fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 1, max: largest })), {
        maxLength: 12,
        size: 'max',
      }),
    ),
  )
  .map((weights) => Float64Array.from(weights));

test('no contiguous cut has a smaller largest share', () => {
  checkProperty(
    fc.property(weightLists, fc.integer({ min: 1, max: 6 }), (weights, shares) => {
      const starts = contiguousShares(weights, shares);
      assert.equal(Math.max(...loads(weights, starts)), bestLargest(weights, shares));
    }),
    500,
  );
});

test('shares are contiguous and hold every item once', () => {
  checkProperty(
    fc.property(weightLists, fc.integer({ min: 1, max: 20 }), (weights, shares) => {
      const starts = contiguousShares(weights, shares);
      assert.equal(starts.length, shares + 1);
      assert.equal(starts[0], 0);
      assert.equal(starts.at(-1), weights.length);
      assert.deepEqual(
        [...starts],
        [...starts].sort((a, b) => a - b),
      );
    }),
    500,
  );
});

test('the largest share is at most the average and one item', () => {
  const many = fc.array(fc.nat(1_000), { minLength: 1, maxLength: 500, size: 'max' });
  checkProperty(
    fc.property(many, fc.integer({ min: 1, max: 40 }), (items, shares) => {
      const weights = Float64Array.from(items);
      const largest = Math.max(...loads(weights, contiguousShares(weights, shares)));
      assert.ok(largest <= sum(weights) / shares + Math.max(...weights));
    }),
  );
});

test('equal items are shared equally, not filled up from the front', () => {
  assert.deepEqual(contiguousShares(new Float64Array(10).fill(1), 4), Uint32Array.of(0, 3, 5, 8, 10));
  assert.deepEqual(
    contiguousShares(new Float64Array(8).fill(5), 8),
    Uint32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8),
  );
});
