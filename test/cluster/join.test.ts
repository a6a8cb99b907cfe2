import assert from 'node:assert/strict';
import { test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { withFleet } from './fleet.ts';

/** Hosts in name only: ranks of different ones share nothing, and read each other's memory through the fabric. */
const hosts = { b: { launcher: [] }, c: { launcher: [] } };

test('an instance on another host receives the weights from ranks that hold them, and a third from both', async () => {
  await withFleet({ instances: { a: [0, 1] }, hosts }, async ({ cluster, engines, join, makeModel }) => {
    const model = await makeModel(2);
    const { bytes } = await cluster.register('one', model);
    await cluster.update('one');
    await join('b', [2, 3]);
    const report = await cluster.update('one', { instances: ['b'] });
    assert.ok(allArrived(report));
    assert.ok(report.receivedBytes >= bytes, `${report.receivedBytes} of ${bytes} were received`);
    assert.ok(
      report.timelines.some(({ read }) => read.length > 0),
      'the reads are in the timeline',
    );
    await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(model));

    assert.equal(
      (await cluster.update('one', { instances: ['b'] })).receivedBytes,
      0,
      'the host kept a copy',
    );
    await join('c', [4]);
    await cluster.update('one', { instances: ['c'] });
    await verifyWeights(engines.get('c')!.endpoint, await openCheckpoint(model));
    const states = (await cluster.status()).instances.map(({ state, version }) => [
      state,
      version?.checkpoint,
    ]);
    assert.deepEqual(states, Array(3).fill(['serving', 'one']));
  });
});
