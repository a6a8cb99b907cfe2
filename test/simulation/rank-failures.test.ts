import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bucketBytes, onStage, versionsOf } from './harness.ts';

test('a rank that dies in the middle fails the update, comes back, and the next update succeeds', async () => {
  await onStage({}, async ({ cluster, world, user, succeeds, fails, until, ready, status }) => {
    const update = user.update('a', { bucketBytes });
    await until('an engine is touched', () => world.engines[1]!.workers.some(({ isBusy }) => isBusy));
    cluster.ranks.get(2)!.kill();
    await fails(update, 'WEIGHTCAST_PEER_LOST', /^rank 2 died \(SIGKILL\) while updating to a$/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    await ready();
    assert.equal((await succeeds(user.update('a'))).verified, true);
  });
});

test('a rank that dies while nothing runs costs no update', async () => {
  await onStage({}, async ({ cluster, user, succeeds, wait, ready }) => {
    await succeeds(user.update('a'));
    cluster.ranks.get(1)!.kill();
    await wait(10);
    await ready();
    assert.equal((await succeeds(user.update('a'))).verified, true);
  });
});

test('what a rank has loaded survives its process', async () => {
  await onStage({}, async ({ cluster, world, user, succeeds, wait, ready }) => {
    const loads: string[] = [];
    world.onSent.push(({ envelope }) => {
      if (envelope.kind === 'ask' && (envelope.body as { type: string }).type === 'load') loads.push('load');
    });
    for (const rank of cluster.ranks.values()) rank.kill();
    await wait(10);
    await ready();
    assert.equal((await succeeds(user.update('a'))).verified, true);
    assert.deepEqual(loads, []);
  });
});

for (const [first, who] of [
  ['supervisor', 'the supervisor'],
  ['rank', 'the rank'],
] as const) {
  test(`a rank whose session is lost is started again, if ${who} notices first`, async () => {
    await onStage({}, async ({ cluster, world, user, succeeds, wait, ready }) => {
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
      assert.equal((await succeeds(user.update('a'))).verified, true);
    });
  });
}

test('a session lost in the middle of an update fails it and leaves nothing allocated', async () => {
  await onStage({}, async ({ cluster, world, user, succeeds, fails, until, wait, ready }) => {
    const update = user.update('a', { bucketBytes });
    await until('an engine is touched', () => world.engines[0]!.workers.some(({ isBusy }) => isBusy));
    world.network.endSession(world.supervisorNode, cluster.ranks.get(0)!.node, 'silent for 10000 ms');
    await fails(update, 'WEIGHTCAST_PEER_LOST', /rank 0 died \(silent for 10000 ms\)|is gone/);
    await wait(1_000);
    assert.ok(world.devices.every(({ used }) => used === 0));
    await ready();
    await succeeds(user.update('a'));
  });
});

test('an abort that overtakes its open leaves nothing open', async () => {
  await onStage({}, async ({ cluster, world, user, succeeds, fails, until }) => {
    const late = cluster.ranks.get(3)!.node;
    world.holdUp = ({ to, envelope }) => {
      const { type } = (envelope.kind === 'ask' ? envelope.body : {}) as { type?: string };
      return to === late && type === 'open' ? 500 : 0;
    };
    const update = user.update('a', { bucketBytes });
    await until('the others have opened', () => world.links.open === 3);
    await succeeds(user.cancel('enough'));
    await fails(update, 'WEIGHTCAST_ABORTED', /enough/);
    assert.equal(world.links.open, 0);
    world.holdUp = () => 0;
    await succeeds(user.update('a'));
  });
});

test('a worker link that cannot be bound costs the update, and not the rank', async () => {
  await onStage({}, async ({ cluster, world, user, succeeds, fails }) => {
    const nodes = [...cluster.ranks.values()].map(({ node }) => node);
    world.links.failures = 1;
    await fails(user.update('a'), 'WEIGHTCAST_WORKER_LINK', /cannot bind a worker link/);
    await succeeds(user.update('a'));
    assert.deepEqual(
      [...cluster.ranks.values()].map(({ node }) => node),
      nodes,
    );
  });
});

test('a rank that keeps dying is given up, and whoever asks is told so', async () => {
  await onStage({}, async ({ cluster, user, fails, until, wait }) => {
    for (let death = 0; death < 4; death += 1) {
      await until('rank 1 runs', () => (cluster.ranks.get(1)?.process ?? null) !== null);
      cluster.ranks.get(1)!.kill();
      await wait(10);
    }
    const reason = /rank 1 exited 4 times in 60 s \(SIGKILL\); giving up/;
    await fails(user.awaitReady(), 'WEIGHTCAST_PEER_LOST', reason);
    await fails(user.update('a'), 'WEIGHTCAST_PEER_LOST', reason);
  });
});
