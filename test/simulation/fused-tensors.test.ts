import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { withCluster } from './harness.ts';

const tensorBytes = 4 * 2 ** 20;
/** Sixteen tensors of 4 MiB, four for each of four ranks: with modules of three, pairs lie across ranks and hosts. */
const modules = ['kv_a_proj_with_mqa', 'o_proj', 'q_a_proj'];
const model = Array.from({ length: 16 }, (_, row) => ({
  name: `layers.${Math.floor(row / 3)}.${modules[row % 3]}.weight`,
  dtype: 'BF16',
  shape: [tensorBytes / 2],
}));
const world = {
  instances: [[0, 1, 2, 3]],
  ranksPerHost: 2,
  checkpoints: ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false)),
};

for (const reach of ['cluster', 'host'] as const) {
  test(`an instance over two hosts gets both halves of a pair in one call (broadcasts reach the ${reach})`, async () => {
    await withCluster({ ...world, reach }, async ({ user, succeeds }) => {
      for (const keepCopy of [true, true, false]) {
        const report = await succeeds(user.update('a', { bucketBytes: tensorBytes, keepCopy }));
        assert.ok(allArrived(report));
      }
    });
  });
}

test('modules that the caller names share a bucket too', async () => {
  await withCluster({ ...world, ranksPerHost: 4 }, async ({ user, succeeds }) => {
    const bucketsWith = async (fusedModules?: string[][]) =>
      (await succeeds(user.update('a', { bucketBytes: tensorBytes, ...(fusedModules && { fusedModules }) })))
        .buckets;
    // Of five whole layers two of three tensors are fused, or all three; one tensor is left.
    assert.equal(await bucketsWith(), 11);
    assert.equal(await bucketsWith([['o_proj', 'q_a_proj']]), 6);
  });
});
