import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { checkpoints, model, withCluster } from './harness.ts';

/** Paths of all segments on all hosts. */
function segmentsOf({ hosts }: { hosts: readonly { segments: readonly string[] }[] }): string[] {
  return hosts.flatMap(({ segments }) => segments);
}

test('a registration that fails on one rank leaves no segment on any', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, wait }) => {
    const before = segmentsOf(world);
    world.hosts[1]!.loadFailures = 1;
    await fails(user.register('b', '/models/b'), 'WEIGHTCAST_NATIVE', /input\/output error/);
    await wait(100);
    assert.deepEqual(segmentsOf(world), before);
    await succeeds(user.register('b', '/models/b'));
  });
});

test('a registration can be cancelled while ranks load, and the next one can start at once', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, until, wait }) => {
    const before = segmentsOf(world).length;
    const registration = user.register('b', '/models/b');
    await until('ranks load', () => segmentsOf(world).length > before);
    await succeeds(user.cancel('wrong checkpoint'));
    await fails(registration, 'WEIGHTCAST_ABORTED', /wrong checkpoint/);
    await succeeds(user.register('b', '/models/b'));
    await wait(100);
    assert.equal(segmentsOf(world).length, 2 * before);
    assert.ok(allArrived(await succeeds(user.update('b'))));
  });
});

test('segments of a registration that failed by the death of a rank are removed when the rank is back', async () => {
  await withCluster({ ranksPerHost: 1 }, async ({ cluster, world, user, fails, until, wait, ready }) => {
    const before = segmentsOf(world);
    const registration = user.register('b', '/models/b');
    await until('rank 2 loads', () => world.hosts[2]!.segments.length > 1);
    cluster.ranks.get(2)!.kill();
    await fails(registration, 'WEIGHTCAST_PEER_LOST', /rank 2 died/);
    await ready();
    await wait(100);
    assert.deepEqual(segmentsOf(world), before);
  });
});

test('tensors without bytes are loaded like any others', async () => {
  const empty = Array.from({ length: 4 }, (_, at) => ({ name: `empty.${at}`, dtype: 'F32', shape: [0] }));
  const path = '/models/empty';
  const options = {
    checkpoints: [...checkpoints, checkpointAt(path, [...empty, ...model.slice(0, 1)], false)],
  };
  await withCluster({ ...options, worldSize: 2, instances: [[0, 1]] }, async ({ user, succeeds }) => {
    assert.equal((await succeeds(user.register('e', path))).tensors, 5);
    assert.ok(allArrived(await succeeds(user.update('e'))));
  });
});

test('tensors in shared memory are used in place', async () => {
  const shared = checkpointAt('/dev/shm/model.safetensors', model, true);
  await withCluster(
    { checkpoints: [...checkpoints, shared], ranksPerHost: 4 },
    async ({ world, user, succeeds }) => {
      const before = segmentsOf(world);
      await succeeds(user.register('s', shared.path));
      assert.ok(allArrived(await succeeds(user.update('s'))));
      assert.deepEqual(segmentsOf(world), before);
    },
  );
});

test('an update does not wait for a registration whose files are on a file system that hangs', async () => {
  await withCluster({}, async ({ cluster, user, world, succeeds, fails }) => {
    cluster.openMilliseconds = 90_000;
    const registered = user.register('b', '/models/b');
    await cluster.world.clock.advance(1_000);
    const begun = world.clock.now();
    await succeeds(user.update('a'));
    assert.ok(world.clock.now() - begun < 10_000);
    await fails(registered, 'WEIGHTCAST_DEADLINE', /open-files/);
  });
});
