import assert from 'node:assert/strict';
import { test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { withFleet } from './fleet.ts';
import { eventually, isRunning } from './harness.ts';

test('an instance joins, is updated alone and leaves, without effect on the other', async () => {
  await withFleet({ instances: { a: [0, 1] } }, async ({ cluster, engines, join, makeModel }) => {
    const [one, two] = [await makeModel(2), await makeModel(3)];
    await cluster.register('one', one);
    await cluster.update('one');
    await join('b', [2, 3]);
    const report = await cluster.update('one', { instances: ['b'] });
    assert.equal(report.ranks, 2);
    await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(one));

    await cluster.register('two', two);
    await cluster.update('two', { instances: ['b'] });
    await verifyWeights(engines.get('a')!.endpoint, await openCheckpoint(one));
    await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(two));
    const versions = (await cluster.status()).instances.map(({ name, version }) => [
      name,
      version?.checkpoint,
    ]);
    assert.deepEqual(versions, [
      ['a', 'one'],
      ['b', 'two'],
    ]);

    await cluster.removeInstance('b');
    const { ranks, instances } = await cluster.status();
    assert.deepEqual([ranks.map(({ rank }) => rank), instances.map(({ name }) => name)], [[0, 1], ['a']]);
    await cluster.update('two');
    await verifyWeights(engines.get('a')!.endpoint, await openCheckpoint(two));
  });
});

test('two instances, of which one dies in the end', async (t) => {
  await withFleet({ instances: { a: [0], b: [1] } }, async ({ cluster, engines, startEngine, makeModel }) => {
    await t.test('an invalid instance is refused by name, and changes nothing', async () => {
      const { endpoint } = engines.get('a')!;
      const refused = (instance: Parameters<typeof cluster.addInstance>[0], message: RegExp) =>
        assert.rejects(cluster.addInstance(instance), { name: 'UsageError', message });
      await refused({ name: 'a', endpoint, ranks: [2] }, /instance a already/);
      await refused({ name: 'c', endpoint, ranks: [0] }, /rank 0 is in the cluster already/);
      await refused(
        { name: 'c', endpoint, ranks: [2], host: 'nowhere' },
        /host nowhere, which the option hosts does not have/,
      );
      await refused(
        { name: 'c', endpoint: 'http://127.0.0.1:1/v1', ranks: [2] },
        /invalid endpoint "http:.*v1"/,
      );
      await assert.rejects(cluster.removeInstance('c'), /the cluster has no instance c/);
      assert.equal((await cluster.status()).instances.length, 2);
    });

    await t.test('different instances are updated at the same time; the same one is busy', async () => {
      const [one, two] = [await makeModel(2), await makeModel(3)];
      await cluster.register('one', one);
      await cluster.register('two', two);
      const updates = [
        cluster.update('one', { instances: ['a'] }),
        cluster.update('two', { instances: ['b'] }),
        cluster.update('two', { instances: ['b'] }),
      ];
      const outcomes = await Promise.allSettled(updates);
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ['fulfilled', 'fulfilled', 'rejected'],
      );
      assert.match(String((outcomes[2] as PromiseRejectedResult).reason), /busy updating b to two/);
      await verifyWeights(engines.get('a')!.endpoint, await openCheckpoint(one));
      await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(two));
    });

    await t.test(
      'a rank that dies in the middle of an update breaks its instance, and no other one',
      async () => {
        const model = await makeModel(4);
        await cluster.register('four', model);
        const worker = engines.get('b')!.pids[1]!;
        process.kill(worker, 'SIGSTOP');
        const update = cluster.update('four');
        await eventually('b is being updated', async () => {
          return (await cluster.status()).instances[1]!.state === 'updating';
        });
        process.kill((await cluster.status()).ranks[1]!.pid!, 'SIGKILL');
        process.kill(worker, 'SIGCONT');
        const report = await update;
        assert.deepEqual(
          report.instances.map(({ name, outcome, error }) => [name, outcome, error?.code]),
          [
            ['a', 'updated', undefined],
            ['b', 'broken', 'WEIGHTCAST_PEER_LOST'],
          ],
        );
        await verifyWeights(engines.get('a')!.endpoint, await openCheckpoint(model));
        await eventually('the rank is ready again', async () => {
          return (await cluster.status()).ranks.every(({ state }) => state === 'ready');
        });
        await cluster.update('four');
        await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(model));
      },
    );

    await t.test('an instance that dies, engine and ranks, takes nothing with it', async () => {
      const model = await makeModel(2);
      await cluster.register('one', model);
      const { ranks } = await cluster.status();
      const { pids } = engines.get('b')!;
      for (const pid of pids) process.kill(pid, 'SIGKILL');
      await eventually('the engine is gone', () => !pids.some(isRunning));
      process.kill(ranks[1]!.pid!, 'SIGKILL');
      await assert.rejects(
        cluster.update('one', { instances: ['b'] }),
        /instance b|rank 1 (died|is not ready)/,
      );
      await cluster.update('one', { instances: ['a'] });
      await verifyWeights(engines.get('a')!.endpoint, await openCheckpoint(model));

      await cluster.addInstance(await startEngine('c', [2]));
      await cluster.removeInstance('b');
      const report = await cluster.update('one');
      assert.equal(report.ranks, 2);
      await cluster.register('two', model);
    });
  });
});
