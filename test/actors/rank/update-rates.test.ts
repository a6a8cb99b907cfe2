import assert from 'node:assert/strict';
import { test } from 'node:test';
import { updateRates } from '../../../src/actors/rank/update-rates.ts';
import { noRates, watchedReads } from '../../../src/plan/parts-choice.ts';
import type { Plan } from '../../../src/plan/plan.ts';

const bucketBytes = 32 * 2 ** 20;

function planOf(buckets: number, tensorsEach: number, bytes = bucketBytes) {
  return {
    bucketBytes: new Float64Array(buckets).fill(bytes),
    tensorStarts: Uint32Array.from({ length: buckets + 1 }, (_, bucket) => bucket * tensorsEach),
  } as unknown as Plan;
}

/** One bucket after the other takes so long, and begins as soon as the one before that. */
const spansOf = (durations: readonly number[], ahead = 0) => {
  let now = 0;
  return durations.flatMap((duration, bucket) => {
    const startedAt = Math.max(0, now - ahead);
    now += duration;
    return [bucket, startedAt, now];
  });
};

test('a link is as fast as it is while nothing keeps it waiting, and a worker by the time it had something to do', () => {
  const links = spansOf([1, 1, 1, 50, 1, 1, 90, 1]);
  const spans = { h2d: links, broadcast: spansOf(Array(8).fill(4)), reload: spansOf(Array(8).fill(10), 30) };
  const rates = updateRates(spans, planOf(8, 50), false);
  assert.deepEqual(rates, { upload: bucketBytes, broadcast: bucketBytes / 4, tensor: 0.2 });
  assert.equal(updateRates(spans, planOf(8, 50), true).tensor, 0.2 / watchedReads);
});

test('few or small buckets, and few tensors, say nothing', () => {
  const spans = { h2d: spansOf([1, 1, 1]), broadcast: spansOf(Array(8).fill(1)), reload: spansOf([1, 1]) };
  assert.deepEqual(updateRates(spans, planOf(8, 20, 2 ** 20), false), noRates);
});
