import assert from 'node:assert/strict';
import { test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { startBench } from './harness.ts';

test('an engine with a draft model receives the checkpoint twice in every update', async (t) => {
  const draftModel = { exists: true, isDeclared: true };
  const { engine, cluster, makeModel } = await startBench(t, { ranks: 2, draftModel });
  for (const seed of [2, 3]) {
    const model = await makeModel(seed);
    await cluster.register('v', model);
    const report = await cluster.update('v', { bucketBytes: 2 ** 20 });
    assert.ok(allArrived(report));
    for (const { reload } of report.timelines) assert.equal(reload.length, 2 * 3 * report.buckets);
    await verifyWeights(engine.endpoint, await openCheckpoint(model));
  }
  const [instance] = (await cluster.status()).instances;
  assert.equal(instance?.state, 'serving');
});

test('an undeclared draft model fails the update before its deadline', async (t) => {
  const draftModel = { exists: true, isDeclared: false };
  const { cluster, makeModel } = await startBench(t, { ranks: 1, draftModel });
  await cluster.register('v', await makeModel(2));
  await assert.rejects(cluster.update('v', { timeoutMilliseconds: 1_500 }), (error: Error) => {
    return ['EngineError', 'DeadlineError', 'WorkerLinkError'].includes(error.name);
  });
  assert.equal((await cluster.status()).instances[0]?.state, 'broken');
});
