/** What a crash of one actor of the supervisor's process costs: what it was doing, and nothing else. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bucketBytes, withCluster } from './harness.ts';

const injected = new Error('an injected crash');

test('a bridge that crashes amid an update fails its engine alone, and works again', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, succeeds, fails, until, status }) => {
    const { system } = cluster.supervisor;
    const bridge = system.names.find((name) => name.endsWith('engine-1'))!;
    const update = user.update('a', { bucketBytes, instances: ['engine-1'] });
    await until('its engine worker receives', () => world.engines[1]!.workers.some(({ isBusy }) => isBusy));
    system.crash(bridge, injected);
    await fails(update, 'WEIGHTCAST_ACTOR_STOPPED', /engine-1 crashed: an injected crash/);
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    await succeeds(user.update('a'));
    assert.ok((await status()).instances.every(({ state }) => state === 'serving'));
  });
});

test('a bridge that crashes again and again is started again for ever', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, wait }) => {
    const { system } = cluster.supervisor;
    const bridge = system.names.find((name) => name.endsWith('engine-0'))!;
    for (let crash = 0; crash < 50; crash += 1) {
      system.crash(bridge, injected);
      await wait(100);
    }
    await wait(10_000);
    await succeeds(user.update('a'));
  });
});

test('a planner that crashes has lost nothing that was registered', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, wait }) => {
    await succeeds(user.register('b', '/models/b'));
    cluster.supervisor.system.crash('supervisor/planner', injected);
    await succeeds(user.update('a'));
    cluster.supervisor.system.crash('supervisor/planner', injected);
    await wait(1);
    await succeeds(user.update('b'));
    await succeeds(user.unregister('a'));
    await succeeds(user.register('a', '/models/a'));
    await succeeds(user.update('a'));
  });
});

test('a swarm that crashes ends the join that is under way, and the next one succeeds', async () => {
  const hosts = { worldSize: 4, ranksPerHost: 2, firstInstances: 1, reach: 'host', linkRate: 1e5 } as const;
  await withCluster(hosts, async ({ cluster, world, user, succeeds, fails, until }) => {
    await succeeds(user.addInstance(cluster.instance(1)));
    const served = () => world.hosts.reduce((sum, host) => sum + world.fabrics.servedBy(host), 0);
    const update = user.update('a', { instances: ['engine-1'] });
    await until('something is read', () => served() > 0);
    cluster.supervisor.system.crash('supervisor/swarm', injected);
    await fails(update, /PEER_LOST|ACTOR_STOPPED/, /swarm/);
    await succeeds(user.update('a', { instances: ['engine-1'] }));
    await succeeds(user.update('a', { instances: ['engine-0'] }));
  });
});
