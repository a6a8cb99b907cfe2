import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProgressSum } from '../../src/observe/progress-bar.ts';

const report = (rank: number, doneBytes: number) =>
  ({ activity: 'update', rank, doneBytes, totalBytes: 100 }) as const;

test('the total of an update is that of all its ranks before all have reported', () => {
  const sum = new ProgressSum(4);
  assert.deepEqual(sum.add(report(0, 10)), { doneBytes: 10, totalBytes: 400 });
  for (const rank of [1, 2, 3]) sum.add(report(rank, 10));
  assert.deepEqual(sum.add(report(0, 20)), { doneBytes: 50, totalBytes: 400 });
});

test('where it is not known how many will report, the total is of those that have', () => {
  const sum = new ProgressSum();
  assert.deepEqual(sum.add(report(0, 10)), { doneBytes: 10, totalBytes: 100 });
  assert.deepEqual(sum.add(report(1, 10)), { doneBytes: 20, totalBytes: 200 });
});
