import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { bucketBytes, versionsOf, withCluster } from './harness.ts';

test('a rank that dies during an update breaks its own instance, the others are updated, and it restarts', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, spares, until, ready, status }) => {
    const update = user.update('a', { bucketBytes });
    await until('an engine worker receives', () => world.engines[1]!.workers.some(({ isBusy }) => isBusy));
    cluster.ranks.get(2)!.kill();
    const message = /^rank 2 died \(SIGKILL\) while updating to a; instance engine-1 is broken:/;
    await spares(update, 'engine-1', 'WEIGHTCAST_PEER_LOST', message);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    await ready();
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('a rank that dies at any moment before its slots are allocated leaves none allocated on the ranks beside it', async () => {
  for (let delay = 0; delay < 12; delay += 0.5) {
    await withCluster({ seed: 1 + 2 * delay }, async ({ cluster, world, user, wait, until }) => {
      let isOver = false;
      void user.update('a', { bucketBytes }).then(() => {
        isOver = true;
      });
      await wait(delay);
      cluster.ranks.get(2)!.kill();
      await until('the update is over', () => isOver);
      assert.deepEqual(
        world.devices.map(({ used }) => used),
        [0, 0, 0, 0],
        `it died after ${delay} ms`,
      );
    });
  }
});

test('what a dead rank fed is fed by another rank of its host', async () => {
  const onOneHost = { worldSize: 2, ranksPerHost: 2, instances: [[0], [1]] };
  await withCluster(onOneHost, async ({ cluster, world, user, spares, until, status }) => {
    const update = user.update('a', { bucketBytes });
    await until('both engines receive', () => world.engines.every(({ isBroken }) => isBroken));
    cluster.ranks.get(0)!.kill();
    await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', /^rank 0 died/);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
  });
});

test('what only a dead host held is read from it when one of its ranks is back', async () => {
  await withCluster({}, async ({ cluster, world, user, spares, until, status }) => {
    const update = user.update('a', { bucketBytes });
    await until('both engines receive', () => world.engines.every(({ isBroken }) => isBroken));
    for (const rank of [0, 1]) cluster.ranks.get(rank)!.kill();
    const report = await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', /^rank [01] died/);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
    assert.ok(report.seconds < 10);
  });
});

test('instances fail one after the other, and the last one is updated all the same', async () => {
  const three = { worldSize: 3, ranksPerHost: 3, instances: [[0], [1], [2]], pauses: true };
  await withCluster(three, async ({ cluster, world, user, succeeds, until }) => {
    const update = user.update('a', { bucketBytes });
    await until('all engines receive', () => world.engines.every(({ isBroken }) => isBroken));
    const killedAt = world.clock.now();
    cluster.ranks.get(0)!.kill();
    await until('the others begin again', () => world.engines[1]!.touchedAt > killedAt);
    world.engines[1]!.workers[0]!.nextLoad = 'refuse';
    const { instances } = await succeeds(update);
    assert.deepEqual(
      instances.map(({ outcome, paused, error }) => [outcome, paused, error?.code]),
      [
        ['broken', true, 'WEIGHTCAST_PEER_LOST'],
        ['broken', true, 'WEIGHTCAST_WORKER_LINK'],
        ['updated', false, undefined],
      ],
    );
    assert.deepEqual(
      world.engines.map(({ isPaused }) => isPaused),
      [true, true, false],
    );
  });
});

test('an instance whose rank is not back is not updated, and others are', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, fails, spares, wait, ready }) => {
    cluster.ranks.get(2)!.kill();
    await wait(10);
    const message = /^a rank of instance engine-1 is not ready; retry/;
    const report = await spares(user.update('a'), 'engine-1', 'WEIGHTCAST_NOT_READY', message);
    assert.equal(report.instances[1]!.outcome, 'unchanged');
    await ready();
    await succeeds(user.update('a'));
    cluster.ranks.get(2)!.kill();
    await wait(10);
    await fails(user.update('a', { instances: ['engine-1'] }), 'WEIGHTCAST_NOT_READY', /rank 2 is not ready/);
  });
});

test('a rank that dies while the cluster is idle fails no update', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, wait, ready }) => {
    await succeeds(user.update('a'));
    cluster.ranks.get(1)!.kill();
    await wait(10);
    await ready();
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('loaded segments survive the death of their rank', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, wait, ready }) => {
    const loads: string[] = [];
    world.onSent.push(({ envelope }) => {
      if (envelope.kind === 'ask' && (envelope.body as { type: string }).type === 'load') loads.push('load');
    });
    for (const rank of cluster.ranks.values()) rank.kill();
    await wait(10);
    await ready();
    assert.ok(allArrived(await succeeds(user.update('a'))));
    assert.deepEqual(loads, []);
  });
});

for (const first of ['supervisor', 'rank'] as const) {
  test(`a rank whose session is lost is restarted if the ${first} notices first`, async () => {
    await withCluster({}, async ({ cluster, world, user, succeeds, wait, ready }) => {
      const { node } = cluster.ranks.get(3)!;
      const ends = [
        { at: world.supervisorNode, of: node },
        { at: node, of: world.supervisorNode },
      ];
      if (first === 'rank') ends.reverse();
      for (const { at, of } of ends) {
        world.network.endSession(at, of, 'its connection is gone');
        await wait(5_000);
      }
      await wait(1_000);
      await ready();
      assert.notEqual(cluster.ranks.get(3)!.node, node);
      assert.ok(allArrived(await succeeds(user.update('a'))));
    });
  });
}

test('a session lost during an update fails its instance and leaves nothing allocated', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, spares, until, wait, ready }) => {
    const update = user.update('a', { bucketBytes });
    await until('an engine worker receives', () => world.engines[0]!.workers.some(({ isBusy }) => isBusy));
    world.network.endSession(world.supervisorNode, cluster.ranks.get(0)!.node, 'silent for 10000 ms');
    const message = /rank 0 died \(silent for 10000 ms\)|is gone/;
    await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', message);
    await wait(1_000);
    assert.ok(world.devices.every(({ used }) => used === 0));
    await ready();
    await succeeds(user.update('a'));
  });
});

test('an abort that arrives before its open leaves nothing open', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, fails, until }) => {
    const late = cluster.ranks.get(3)!.node;
    world.extraDelay = ({ to, envelope }) => {
      const { type } = (envelope.kind === 'ask' ? envelope.body : {}) as { type?: string };
      return to === late && type === 'open' ? 500 : 0;
    };
    const update = user.update('a', { bucketBytes });
    await until('the others have opened', () => world.links.open === 3);
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    assert.equal(world.links.open, 0);
    world.extraDelay = () => 0;
    await succeeds(user.update('a'));
  });
});

test('a worker link that cannot be bound fails the update and does not end the rank', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, fails }) => {
    const nodes = [...cluster.ranks.values()].map(({ node }) => node);
    world.links.bindFailures = 1;
    await fails(user.update('a', { atomic: true }), 'WEIGHTCAST_WORKER_LINK', /cannot bind a worker link/);
    await succeeds(user.update('a'));
    assert.deepEqual(
      [...cluster.ranks.values()].map(({ node }) => node),
      nodes,
    );
  });
});

test('a rank that keeps dying fails requests with that reason, is started more and more slowly, and heals', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, fails, spares, until, wait }) => {
    for (let death = 0; death < 9; death += 1) {
      await until('rank 1 runs', () => (cluster.ranks.get(1)?.process ?? null) !== null);
      cluster.ranks.get(1)!.kill();
      await wait(10);
    }
    const reason = /^rank 1 has ended 9 times \(SIGKILL\); it is started again in \d\d s$/;
    await fails(user.awaitReady(), 'WEIGHTCAST_PEER_LOST', reason);
    await spares(user.update('a'), 'engine-0', 'WEIGHTCAST_PEER_LOST', reason);
    await fails(user.update('a', { instances: ['engine-0'] }), 'WEIGHTCAST_PEER_LOST', reason);
    await succeeds(user.register('b', '/models/b'));
    await until('rank 1 runs', () => (cluster.ranks.get(1)?.process ?? null) !== null);
    await wait(1_000);
    await succeeds(user.awaitReady());
    await succeeds(user.update('b'));
  });
});

test('a rank that hangs at its start is killed at its deadline, named, and started again', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, fails, until, wait }) => {
    world.startHangs = 2;
    cluster.ranks.get(3)!.kill();
    await wait(10);
    await fails(
      user.awaitReady(),
      'WEIGHTCAST_DEADLINE',
      /^rank 3 was not ready 60 s after its start \(startTimeoutMilliseconds\); it is killed and started again$/,
    );
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    // It hangs once more, and is killed once more.
    await until('it runs', () => (cluster.ranks.get(3)?.hangsAtStart ?? true) === true);
    await wait(80_000);
    await succeeds(user.awaitReady());
    await succeeds(user.update('a'));
  });
});

test('a rank that hangs at its end is killed: a stop leaves nothing', async () => {
  await withCluster({}, async ({ cluster, user, succeeds, world, wait }) => {
    await succeeds(user.update('a'));
    cluster.ranks.get(2)!.hangsAtEnd = true;
    await succeeds(user.removeInstance('engine-1'));
    assert.equal(cluster.ranks.has(2), false);
    cluster.ranks.get(0)!.hangsAtEnd = true;
    const { node } = cluster.ranks.get(0)!;
    // Its session is lost, and it does not end by itself.
    world.network.endSession(world.supervisorNode, node, 'silent for 10000 ms');
    await wait(6_000);
    await succeeds(user.awaitReady());
    assert.notEqual(cluster.ranks.get(0)!.node, node);
    cluster.ranks.get(1)!.hangsAtEnd = true;
  });
});

for (const [what, opened] of [
  ['a prepare', 0],
  ['an abort', 2],
] as const) {
  test(`a rank that does not answer ${what} in time is killed, and is back for the next update`, async () => {
    await withCluster({}, async ({ cluster, world, user, succeeds, fails, until, wait }) => {
      const { node } = cluster.ranks.get(3)!;
      const hang = () => {
        world.extraDelay = ({ from, envelope }) =>
          from === node && envelope.kind === 'reply' ? 10_000_000 : 0;
      };
      if (opened === 0) hang();
      const options = { bucketBytes, timeoutMilliseconds: 30_000, instances: ['engine-1'] };
      const update = user.update('a', options);
      await until('worker links are bound', () => world.links.open === opened);
      hang();
      await fails(update, /./, /./);
      await until('it is killed', () => (cluster.ranks.get(3)?.node ?? node) !== node);
      world.extraDelay = () => 0;
      await wait(5_000);
      await succeeds(user.awaitReady());
      await succeeds(user.update('a'));
    });
  });
}
