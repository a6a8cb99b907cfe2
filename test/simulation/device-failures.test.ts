import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { bucketBytes, versionsOf, withCluster } from './harness.ts';

test('an allocation that fails despite free memory leads to a new plan', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    world.devices[2]!.allocationFailures = 1;
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.equal(report.epoch, 2);
    assert.ok(allArrived(report));
  });
});

test('a rank that refuses every plan fails the update of its instance, before that is touched', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares, status }) => {
    world.devices[2]!.allocationFailures = 100;
    const update = user.update('a', { bucketBytes });
    await spares(update, 'engine-1', 'WEIGHTCAST_MEMORY', /rank 2 refused its slots 4 times/);
    assert.deepEqual(
      (await status()).instances.map(({ state }) => state),
      ['serving', 'unknown'],
    );
    world.devices[2]!.allocationFailures = 0;
    await succeeds(user.update('a'));
  });
});

test('memory pressure during an update releases the staging slots and does not fail the update', async () => {
  await withCluster({ deviceSlowness: 1_000 }, async ({ world, user, succeeds, until }) => {
    const device = world.devices[1]!;
    const update = user.update('a', { bucketBytes });
    await until('rank 1 has slots', () => device.used > 0);
    assert.equal(device.used, 4 * bucketBytes);
    device.foreignBytes = device.free;
    await until('rank 1 releases slots', () => device.used < 4 * bucketBytes);
    assert.equal(device.used, 2 * bucketBytes);
    const report = await succeeds(update);
    const { mode, serialFrom, timelines } = report;
    assert.ok(allArrived(report));
    // It says what has happened, and the next one is pipelined again.
    assert.equal(mode, 'pipelined');
    assert.deepEqual(
      serialFrom.map(({ rank }) => rank),
      [1],
    );
    const [{ bucket, at }] = serialFrom as [(typeof serialFrom)[number]];
    assert.ok(bucket > 0 && bucket < report.buckets, `serial from bucket ${bucket}`);
    const own = timelines.find(({ rank }) => rank === 1);
    assert.deepEqual(own?.serialFrom ?? { rank: 1, bucket, at }, { rank: 1, bucket, at });
    device.foreignBytes = 0;
    const next = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual([next.mode, next.serialFrom, next.slots], ['pipelined', [], 4]);
  });
});

test('a device that is full until its engine is ready does not fail the update', async () => {
  await withCluster({}, async ({ world, user, succeeds, wait }) => {
    const [engine] = world.engines;
    const device = world.devices[0]!;
    engine!.kill();
    device.foreignBytes = device.free;
    const update = user.update('a', { bucketBytes });
    await wait(1_000);
    device.foreignBytes = 0;
    engine!.restart();
    assert.equal((await succeeds(update)).mode, 'pipelined');
  });
});

test('a slow device slows the update down and has no other effect', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    const fast = await succeeds(user.update('a', { bucketBytes }));
    world.devices[0]!.slowdown = 10;
    const slow = await succeeds(user.update('a', { bucketBytes }));
    assert.ok(slow.streamSeconds > 2 * fast.streamSeconds);
    assert.ok(allArrived(slow));
  });
});

test('a failed upload fails the update of its own instance with its error', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares, status }) => {
    world.devices[3]!.uploadFailures = 1;
    const update = user.update('a', { bucketBytes });
    await spares(update, 'engine-1', 'WEIGHTCAST_NATIVE', /an upload to SIM-3 failed/);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    await succeeds(user.update('a'));
  });
});
