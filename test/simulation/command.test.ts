/** What `npm run simulate` says, and how it ends, when something happened that must not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { failedSeeds, simulate, simulateBroken } from './harness-process.ts';

test('many runs fail with each seed whose run broke an invariant, and how to replay it', async () => {
  const { code, output } = await simulateBroken('--first', 7, '--seeds', 2);
  assert.equal(code, 1, output);
  assert.deepEqual(failedSeeds(output), [7, 8]);
  assert.match(output, /^2 runs, .*: 2 failed$/m);
  assert.match(output, /^ {2}broken on purpose$/m);
});

test('the replay of a run that broke an invariant fails, with what it broke at its end', async () => {
  const { code, output } = await simulateBroken('--seed', 7);
  assert.equal(code, 1, output);
  assert.match(output, /\nseed 7: .* 1 violations .*\n {2}broken on purpose\n$/);
});

test('an update at scale fails if it broke an invariant, however well it ended', async () => {
  const { code, output } = await simulateBroken('--ranks', 8, '--buckets', 1);
  assert.equal(code, 1, output);
  assert.match(output, /^8 ranks, 1 buckets, .* arrived; .*\n {2}broken on purpose$/m);
});

test('a run that broke none ends well', async () => {
  const { code, output } = await simulate('--seed', 7);
  assert.equal(code, 0, output);
  assert.deepEqual(failedSeeds(output), []);
});
