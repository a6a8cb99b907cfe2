import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { bucketBytes, checkpoints, versionsOf, withCluster } from './harness.ts';

test('an update installs every tensor in every worker of every instance', async () => {
  await withCluster({}, async ({ world, user, succeeds, status }) => {
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.ok(allArrived(report));
    assert.equal(report.buckets, 8);
    assert.equal(report.mode, 'pipelined');
    const version = `a@${checkpoints[0]!.digest}`;
    assert.deepEqual(
      world.engines.map(({ acknowledged }) => acknowledged),
      [version, version],
    );
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('a cluster of one rank updates without broadcasts', async () => {
  await withCluster({ worldSize: 1, instances: [[0]] }, async ({ user, succeeds }) => {
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.ok(allArrived(report));
    assert.equal(report.timelines[0]!.broadcast.length, 0);
  });
});

test('a device with room for only two slots is updated in serial mode', async () => {
  await withCluster({ deviceCapacity: 11 * 2 ** 20 }, async ({ user, succeeds }) => {
    assert.equal((await succeeds(user.update('a'))).mode, 'serial');
  });
});

test('a device with room for one tensor and two small buckets is updated too', async () => {
  await withCluster({ deviceCapacity: 7 * 2 ** 20 }, async ({ user, succeeds }) => {
    const { mode, slots, slotBytes, largeSlotBytes } = await succeeds(user.update('a'));
    assert.deepEqual([mode, slots, largeSlotBytes], ['serial', 2, 4 * 2 ** 20]);
    assert.ok(slotBytes < 2 ** 21);
  });
});

test('a device without room for that fails the update, naming rank and tensor, before any engine is touched', async () => {
  await withCluster({ deviceCapacity: 5 * 2 ** 20 }, async ({ user, fails, status }) => {
    await fails(user.update('a'), 'WEIGHTCAST_MEMORY', /layers\.\d+\.weight.*rank \d/);
    assert.ok((await status()).instances.every(({ state }) => state === 'unknown'));
  });
});

test('a tensor far larger than a bucket costs its bytes once, and arrives among pipelined buckets', async () => {
  const shapes = Array.from({ length: 41 }, (_, layer) => {
    return { name: `layers.${layer}.weight`, dtype: 'BF16', shape: [layer === 20 ? 2 ** 22 : 2 ** 19] };
  });
  const checkpoints = [checkpointAt('/models/a', shapes, false)];
  await withCluster({ checkpoints }, async ({ world, user, succeeds, until }) => {
    const update = user.update('a', { bucketBytes: 2 ** 20 });
    await until('worker links are bound', () => world.links.open === 4);
    for (const { used } of world.devices) assert.equal(used, (4 + 8) * 2 ** 20);
    const { mode, largeSlotBytes } = await succeeds(update);
    assert.deepEqual([mode, largeSlotBytes], ['pipelined', 8 * 2 ** 20]);
  });
});

test('an instance has no version from the first bucket to the last acknowledgement', async () => {
  await withCluster({}, async ({ world, user, succeeds, until, status }) => {
    await succeeds(user.update('a'));
    await succeeds(user.register('b', '/models/b'));
    const update = user.update('b', { bucketBytes });
    await until('an engine worker receives', () =>
      world.engines.some(({ acknowledged }) => acknowledged === null),
    );
    const during = await status();
    assert.deepEqual(versionsOf(during), [null, null]);
    assert.ok(during.instances.every(({ state }) => state === 'updating'));
    await succeeds(update);
    assert.deepEqual(versionsOf(await status()), ['b', 'b']);
  });
});

test('a second update of the same instances is refused and does not affect the first', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, until }) => {
    const first = user.update('a', { bucketBytes });
    await until('worker links are bound', () => world.links.open === 4);
    await fails(user.update('a'), 'WEIGHTCAST_BUSY', /busy updating to a/);
    assert.ok(allArrived(await succeeds(first)));
  });
});

test('a cancelled update fails with the reason and releases everything', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, until, status }) => {
    const update = user.update('a', { bucketBytes });
    await until('an engine worker receives', () => world.engines[0]!.workers.some(({ isBusy }) => isBusy));
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /^no longer wanted$/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    assert.ok(world.devices.every(({ used }) => used === 0));
    await succeeds(user.update('a'));
  });
});

test('an update continues when the process that requested it is gone', async () => {
  await withCluster({}, async ({ cluster, world, until, wait, status }) => {
    const leaving = cluster.user();
    void leaving.update('a', { bucketBytes });
    await until('worker links are bound', () => world.links.open === 4);
    leaving.process.kill();
    world.network.endSession(world.supervisorNode, leaving.process.node, 'SIGKILL');
    await until('the update has ended', () => world.links.open === 0);
    await wait(10_000);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('no table grows over fifty updates of which every second one fails', async () => {
  await withCluster({ deviceSlowness: 1 }, async ({ cluster, world, user, succeeds, spares, wait }) => {
    const { supervisor, ranks } = cluster;
    const held = () =>
      [supervisor, ...[...ranks.values()].map(({ process }) => process!)].map(({ system, timers }) => {
        return { ...system.census, timers };
      });
    const failThenSucceed = async () => {
      world.engines[0]!.nextCall = 'error';
      await spares(user.update('a', { bucketBytes }), 'engine-0', 'WEIGHTCAST_ENGINE', /no such method/);
      await succeeds(user.update('a', { bucketBytes }));
      await wait(70_000);
    };
    await failThenSucceed();
    const early = held();
    for (let round = 0; round < 24; round += 1) await failThenSucceed();
    assert.deepEqual(held(), early);
  });
});

test('the second update of a layout sends neither plan nor manifest', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    const sent: boolean[] = [];
    world.onSent.push(({ envelope }) => {
      const { type, plan, manifest } = (envelope.kind === 'ask' ? envelope.body : {}) as Record<
        string,
        unknown
      >;
      if (type === 'open') sent.push(plan !== null || manifest !== null);
    });
    await succeeds(user.update('a', { bucketBytes }));
    await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(sent, [true, true, true, true, false, false, false, false]);
  });
});

test('what grows with the tensors is sent to each host once, and an unchanged layout again to none', async () => {
  await withCluster({ worldSize: 8, ranksPerHost: 4, instances: [[0, 1, 2, 3, 4, 5, 6, 7]] }, async (one) => {
    const { world, user } = one;
    const sent: { readonly type: string; readonly to: string; readonly bytes: number }[] = [];
    world.onSent.push(({ envelope, to, bytes }) => {
      if (envelope.kind === 'ask') sent.push({ type: (envelope.body as { type: string }).type, to, bytes });
    });
    const documents = () => sent.filter(({ type }) => type === 'write-document').map(({ to }) => to);
    await one.succeeds(user.update('a', { bucketBytes }));
    // A plan and a manifest, to one rank of each host.
    assert.equal(documents().length, 4);
    assert.equal(new Set(documents()).size, 2);
    await one.succeeds(user.update('a', { bucketBytes }));
    assert.equal(documents().length, 4);
    const opens = sent.filter(({ type }) => type === 'open');
    assert.equal(opens.length, 16);
    assert.ok(opens.every(({ bytes }) => bytes < 1_500));
  });
});

test('a document that a host cannot hold fails the update, and the next one succeeds', async () => {
  await withCluster({}, async (one) => {
    const { world, user } = one;
    world.hosts[1]!.documentFailures = 1;
    const report = await one.succeeds(user.update('a', { bucketBytes, heal: false }));
    assert.deepEqual(
      report.instances.map(({ outcome }) => outcome),
      ['updated', 'unchanged'],
    );
    assert.match(report.instances[1]!.error!.message, /no space/);
    await one.succeeds(user.update('a', { bucketBytes }));
  });
});
