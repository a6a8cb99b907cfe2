import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bucketBytes, type Fixture, versionsOf, withCluster } from './harness.ts';

/** Breaks engine-1 in an update to `a` that heals it later. */
async function leaveBehind({ cluster, world, user, spares, until }: Fixture): Promise<void> {
  const update = user.update('a', { bucketBytes, heal: true });
  await until('engine-1 receives', () => world.engines[1]!.isBroken);
  cluster.ranks.get(2)!.kill();
  await spares(update, 'engine-1', 'WEIGHTCAST_PEER_LOST', /^rank 2 died/);
}

test('an instance whose rank died is brought to the version of the others when the rank is back', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, status, ready, wait } = fixture;
    await leaveBehind(fixture);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    assert.ok(world.engines[1]!.isPaused);
    await ready();
    await wait(20_000);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    assert.ok(world.engines.every(({ isPaused }) => !isPaused));
  });
});

test('an instance whose engine died is brought to it when the engine is back, however long that takes', async () => {
  await withCluster({}, async ({ cluster, world, user, spares, status, wait }) => {
    world.engines[1]!.workers[0]!.nextLoad = 'die';
    await spares(user.update('a', { bucketBytes, heal: true }), 'engine-1', /./, /SIM-2/);
    await wait(600_000);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    world.engines[1]!.restart();
    await wait(200_000);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    assert.equal(cluster.supervisor.timers, 0);
  });
});

test('the next update takes over from healing, also in the middle of it', async () => {
  await withCluster({}, async (fixture) => {
    const { cluster, world, user, succeeds, status, until, wait } = fixture;
    await succeeds(user.register('b', '/models/b'));
    await leaveBehind(fixture);
    const brokenAt = world.engines[1]!.touchedAt;
    await until('engine-1 is being healed', () => world.engines[1]!.touchedAt > brokenAt);
    await succeeds(user.update('b'));
    await wait(100_000);
    assert.deepEqual(versionsOf(await status()), ['b', 'b']);
    assert.equal(cluster.supervisor.timers, 0);
  });
});

test('healing keeps nobody from replacing the checkpoint, or from removing the instance', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, spares, status, wait }) => {
    const leaveEngine1 = async () => {
      world.engines[1]!.workers[0]!.nextLoad = 'die';
      await spares(user.update('a', { bucketBytes, heal: true }), 'engine-1', /./, /./);
      await wait(1_500);
    };
    await leaveEngine1();
    await succeeds(user.register('a', '/models/b'));
    world.engines[1]!.restart();
    await wait(100_000);
    assert.deepEqual(versionsOf(await status()), ['a', null]);

    await leaveEngine1();
    await succeeds(user.removeInstance('engine-1'));
    await wait(100_000);
    assert.deepEqual(versionsOf(await status()), ['a']);
    assert.equal(cluster.supervisor.timers, 0);
    world.engines[1]!.restart();
  });
});
