import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { checkpoints, type Fixture, model, versionsOf, withCluster } from './harness.ts';

/** An engine does not answer its pause, which takes effect a minute after it was asked, while the cluster is idle. */
async function mayPauseLate(
  { world, user, spares, wait }: Fixture,
  options: { readonly timeoutMilliseconds?: number } = {},
): Promise<void> {
  const [engine] = world.engines;
  engine!.latePauseMilliseconds = 60_000;
  engine!.nextPause = 'late';
  const update = user.update('a', { stepTimeoutMilliseconds: 1_000, ...options });
  await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', /may still pause/);
  await wait(20_000);
}

test('an engine that may be starting keeps no other one waiting, and is updated when it is ready', async () => {
  await withCluster({ pauses: true }, async ({ world, user, succeeds, status, wait }) => {
    const [engine] = world.engines;
    engine!.kill();
    world.clock.after(30_000, () => engine!.restart());
    const update = user.update('a');
    await wait(10_000);
    assert.deepEqual(versionsOf(await status()), [null, 'a']);
    assert.ok(!world.engines[1]!.isPaused);
    const { instances, seconds } = await succeeds(update);
    assert.ok(seconds > 29);
    assert.ok(instances[1]!.seconds < 10, `${instances[1]!.seconds} s`);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('a rank that dies while the engine of its instance is waited for ends that wait, when others have begun too', async () => {
  await withCluster({}, async ({ cluster, world, user, spares, wait, ready }) => {
    world.engines[0]!.kill();
    const update = user.update('a');
    await wait(10_000);
    const diedAt = world.clock.now();
    cluster.ranks.get(0)!.kill();
    await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', /^rank 0 died/);
    assert.ok(world.clock.now() - diedAt < 2_000);
    world.engines[0]!.restart();
    await ready();
  });
});

test('how long an engine that is down is waited for can be set', async () => {
  await withCluster({ isCalm: true }, async ({ world, user, spares }) => {
    const [engine] = world.engines;
    engine!.kill();
    for (const readyTimeoutMilliseconds of [3_000, 200_000]) {
      const startedAt = world.clock.now();
      const update = user.update('a', { timeoutMilliseconds: 300_000, readyTimeoutMilliseconds });
      const words = new RegExp(`^engine engine-0 is not ready after ${readyTimeoutMilliseconds} ms`);
      await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', words);
      const waited = world.clock.now() - startedAt;
      assert.ok(
        waited > readyTimeoutMilliseconds && waited < readyTimeoutMilliseconds + 1_000,
        `${waited} ms`,
      );
    }
    engine!.restart();
  });
});

test('how long an update waits for an engine to resume that it has not updated can be set', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares, until }) => {
    const [engine] = world.engines;
    for (const [given, milliseconds] of [
      [{}, 750],
      [{ resumeTimeoutMilliseconds: 4_000 }, 4_000],
    ] as const) {
      engine!.nextCall = 'error';
      engine!.nextResume = 'silence';
      const update = user.update('a', { timeoutMilliseconds: 60_000, ...given });
      const words = new RegExp(`still paused \\(engine engine-0 did not answer within ${milliseconds} ms\\)`);
      await spares(update, 'engine-0', 'WEIGHTCAST_ENGINE', words);
      await until('it is resumed', () => !engine!.isPaused);
    }
  });
});

for (const says of ['says', 'does not say'])
  test(`a pause that takes effect a minute after it was given up is undone; the engine ${says} that it is paused`, async () => {
    await withCluster({ pauses: true }, async (fixture) => {
      const { cluster, world, until, wait, status } = fixture;
      const [engine] = world.engines;
      engine!.hidesPauses = says !== 'says';
      await mayPauseLate(fixture, { timeoutMilliseconds: 90_000 });
      assert.ok(!(await status()).instances[0]!.isPaused, 'it runs, and is only looked after');
      await until('it takes effect', () => engine!.isPaused);
      const pausedAt = world.clock.now();
      await until('it is undone', () => !engine!.isPaused);
      assert.ok(world.clock.now() - pausedAt < 10_000, `${world.clock.now() - pausedAt} ms`);
      await wait(60_000);
      assert.ok(!(await status()).instances[0]!.isPaused);
      assert.equal(cluster.supervisor.timers, 0, 'nobody looks after it any more');
    });
  });

test('an engine that may still pause is looked after by the supervisor that takes over', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { cluster, world, until, wait, ready } = fixture;
    const [engine] = world.engines;
    await mayPauseLate(fixture, { timeoutMilliseconds: 90_000 });
    cluster.killSupervisor();
    await wait(5_000);
    await ready();
    await until('it takes effect', () => engine!.isPaused);
    await until('it is undone', () => !engine!.isPaused);
  });
});

test('an update that pauses an engine which might still pause leaves nothing to look after', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { cluster, user, succeeds, wait } = fixture;
    await mayPauseLate(fixture);
    await succeeds(user.update('a'));
    await wait(10_000);
    assert.equal(cluster.supervisor.timers, 0);
  });
});

test('an engine that others have not waited for does not outlast the update', async () => {
  await withCluster({}, async ({ world, user, spares, succeeds }) => {
    await succeeds(user.update('a'));
    const [engine, other] = world.engines;
    const prompt = 'one two three';
    const answers = [{ prompt, logprobs: other!.answersTo([prompt])[0]! }];
    engine!.ignoresQuestions = true;
    engine!.kill();
    world.clock.after(18_000, () => engine!.restart());
    const startedAt = world.clock.now();
    const update = user.update('a', {
      timeoutMilliseconds: 20_000,
      readyTimeoutMilliseconds: 20_000,
      verify: { arrived: true, installed: false, answers },
    });
    const words = /^updating .* took longer than 20000 ms, waiting for engines to be ready/;
    await spares(update, 'engine-0', 'WEIGHTCAST_DEADLINE', words);
    const waited = world.clock.now() - startedAt;
    assert.ok(waited < 21_000, `${waited} ms`);
  });
});

test('an engine that may still pause is looked after again when its instance has left the cluster and is back', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, until, wait, status } = fixture;
    const [engine] = world.engines;
    await mayPauseLate(fixture, { timeoutMilliseconds: 90_000 });
    assert.ok(!(await status()).instances[0]!.isPaused);
    const instance = world.joined.get('engine-0')!;
    await succeeds(user.removeInstance('engine-0'));
    await wait(1_000);
    await succeeds(user.addInstance(instance));
    await until('it takes effect', () => engine!.isPaused);
    await until('it is undone', () => !engine!.isPaused);
  });
});

test('an update that does not ask an engine to pause which might still pause prolongs nothing, and does not say that it is paused', async () => {
  await withCluster({ pauses: true }, async ({ cluster, world, user, spares, wait }) => {
    const [engine] = world.engines;
    engine!.latePauseMilliseconds = 40_000;
    engine!.nextPause = 'late';
    const first = user.update('a', { timeoutMilliseconds: 45_000, stepTimeoutMilliseconds: 1_000 });
    await spares(first, 'engine-0', 'WEIGHTCAST_DEADLINE', /may still pause/);
    await wait(20_000);
    engine!.said = { refusal: 'it has no such layer' };
    const second = user.update('a', { timeoutMilliseconds: 600_000 });
    const { instances } = await spares(second, 'engine-0', 'WEIGHTCAST_ENGINE', /it has no such layer$/);
    assert.equal(instances[0]!.paused, false);
    engine!.said = {};
    await wait(60_000);
    assert.ok(!engine!.isPaused);
    assert.equal(cluster.supervisor.timers, 0);
  });
});

for (const late of [0, 1])
  test(`what is in the memory of a device is installed in all at once: others wait for engine-${late}`, async () => {
    const path = '/dev/shm/weightcast-0a1b/session-0a1b-1-1.device';
    const resident = checkpointAt(path, model, true);
    const options = { checkpoints: [...checkpoints, resident] };
    await withCluster(options, async ({ world, user, succeeds, status }) => {
      const device = (await status()).ranks[0]!.deviceUuid;
      Object.assign(resident.index.files[0]!, { device });
      await succeeds(user.register('resident', path));
      const engine = world.engines[late]!;
      engine.kill();
      world.clock.after(30_000, () => engine.restart());
      const { instances } = await succeeds(user.update('resident', { timeoutMilliseconds: 100_000 }));
      assert.deepEqual(
        instances.map(({ outcome }) => outcome),
        ['updated', 'updated'],
      );
    });
  });
