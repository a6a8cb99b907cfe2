import assert from 'node:assert/strict';
import { test } from 'node:test';
import { contiguousShares } from '../../src/plan/contiguous-shares.ts';
import { forSeeds, type SeededRandom } from './seeded-random.ts';

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

function randomWeights(random: SeededRandom): Float64Array {
  const largest = random.pick([1, 10, 1e6, 2 ** 45]);
  return Float64Array.from({ length: random.whole(0, 12) }, () =>
    random.chance(0.2) ? 0 : random.whole(1, largest),
  );
}

test('no contiguous cut has a smaller largest share', () => {
  forSeeds(500, (random) => {
    const weights = randomWeights(random);
    const shares = random.whole(1, 6);
    const starts = contiguousShares(weights, shares);
    assert.equal(Math.max(...loads(weights, starts)), bestLargest(weights, shares));
  });
});

test('shares are contiguous and hold every item once', () => {
  forSeeds(500, (random) => {
    const weights = randomWeights(random);
    const starts = contiguousShares(weights, random.whole(1, 20));
    assert.equal(starts[0], 0);
    assert.equal(starts.at(-1), weights.length);
    assert.deepEqual(
      [...starts],
      [...starts].sort((a, b) => a - b),
    );
  });
});

test('the largest share is at most the average and one item', () => {
  forSeeds(200, (random) => {
    const weights = Float64Array.from({ length: random.whole(1, 500) }, () => random.whole(0, 1000));
    const shares = random.whole(1, 40);
    const largest = Math.max(...loads(weights, contiguousShares(weights, shares)));
    assert.ok(largest <= sum(weights) / shares + Math.max(...weights));
  });
});

test('equal items are shared equally, not filled up from the front', () => {
  assert.deepEqual(contiguousShares(new Float64Array(10).fill(1), 4), Uint32Array.of(0, 3, 5, 8, 10));
  assert.deepEqual(
    contiguousShares(new Float64Array(8).fill(5), 8),
    Uint32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8),
  );
});
