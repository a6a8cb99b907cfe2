import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bucketBytes, versionsOf, withCluster } from './harness.ts';

/** A worker tells its rank and its engine; whichever is heard first is reported. */
const workerFailure = /^WEIGHTCAST_(WORKER_LINK|ENGINE)$/;

test('an engine that refuses the call fails the update with its words, and the next one succeeds', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, status }) => {
    world.engines[1]!.nextCall = 'error';
    await fails(user.update('a'), 'WEIGHTCAST_ENGINE', /engine-1 answered 500: there is no such method/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('an engine that never answers ends the update at its timeout', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails }) => {
    world.engines[0]!.nextCall = 'silence';
    const startedAt = world.clock.now();
    const update = user.update('a', { timeoutMilliseconds: 5_000 });
    await fails(update, 'WEIGHTCAST_DEADLINE', /engine-0 did not answer within \d+ ms/);
    assert.ok(world.clock.now() - startedAt < 10_000);
    await succeeds(user.update('a'));
  });
});

test('an engine that is down is waited for', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    world.engines[0]!.kill();
    world.clock.after(30_000, () => world.engines[0]!.restart());
    const report = await succeeds(user.update('a'));
    assert.ok(report.seconds > 29);
  });
});

test('nobody asks after an engine any more when the update that waited for it is cancelled', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, fails, wait }) => {
    world.engines[0]!.kill();
    const update = user.update('a');
    await wait(10_000);
    await succeeds(user.cancel('enough waited'));
    await fails(update, 'WEIGHTCAST_ABORTED', /^enough waited$/);
    await wait(1_000);
    assert.equal(cluster.supervisor.timers, 0);
    world.engines[0]!.restart();
  });
});

test('an engine that stays down fails the update with its name, and untouched', async () => {
  await withCluster({}, async ({ world, user, fails, status }) => {
    world.engines[0]!.kill();
    await fails(user.update('a'), 'WEIGHTCAST_DEADLINE', /engine-0 is not ready after \d+ ms/);
    assert.ok((await status()).instances.every(({ state }) => state === 'unknown'));
    world.engines[0]!.restart();
  });
});

test('a worker that refuses a bucket fails the update with its traceback; the next update heals', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, status }) => {
    await succeeds(user.update('a'));
    world.engines[0]!.workers[1]!.nextLoad = 'refuse';
    await fails(user.update('a', { bucketBytes }), workerFailure, /shape mismatch/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    assert.ok((await status()).instances.every(({ state }) => state === 'mixed'));
    await succeeds(user.update('a'));
  });
});

test('a worker that dies on a bucket ends the update at once', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails }) => {
    world.engines[1]!.workers[0]!.nextLoad = 'die';
    const startedAt = world.clock.now();
    const update = user.update('a', { bucketBytes });
    await fails(update, workerFailure, /SIM-2 (died|closed the connection)/);
    assert.ok(world.clock.now() - startedAt < 5_000, 'it waited for no deadline');
    world.engines[1]!.restart();
    await succeeds(user.update('a'));
  });
});

test('a worker that hangs on a bucket ends the update at its timeout, and blocks its engine alone', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails }) => {
    world.engines[0]!.workers[0]!.nextLoad = 'hang';
    const short = { bucketBytes, timeoutMilliseconds: 5_000 };
    await fails(user.update('a', short), 'WEIGHTCAST_DEADLINE', /engine-0 did not answer within \d+ ms/);
    assert.ok(world.devices.every(({ used }) => used === 0));
    assert.ok(!world.engines[1]!.workers.some(({ isBusy }) => isBusy));
    await fails(user.update('a', short), 'WEIGHTCAST_DEADLINE', /engine-0 did not answer/);
    world.engines[0]!.restart();
    await succeeds(user.update('a', short));
  });
});

test('a worker that does not keep what it got is found out, and its instance reports no version', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, status }) => {
    world.engines[1]!.workers[1]!.nextLoad = 'corrupt';
    const update = user.update('a', { bucketBytes });
    await fails(update, 'WEIGHTCAST_VERIFICATION', /engine-1 does not hold the checkpoint: tensor layers\./);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    assert.equal((await succeeds(user.update('a'))).verified, true);
  });
});

test('an engine is paused while its weights change, and stays so while it holds parts of several', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, fails, until }) => {
    const [first, second] = world.engines;
    const update = user.update('a', { bucketBytes });
    await until('an engine is touched', () =>
      world.engines.some(({ workers }) => workers.some((one) => one.isBusy)),
    );
    assert.ok(first!.isPaused && second!.isPaused);
    await succeeds(update);
    assert.ok(!first!.isPaused && !second!.isPaused);

    first!.workers[0]!.nextLoad = 'refuse';
    await fails(user.update('a', { bucketBytes }), workerFailure, /shape mismatch/);
    assert.ok(first!.isPaused && second!.isPaused);

    second!.nextPause = 'error';
    await fails(user.update('a'), 'WEIGHTCAST_ENGINE', /engine-1 answered 500/);
    assert.ok(first!.isPaused && second!.isPaused);

    await succeeds(user.update('a'));
    assert.ok(!first!.isPaused && !second!.isPaused);
  });
});

test('an engine that cannot be paused fails the update before any is touched, and the others go on', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, fails, status }) => {
    await succeeds(user.update('a'));
    world.engines[1]!.nextPause = 'error';
    await fails(user.update('a'), 'WEIGHTCAST_ENGINE', /engine-1 answered 500/);
    assert.ok(!world.engines[0]!.isPaused);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('workers that cannot say what they installed leave the update unverified', async () => {
  await withCluster({ reports: false }, async ({ user, succeeds }) => {
    assert.equal((await succeeds(user.update('a'))).verified, null);
  });
});

test('an instance that leaves with parts of several versions comes back with them, and stays paused', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, succeeds, fails, until, status }) => {
    const [engine, other] = world.engines;
    const update = user.update('a', { bucketBytes });
    await until('something is installed', () => engine!.isMixed);
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    await succeeds(user.removeInstance('engine-0'));
    await succeeds(user.addInstance(cluster.instance(0)));
    assert.deepEqual(
      (await status()).instances.map(({ state }) => state),
      ['mixed', 'mixed'],
    );
    other!.nextPause = 'error';
    await fails(user.update('a'), 'WEIGHTCAST_ENGINE', /no such method/);
    assert.ok(engine!.isPaused);
    await succeeds(user.update('a'));
  });
});
