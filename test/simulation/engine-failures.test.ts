import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { bucketBytes, versionsOf, withCluster } from './harness.ts';

/** A worker reports to its rank and to its engine; the first report to arrive is the error of the update. */
const workerFailure = /^WEIGHTCAST_(WORKER_LINK|ENGINE)$/;

test('an engine that refuses the call is left alone, and the others are updated', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares, fails, status }) => {
    world.engines[1]!.nextCall = 'error';
    const message = /engine-1 answered 500: there is no such method$/;
    const report = await spares(user.update('a'), 'engine-1', 'WEIGHTCAST_ENGINE', message);
    assert.deepEqual([report.ranks, report.instances[1]!.outcome], [2, 'unchanged']);
    assert.deepEqual(versionsOf(await status()), ['a', null]);

    world.engines[1]!.nextCall = 'error';
    const all = /no such method; unchanged: engine-1; the update succeeded in engine-0$/;
    await fails(user.update('a', { atomic: true }), 'WEIGHTCAST_ENGINE', all);
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('an engine with fewer workers than ranks is named early, got no byte and is resumed', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, status }) => {
    await succeeds(user.update('a'));
    const [engine] = world.engines;
    engine!.workers[1]!.isMissing = true;
    for (const [given, milliseconds] of [
      [{}, 60_000],
      [{ connectTimeoutMilliseconds: 2_000 }, 2_000],
    ] as const) {
      const [startedAt, touchedAt] = [world.clock.now(), engine!.touchedAt];
      const update = user.update('a', { timeoutMilliseconds: 600_000, ...given });
      const message = new RegExp(
        `^no worker of instance engine-0 \\(engine-0\\) has connected to rank 1 within ${milliseconds} ms of another one`,
      );
      const report = await spares(update, 'engine-0', 'WEIGHTCAST_WORKER_LINK', message);
      assert.ok(world.clock.now() - startedAt < milliseconds + 2_000);
      assert.deepEqual([report.instances[0]!.outcome, report.instances[0]!.paused], ['unchanged', false]);
      assert.deepEqual([engine!.touchedAt, engine!.isPaused], [touchedAt, false]);
      assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    }
    engine!.workers[1]!.isMissing = false;
    await succeeds(user.update('a'));
  });
});

test('an engine that says it is updated, and whose workers were never there, is named early', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares }) => {
    const { workers } = world.engines[0]!;
    for (const worker of workers) worker.isMissing = true;
    const startedAt = world.clock.now();
    const update = user.update('a', { timeoutMilliseconds: 600_000 });
    const message =
      /^no worker of instance engine-0 .* rank 0, 1 within 60000 ms of its engine's answer that it is updated/;
    const report = await spares(update, 'engine-0', 'WEIGHTCAST_WORKER_LINK', message);
    assert.ok(world.clock.now() - startedAt < 62_000);
    assert.equal(report.instances[0]!.outcome, 'unchanged');
    for (const worker of workers) worker.isMissing = false;
    await succeeds(user.update('a'));
  });
});

test('an engine that never answers fails the update when half of its time is over, and no other is harmed', async () => {
  await withCluster({ isCalm: true }, async ({ world, user, succeeds, spares }) => {
    world.engines[0]!.nextCall = 'silence';
    const startedAt = world.clock.now();
    const update = user.update('a', { timeoutMilliseconds: 5_000 });
    await spares(update, 'engine-0', 'WEIGHTCAST_WORKER_LINK', /SIM-0 did not answer open within \d+ ms/);
    assert.ok(world.clock.now() - startedAt < 10_000);
    await succeeds(user.update('a'));
  });
});

test('an engine that is well and does not say how it is costs others half of the time, once', async () => {
  await withCluster({ isCalm: true }, async ({ world, user, succeeds, spares }) => {
    await succeeds(user.update('a'));
    world.engines[0]!.isMute = true;
    const update = user.update('a', { timeoutMilliseconds: 10_000 });
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', /engine-0 did not answer within \d+ ms/);
    world.engines[0]!.isMute = false;
    await succeeds(user.update('a'));
  });
});

test('an update waits for an engine that is down', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    world.engines[0]!.kill();
    world.clock.after(30_000, () => world.engines[0]!.restart());
    const report = await succeeds(user.update('a'));
    assert.ok(report.seconds > 29);
  });
});

test('cancelling an update that waits for an engine stops the health checks', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, spares, wait }) => {
    world.engines[0]!.kill();
    const update = user.update('a');
    await wait(10_000);
    await succeeds(user.cancel('waited long enough'));
    // The other one was updated meanwhile.
    await spares(update, 'engine-0', 'WEIGHTCAST_ABORTED', /^waited long enough$/);
    await wait(1_000);
    assert.equal(cluster.supervisor.timers, 0);
    world.engines[0]!.restart();
  });
});

test('an engine that stays down is not touched, and is waited for half of the time', async () => {
  await withCluster({}, async ({ world, user, spares, status }) => {
    world.engines[0]!.kill();
    const report = await spares(
      user.update('a'),
      'engine-0',
      'WEIGHTCAST_DEADLINE',
      /is not ready after 30000 ms/,
    );
    assert.equal(report.instances[0]!.outcome, 'unchanged');
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
    world.engines[0]!.restart();
  });
});

test('a worker that refuses a bucket breaks its own engine, with its traceback, and the others are updated', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares, status }) => {
    await succeeds(user.update('a'));
    world.engines[0]!.workers[1]!.nextLoad = 'refuse';
    await spares(user.update('a', { bucketBytes }), 'engine-0', workerFailure, /shape mismatch/);
    assert.deepEqual(
      (await status()).instances.map(({ state }) => state),
      ['broken', 'serving'],
    );
    const problems = async () => (await status()).instances.map(({ problem }) => problem);
    const [why, none] = await problems();
    assert.match(why!, /shape mismatch/);
    assert.equal(none, null);
    await succeeds(user.update('a'));
    assert.deepEqual(await problems(), [null, null]);
  });
});

test('a worker that dies on a bucket breaks its own engine at once', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares }) => {
    world.engines[1]!.workers[0]!.nextLoad = 'die';
    const startedAt = world.clock.now();
    const update = user.update('a', { bucketBytes });
    await spares(update, 'engine-1', workerFailure, /SIM-2 (died|closed the connection)/);
    assert.ok(world.clock.now() - startedAt < 5_000, 'no deadline was awaited');
    world.engines[1]!.restart();
    await succeeds(user.update('a'));
  });
});

test('a worker that hangs on a bucket fails and blocks only its own engine', async () => {
  await withCluster({ isCalm: true }, async ({ world, user, succeeds, spares }) => {
    world.engines[0]!.workers[0]!.nextLoad = 'hang';
    const short = { bucketBytes, timeoutMilliseconds: 5_000 };
    const late = /SIM-0 did not answer load within \d+ ms/;
    await spares(user.update('a', short), 'engine-0', 'WEIGHTCAST_WORKER_LINK', late);
    assert.ok(world.devices.every(({ used }) => used === 0));
    assert.ok(!world.engines[1]!.workers.some(({ isBusy }) => isBusy));
    // It still hangs.
    await spares(user.update('a', short), 'engine-0', 'WEIGHTCAST_WORKER_LINK', /SIM-0 did not answer/);
    world.engines[0]!.restart();
    await succeeds(user.update('a', short));
  });
});

test('verification detects a worker that installed other bytes, and its instance reports no version', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares, status }) => {
    world.engines[1]!.workers[1]!.nextLoad = 'corrupt';
    const update = user.update('a', { bucketBytes });
    const message = /engine-1 does not hold the checkpoint: tensor layers\./;
    await spares(update, 'engine-1', 'WEIGHTCAST_VERIFICATION', message);
    // The other instance holds it, whole.
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('a worker whose model made something else of what arrived is found by comparison with its replicas', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, fails, spares, status }) => {
    const installed = async (update: ReturnType<typeof user.update>) =>
      (await succeeds(update)).instances.map(({ proofs }) => proofs.installed);
    world.engines[1]!.workers[1]!.nextLoad = 'misload';
    const update = user.update('a', { bucketBytes });
    const fault =
      /instance engine-1: the engine worker of rank 3 holds other weights than rank 0 of engine-0: /;
    await spares(update, 'engine-1', 'WEIGHTCAST_VERIFICATION', fault);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    assert.ok(!world.engines[0]!.isPaused && world.engines[1]!.isPaused);
    assert.deepEqual(await installed(user.update('a')), ['consistent', 'consistent']);
    // Alone, it is compared with what the same version has left before.
    world.engines[1]!.workers[0]!.nextLoad = 'misload';
    world.engines[1]!.workers[1]!.nextLoad = 'misload';
    const alone = { instances: ['engine-1'], bucketBytes };
    await fails(user.update('a', alone), 'WEIGHTCAST_VERIFICATION', /than after an earlier update/);
    assert.deepEqual(await installed(user.update('a', alone)), ['consistent']);
    const unasked = { ...alone, verify: { arrived: true, installed: false } };
    world.engines[1]!.workers[0]!.nextLoad = 'misload';
    assert.deepEqual(await installed(user.update('a', unasked)), ['not asked']);
  });
});

test('workers that do not say what they hold leave it unknown', async () => {
  await withCluster({ reports: false }, async ({ user, succeeds }) => {
    const { instances } = await succeeds(user.update('a'));
    assert.ok(instances.every(({ proofs }) => proofs.installed === 'unknown'));
  });
});

test('an engine is paused while its weights change, and stays paused while it holds parts of several versions', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, fails, until }) => {
    const [first, second] = world.engines;
    const update = user.update('a', { bucketBytes });
    await until('an engine worker receives', () =>
      world.engines.some(({ workers }) => workers.some((one) => one.isBusy)),
    );
    assert.ok(first!.isPaused && second!.isPaused);
    await succeeds(update);
    assert.ok(!first!.isPaused && !second!.isPaused);

    first!.workers[0]!.nextLoad = 'refuse';
    const report = await spares(
      user.update('a', { bucketBytes }),
      'engine-0',
      workerFailure,
      /shape mismatch/,
    );
    assert.deepEqual(
      report.instances.map(({ outcome, paused }) => [outcome, paused]),
      [
        ['broken', true],
        ['updated', false],
      ],
    );
    assert.ok(first!.isPaused && !second!.isPaused);

    first!.nextPause = 'error';
    const stays = /engine-0 answered 500.*instance engine-0 is broken and stays paused/;
    await fails(user.update('a', { instances: ['engine-0'] }), 'WEIGHTCAST_ENGINE', stays);
    assert.ok(first!.isPaused);

    await succeeds(user.update('a'));
    assert.ok(!first!.isPaused && !second!.isPaused);
  });
});

test('an engine that cannot be paused is not touched, and the others are updated', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, status }) => {
    await succeeds(user.update('a'));
    world.engines[1]!.nextPause = 'error';
    await spares(user.update('a'), 'engine-1', 'WEIGHTCAST_ENGINE', /engine-1 answered 500/);
    assert.ok(world.engines.every(({ isPaused }) => !isPaused));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('a pause that may take effect after it was given up is said at once, and undone', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, fails, status, wait, until }) => {
    const [engine] = world.engines;
    const isUndone = async () => {
      assert.ok((await status()).instances[0]!.isPaused);
      await until('it takes effect', () => engine!.isPaused);
      await until('it is undone', () => !engine!.isPaused);
      await wait(15_000);
      assert.ok(!(await status()).instances[0]!.isPaused);
    };
    // It takes effect after seven seconds.
    engine!.nextPause = 'late';
    const late = user.update('a', { timeoutMilliseconds: 5_000, instances: ['engine-0'] });
    const words = /^engine engine-0 did not answer within \d+ ms; instance engine-0 may still pause/;
    await fails(late, 'WEIGHTCAST_DEADLINE', words);
    await isUndone();

    const mayStillPause = /^no longer wanted; instance engine-0 may still pause/;
    for (const isFollowed of [false, true]) {
      engine!.nextPause = 'late';
      const cancelled = user.update('a', { instances: ['engine-0'] });
      await wait(100);
      await succeeds(user.cancel('no longer wanted'));
      const cancelledAt = world.clock.now();
      await fails(cancelled, 'WEIGHTCAST_ABORTED', mayStillPause);
      assert.ok(world.clock.now() - cancelledAt < 1_000, 'nobody waits for what may be');
      // An update that leaves the engine alone, which says that it is not paused, changes nothing of that.
      const tooLittle = { instances: ['engine-0'], memoryFraction: 0.001 };
      if (isFollowed) await fails(user.update('a', tooLittle), 'WEIGHTCAST_MEMORY', /may still pause/);
      await isUndone();
    }
    await succeeds(user.update('a'));
  });
});

test('a rank that dies while an engine is being paused keeps nobody waiting for that pause', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, spares, until, wait, status }) => {
    const [engine] = world.engines;
    engine!.nextPause = 'late';
    const update = user.update('a');
    await until('it is asked to pause', () => engine!.isPausing);
    const diedAt = world.clock.now();
    cluster.ranks.get(0)!.kill();
    await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', /^rank 0 died .*engine-0 may still pause/);
    assert.ok(world.clock.now() - diedAt < 4_500, `${world.clock.now() - diedAt} ms`);
    await until('it takes effect', () => engine!.isPaused);
    await until('it is undone', () => !engine!.isPaused);
    await wait(15_000);
    assert.ok((await status()).instances.every(({ isPaused }) => !isPaused));
  });
});

test('an engine whose workers hang is given up at the deadline of a step when it is to pause', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares }) => {
    world.engines[0]!.nextPause = 'silence';
    const startedAt = world.clock.now();
    const update = user.update('a', { timeoutMilliseconds: 600_000, stepTimeoutMilliseconds: 3_000 });
    const words =
      /^engine engine-0 did not answer within 3000 ms; give it more time with stepTimeoutMilliseconds \(--step-timeout\); instance engine-0 may still pause/;
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', words);
    assert.ok(world.clock.now() - startedAt < 20_000, `${world.clock.now() - startedAt} ms`);
  });
});

test('a pause that takes effect late is undone too in an engine that does not say whether it is paused', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares, until, wait, status }) => {
    const [engine] = world.engines;
    engine!.hidesPauses = true;
    engine!.nextPause = 'late';
    const update = user.update('a', { timeoutMilliseconds: 60_000, stepTimeoutMilliseconds: 1_000 });
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', /may still pause/);
    await until('it takes effect', () => engine!.isPaused);
    await wait(15_000);
    assert.ok(!engine!.isPaused);
    assert.ok((await status()).instances.every(({ isPaused }) => !isPaused));
  });
});

for (const says of ['says', 'does not say'])
  test(`a cluster that stops waits for a pause that may still take effect, and undoes it; the engine ${says} whether it is paused`, async () => {
    await withCluster({ pauses: true }, async ({ cluster, world, user, fails, until, wait }) => {
      const [engine] = world.engines;
      engine!.hidesPauses = says !== 'says';
      engine!.nextPause = 'late';
      const update = user.update('a', { instances: ['engine-0'] });
      await until('it is asked to pause', () => engine!.isPausing);
      // It takes effect after seven seconds, and is waited for during two.
      await wait(5_500);
      const drained = cluster.drain();
      await fails(
        update,
        'WEIGHTCAST_ABORTED',
        /^the cluster is stopping; instance engine-0 may still pause/,
      );
      await cluster.complete(drained);
      assert.ok(!engine!.isPausing && !engine!.isPaused);
    });
  });

test('an engine that is restarted while another one is waited for is paused again before weights come', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares, until, status }) => {
    const [first, second] = world.engines;
    first!.nextPause = 'late';
    const update = user.update('a', { timeoutMilliseconds: 20_000 });
    await until('the second engine is paused', () => second!.isPaused);
    second!.kill();
    second!.restart();
    assert.ok(!second!.isPaused);
    // That the weights of an engine change while it serves would be a violation.
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', /^engine engine-0 did not answer/);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
  });
});

test('an engine that refuses the call keeps its version and is resumed', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, fails, status, until }) => {
    await succeeds(user.update('a'));
    await succeeds(user.register('b', '/models/b'));
    world.engines[1]!.nextCall = 'error';
    const refused = /engine-1 answered 500: there is no such method$/;
    await spares(user.update('b'), 'engine-1', 'WEIGHTCAST_ENGINE', refused);
    assert.deepEqual(versionsOf(await status()), ['b', 'a']);
    assert.ok(world.engines.every(({ isPaused }) => !isPaused));

    // The other one has loaded a part by the time of the failure.
    world.engines[1]!.nextCall = 'silence';
    const update = user.update('b', { bucketBytes });
    await until('a bucket is installed', () => world.engines[0]!.isBroken);
    await succeeds(user.cancel('no longer wanted'));
    await fails(
      update,
      'WEIGHTCAST_ABORTED',
      /^no longer wanted; instance engine-0 is broken and stays paused/,
    );
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
    assert.deepEqual(
      (await status()).instances.map(({ state, isPaused }) => [state, isPaused]),
      [
        ['broken', true],
        ['serving', false],
      ],
    );
    assert.deepEqual(
      world.engines.map(({ isPaused }) => isPaused),
      [true, false],
    );
    await succeeds(user.update('b'));
  });
});

test('an engine that does not resume holds the new version, and is resumed when it answers again', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares, status, until, wait }) => {
    const [engine] = world.engines;
    engine!.nextResume = 'silence';
    const message =
      /instance engine-0 is still paused \(engine engine-0 did not answer.*, and is tried to be/;
    const report = await spares(user.update('a'), 'engine-0', 'WEIGHTCAST_ENGINE', message);
    assert.deepEqual([report.instances[0]!.outcome, report.instances[0]!.paused], ['updated', true]);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    const [first, second] = (await status()).instances;
    assert.ok(first!.isPaused && engine!.isPaused);
    assert.match(first!.problem!, /is still paused/);
    assert.ok(!second!.isPaused && !world.engines[1]!.isPaused);
    engine!.nextResume = 'error';
    await until('it is resumed', () => !engine!.isPaused);
    await wait(10_000);
    assert.equal((await status()).instances[0]!.isPaused, false);
  });
});

test('an engine that was left paused when its instance was removed is resumed when that is added again', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, until, wait }) => {
    const [engine] = world.engines;
    engine!.nextResume = 'error';
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const instance = world.joined.get('engine-0')!;
    await succeeds(user.removeInstance('engine-0'));
    await wait(20_000);
    assert.ok(engine!.isPaused);
    await succeeds(user.addInstance(instance));
    await until('it is resumed', () => !engine!.isPaused);
  });
});

test('an engine that does not resume alone is updated, an update to it resumes it, and atomic rejects', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, fails, status }) => {
    const [engine] = world.engines;
    engine!.nextResume = 'error';
    const { instances } = await succeeds(user.update('a', { instances: ['engine-0'] }));
    assert.deepEqual([instances[0]!.outcome, instances[0]!.paused], ['updated', true]);
    await succeeds(user.update('a'));
    assert.ok(!(await status()).instances[0]!.isPaused && !engine!.isPaused);
    engine!.nextResume = 'error';
    await fails(
      user.update('a', { instances: ['engine-0'], atomic: true }),
      'WEIGHTCAST_ENGINE',
      /^updating engine-0 to a succeeded, but instance engine-0 is still paused/,
    );
  });
});

test('what a later supervisor would not know is not done to an engine', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, succeeds, fails, status, wait }) => {
    await succeeds(user.update('a'));
    cluster.isMemoryFull = true;
    const cannot =
      /^the supervisor cannot write down that engine-0 is to be paused \(no space left\): it is not$/;
    await fails(user.update('a', { instances: ['engine-0'] }), 'WEIGHTCAST_NATIVE', cannot);
    assert.ok(!world.engines[0]!.isPaused);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    assert.ok((await status()).instances.every(({ isPaused }) => !isPaused));
    cluster.isMemoryFull = false;
    await succeeds(user.update('a'));

    // Paused, but not changed.
    const update = user.update('a', { instances: ['engine-0'] });
    while (!world.engines[0]!.isPaused) await wait(1);
    cluster.isMemoryFull = true;
    await fails(update, 'WEIGHTCAST_NATIVE', /cannot write down that engine-0 is to be changed/);
    assert.ok(!world.engines[0]!.isPaused && !world.engines[0]!.isBroken);
    cluster.isMemoryFull = false;
    await succeeds(user.update('a'));
  });
});

test('an engine that is asleep, or was paused by someone else, is refused and left alone', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, status }) => {
    const [engine] = world.engines;
    await succeeds(user.update('a'));
    engine!.isSleeping = true;
    const asleep = /^instance engine-0 \(engine-0\) is asleep/;
    await spares(user.update('a'), 'engine-0', 'WEIGHTCAST_ENGINE', asleep);
    engine!.isSleeping = false;
    engine!.setPaused(true);
    const paused = /^instance engine-0 \(engine-0\) is asleep, or was paused by someone else/;
    await spares(user.update('a'), 'engine-0', 'WEIGHTCAST_ENGINE', paused);
    assert.ok(engine!.isPaused);
    engine!.setPaused(false);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('an engine is put right by its own route and by a command of its own kind, as the errors say', async () => {
  for (const [engine, wake, kind] of [
    ['vllm', '/wake_up', ''],
    ['sglang', '/resume_memory_occupation', ' --engine sglang'],
    ['lmdeploy', '/wakeup', ' --engine lmdeploy'],
  ] as const) {
    await withCluster(
      { pauses: true, firstInstances: 1 },
      async ({ cluster, world, user, succeeds, spares }) => {
        await succeeds(user.addInstance({ ...cluster.instance(1), engine, pause: 'abort' }));
        world.engines[1]!.isSleeping = true;
        const resume = `weightcast resume --endpoint engine-1${kind}`;
        const asleep = `wake it up before an update (POST ${wake}) or resume it (${resume}), or use pause "caller"`;
        const message = new RegExp(asleep.replace(/[()]/g, '\\$&'));
        await spares(user.update('a'), 'engine-1', 'WEIGHTCAST_ENGINE', message);
        world.engines[1]!.isSleeping = false;
        world.engines[1]!.nextResume = 'error';
        const stuck = await succeeds(user.update('a'));
        assert.ok(stuck.instances[1]!.error!.message.endsWith(`until the cluster ends: ${resume}`));
        await succeeds(user.update('a'));
      },
    );
  }
});

test('an engine that was down at the next contact has no known version', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, spares, status }) => {
    await succeeds(user.update('a'));
    world.engines[0]!.kill();
    const update = user.update('a', { timeoutMilliseconds: 20_000 });
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', /engine-0 is not ready/);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
    assert.equal((await status()).instances[0]!.state, 'unknown');
    world.engines[0]!.restart();

    // One that was restarted without a word, but was seen to be down.
    await succeeds(user.update('a'));
    world.engines[0]!.kill();
    world.clock.after(300, () => world.engines[0]!.restart());
    const refused = user.update('a');
    world.clock.after(301, () => {
      world.engines[0]!.nextPause = 'error';
    });
    await spares(refused, 'engine-0', 'WEIGHTCAST_ENGINE', /engine-0 answered 500/);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
  });
});

test('a cluster that stops resumes the engines that it has paused, unless they are broken', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, fails, until }) => {
    const [broken, whole] = world.engines;
    whole!.nextCall = 'silence';
    const update = user.update('a', { bucketBytes });
    await until('a bucket is installed', () => broken!.isBroken);
    assert.ok(broken!.isPaused && whole!.isPaused);
    const drained = cluster.drain();
    await fails(
      update,
      'WEIGHTCAST_ABORTED',
      /^the cluster is stopping; instance engine-0 is broken and stays paused/,
    );
    await cluster.complete(drained);
    assert.ok(broken!.isPaused && !whole!.isPaused);
  });
});

test('of workers that cannot report what arrived nothing is proved', async () => {
  await withCluster({ reports: false }, async ({ user, succeeds }) => {
    const { instances } = await succeeds(user.update('a'));
    assert.deepEqual(
      instances.map(({ outcome, proofs }) => [outcome, proofs.arrived]),
      [
        ['updated', 'unknown'],
        ['updated', 'unknown'],
      ],
    );
  });
});

test('an instance removed with parts of several versions is still broken and paused when it is added again', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, succeeds, fails, until, status }) => {
    const [engine, other] = world.engines;
    const update = user.update('a', { bucketBytes });
    await until('a bucket is installed', () => engine!.isBroken);
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    await succeeds(user.removeInstance('engine-0'));
    await succeeds(user.addInstance(cluster.instance(0)));
    assert.deepEqual(
      (await status()).instances.map(({ state }) => state),
      ['broken', 'broken'],
    );
    engine!.nextPause = 'error';
    await fails(user.update('a', { atomic: true }), 'WEIGHTCAST_ENGINE', /no such method/);
    assert.ok(engine!.isPaused && !other!.isPaused);
    await succeeds(user.update('a'));
  });
});
