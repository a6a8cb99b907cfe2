import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { bucketBytes, versionsOf, withCluster } from './harness.ts';
import { simulate } from './harness-process.ts';

/** 4,096 of them: npm run bench:simulation. */
test('1,024 ranks in one process take an update, and give everything back', async () => {
  const { code, output } = await simulate('--ranks', 1_024, '--buckets', 2);
  assert.equal(code, 0, output);
  assert.match(output, /1024 ranks, 2 buckets, .* of virtual time, arrived/);
});

test('a hundred instances are served by one update', async () => {
  const instances = Array.from({ length: 100 }, (_, number) => [number]);
  const hundred = { worldSize: 100, ranksPerHost: 8, instances, deviceSlowness: 1, isCalm: true };
  await withCluster(hundred, async ({ world, user, succeeds, status }) => {
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.ok(allArrived(report));
    assert.equal(report.ranks, 100);
    assert.ok(report.seconds < 1, `${report.seconds} s of virtual time`);
    assert.deepEqual(new Set(versionsOf(await status())), new Set(['a']));
    assert.equal(new Set(world.engines.map(({ acknowledged }) => acknowledged)).size, 1);
  });
});

test('a hundred instances on hosts of their own receive what they lack in one update', async () => {
  const instances = Array.from({ length: 100 }, (_, number) => [number]);
  const apart = { worldSize: 100, ranksPerHost: 1, instances, reach: 'host', firstInstances: 1 } as const;
  await withCluster(
    { ...apart, deviceSlowness: 1, isCalm: true },
    async ({ cluster, world, user, succeeds }) => {
      const joins = instances.slice(1).map((_, index) => user.addInstance(cluster.instance(index + 1)));
      for (const joined of joins) await succeeds(joined);
      const report = await succeeds(user.update('a', { bucketBytes }));
      assert.ok(allArrived(report));
      const { receivedBytes, bytes } = report;
      assert.equal(receivedBytes, 99 * bytes);
      assert.ok(world.fabrics.servedBy(world.hosts[0]!) < 20 * bytes, 'they give it to each other');
    },
  );
});
