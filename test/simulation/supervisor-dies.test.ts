/** Ranks outlive their supervisor, and the one that takes its place knows what it knew. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../simulation/run.ts';
import {
  bucketBytes,
  checkpoints,
  type Fixture,
  replaceSupervisor,
  versionsOf,
  withCluster,
} from './harness.ts';

const nodesOf = ({ cluster }: Fixture) => [...cluster.ranks.values()].map(({ node }) => node).sort();

test('its ranks go on, and what was registered from files and from memory is updated to without registering again', async () => {
  await withCluster({}, async (fixture) => {
    const { user, succeeds, status } = fixture;
    await succeeds(user.registerTensors('b', checkpoints[1]!));
    await succeeds(user.update('a'));
    const [before, nodes] = [await status(), nodesOf(fixture)];
    await replaceSupervisor(fixture);
    const after = await status();
    assert.deepEqual(nodesOf(fixture), nodes);
    assert.deepEqual(after.checkpoints, before.checkpoints);
    assert.deepEqual(after.instances, before.instances);
    await succeeds(user.update('b'));
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    assert.ok((await status()).epoch > before.epoch);
  });
});

test('host memory that was kept for later checkpoints is kept, and what was being filled is not taken for it', async () => {
  await withCluster({}, async (fixture) => {
    const { cluster, user, succeeds, fails, status, world, wait, until } = fixture;
    const segments = () => world.hosts.flatMap((host) => host.segments).sort();
    await succeeds(user.register('a', '/models/b'));
    const [{ spareBytes }, before] = [await status(), segments()];
    assert.ok(spareBytes > 0);
    await replaceSupervisor(fixture);
    assert.equal((await status()).spareBytes, spareBytes);
    await succeeds(user.register('a', '/models/a'));
    await succeeds(user.update('a'));
    assert.deepEqual(segments(), before);

    const registering = user.register('a', '/models/b');
    await until('it is being filled', () => cluster.shelf.takenSets > 0);
    const replaced = replaceSupervisor(fixture);
    await fails(registering, 'WEIGHTCAST_PEER_LOST', /./);
    await replaced;
    assert.equal((await status()).spareBytes, 0);
    await wait(1_000);
    assert.equal(segments().length, before.length / 2);
  });
});

test('what earlier updates have installed is known: a single engine is compared with it', async () => {
  await withCluster({ worldSize: 2, instances: [[0], [1]] }, async (fixture) => {
    const { user, succeeds } = fixture;
    const alone = { instances: ['engine-0'], verify: { arrived: true, installed: true } };
    const installed = async () => (await succeeds(user.update('a', alone))).instances[0]!.proofs.installed;
    assert.equal(await installed(), 'unknown');
    await replaceSupervisor(fixture);
    assert.equal(await installed(), 'consistent');
  });
});

test('a call that is under way fails with an error that says to retry, and works when it is made again', async () => {
  await withCluster({}, async (fixture) => {
    const { user, fails, succeeds, status, until, world } = fixture;
    const update = user.update('a', { bucketBytes });
    await until('weights are loaded', () => world.engines.every(({ isBroken }) => isBroken));
    const replaced = replaceSupervisor(fixture);
    await fails(update, 'WEIGHTCAST_PEER_LOST', /./);
    await replaced;
    assert.deepEqual(
      (await status()).instances.map(({ state }) => state),
      ['broken', 'broken'],
    );
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('engines that were paused for an update of which nothing was loaded are resumed, with what they held', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, status, until, world, wait } = fixture;
    await succeeds(user.update('a'));
    const before = (await status()).instances;
    void user.update('a', { bucketBytes });
    await until('engines are paused', () => world.engines.every(({ isPaused }) => isPaused));
    assert.ok(world.engines.every(({ isBroken }) => !isBroken));
    await replaceSupervisor(fixture);
    await until('they are resumed', () => world.engines.every(({ isPaused }) => !isPaused));
    // They are watched for a while, and count as paused until then.
    await wait(12_000);
    assert.deepEqual((await status()).instances, before);
  });
});

test('an engine that pauses long after its supervisor has died is resumed, too', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, until, world } = fixture;
    await succeeds(user.update('a'));
    const [engine] = world.engines;
    engine!.nextPause = 'late';
    void user.update('a', { bucketBytes });
    await until('it is asked to pause', () => engine!.isPausing);
    await replaceSupervisor(fixture);
    await until('it pauses', () => engine!.isPaused);
    await until('it is resumed', () => !engine!.isPaused);
  });
});

test('an update that is asked for while an engine is being resumed waits for that', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, until, world } = fixture;
    void user.update('a', { bucketBytes });
    await until('engines are paused', () => world.engines.every(({ isPaused }) => isPaused));
    // It answers a resume slowly.
    for (const device of world.devices) device.slowdown = 10;
    await replaceSupervisor(fixture);
    await succeeds(user.update('a'));
    for (const device of world.devices) device.slowdown = 1;
  });
});

test('an engine that did not resume after an update is resumed by another supervisor', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, until, world } = fixture;
    const [engine] = world.engines;
    engine!.nextResume = 'silence';
    await succeeds(user.update('a'));
    assert.ok(engine!.isPaused);
    await replaceSupervisor(fixture);
    await until('it is resumed', () => !engine!.isPaused);
  });
});

test('an engine that was paused and holds a part of an update stays paused, and is said to', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, status, until, world } = fixture;
    void user.update('a', { bucketBytes });
    await until('weights are loaded', () => world.engines.every(({ isBroken }) => isBroken));
    await replaceSupervisor(fixture);
    const states = (await status()).instances.map(({ state, isPaused, version }) => ({
      state,
      isPaused,
      version,
    }));
    assert.deepEqual(states, Array(2).fill({ state: 'broken', isPaused: true, version: null }));
    assert.ok(world.engines.every(({ isPaused }) => isPaused));
    await succeeds(user.update('a'));
    assert.ok(world.engines.every(({ isPaused }) => !isPaused));
  });
});

test('a rank that dies with the supervisor is started again, and feeds what it had', async () => {
  await withCluster({}, async (fixture) => {
    const { user, succeeds, status, cluster } = fixture;
    cluster.ranks.get(1)!.kill();
    await replaceSupervisor(fixture);
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('what an update was to heal is healed by another supervisor', async () => {
  await withCluster({}, async (fixture) => {
    const { user, succeeds, status, until, world, cluster } = fixture;
    world.engines[1]!.nextCall = 'error';
    await succeeds(user.update('a', { heal: true }));
    await replaceSupervisor(fixture);
    await until('both hold it', () => world.engines.every(({ acknowledged }) => acknowledged !== null));
    await until('that is over', () => cluster.supervisor.system.census.asks === 0);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('ranks for which no other supervisor comes end, and their hosts release what they held', async () => {
  await withCluster({}, async ({ cluster, world, wait }) => {
    const [here, elsewhere] = world.hosts;
    cluster.killSupervisor({ forGood: true });
    await wait(29_000);
    assert.equal(cluster.ranks.size, 4);
    await wait(3_000);
    assert.equal(cluster.ranks.size, 0);
    assert.deepEqual(elsewhere!.segments, []);
    // Those of its owner's host the owner removes.
    assert.notDeepEqual(here!.segments, []);
  });
});

test('whoever else dies with it, and however often, no invariant is violated', async () => {
  const faults = [
    'the supervisor dies',
    'the supervisor dies',
    'kill a rank',
    'kill the ranks of a host',
    'lose a session',
    'worker dies on a bucket',
  ] as const;
  for (let seed = 1; seed <= 15; seed += 1) {
    const { violations } = await run({ seed, faults });
    assert.deepEqual(violations, [], `seed ${seed}`);
  }
});
