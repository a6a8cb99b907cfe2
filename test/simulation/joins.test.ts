import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { onStage, type Stage, versionsOf } from './harness.ts';

/** Sixty-four tensors of 16 MiB: as many slices, of one piece each. */
const large = Array.from({ length: 64 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [8 * 2 ** 20],
}));
const totalBytes = 64 * 16 * 2 ** 20;

/** Three hosts, an instance on each; the first one is there from the beginning. A join takes about a second. */
const hosts = {
  worldSize: 6,
  ranksPerHost: 2,
  instances: [
    [0, 1],
    [2, 3],
    [4, 5],
  ],
  firstInstances: 1,
  reach: 'host',
  linkRate: 1e6,
  deviceSlowness: 1,
  checkpoints: ['/models/a', '/models/b'].map((path) => checkpointAt(path, large, false)),
} as const;

/** The instance is there, and holds nothing yet. */
async function add({ cluster, user, succeeds }: Stage, number: number): Promise<void> {
  await succeeds(user.addInstance(cluster.instance(number)));
}

/** Asks for the update that lets an instance join. */
function join({ user }: Stage, number: number, checkpoint = 'a', timeoutMilliseconds = 60_000) {
  return user.update(checkpoint, { instances: [`engine-${number}`], timeoutMilliseconds });
}

/** Lets virtual time pass until about a third of a join is done. */
async function reading({ world, until }: Stage, number: number): Promise<void> {
  const before = given(world);
  await until(`engine-${number} has received something`, () => given(world) - before > totalBytes / 3);
}

function given({ hosts: all, fabrics }: Stage['world']): number {
  return all.reduce((sum, host) => sum + fabrics.givenBy(host), 0);
}

/** Segments on a host that were received from others. */
function mirrorsOn({ world }: Stage, host: number): string[] {
  return world.hosts[host]!.segments.filter((path) => path.includes('mirror-'));
}

test('an instance on another host receives what it lacks, and keeps a copy', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, status } = stage;
    await succeeds(user.update('a'));
    await add(stage, 1);
    const report = await succeeds(join(stage, 1));
    assert.equal(report.verified, true);
    assert.equal(report.receivedBytes, totalBytes);
    const again = await succeeds(join(stage, 1));
    assert.equal(again.receivedBytes, 0);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('a join takes hardly longer than its bytes take over the link', async () => {
  await onStage({ ...hosts, isCalm: true }, async (stage) => {
    await add(stage, 1);
    const { seconds } = await stage.succeeds(join(stage, 1));
    assert.ok(seconds > totalBytes / 1e9, `${seconds} s are faster than the link`);
    assert.ok(seconds < (1.2 * totalBytes) / 1e9, `${seconds} s`);
  });
});

test('without a copy nothing of what was received stays', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, wait } = stage;
    await add(stage, 1);
    await succeeds(user.update('a', { instances: ['engine-1'], keepCopy: false }));
    await wait(1_000);
    assert.deepEqual(mirrorsOn(stage, 1), []);
    const again = await succeeds(join(stage, 1));
    assert.equal(again.receivedBytes, totalBytes);
  });
});

test('a copy is read from like what was loaded', async () => {
  await onStage({ ...hosts, isCalm: true }, async (stage) => {
    const { world, succeeds } = stage;
    for (const number of [1, 2]) await add(stage, number);
    await succeeds(join(stage, 1));
    await succeeds(join(stage, 2));
    const shares = world.hosts.map((host) => world.fabrics.givenBy(host) / totalBytes);
    assert.ok(shares[0]! > 1.3 && shares[0]! < 1.7, `${shares}`);
    assert.ok(shares[1]! > 0.3 && shares[1]! < 0.7, `${shares}`);
  });
});

test('two that join at once, by updates of their own, read from each other', async () => {
  await onStage({ ...hosts, isCalm: true }, async (stage) => {
    const { world, succeeds } = stage;
    for (const number of [1, 2]) await add(stage, number);
    const joins = [join(stage, 1), join(stage, 2)];
    for (const one of joins) assert.equal((await succeeds(one)).verified, true);
    assert.ok(world.fabrics.givenBy(world.hosts[0]!) < 1.5 * totalBytes);
  });
});

test('instances may be updated to different checkpoints at the same time', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, status } = stage;
    await succeeds(user.register('b', '/models/b'));
    for (const number of [1, 2]) await add(stage, number);
    const updates = [join(stage, 0), join(stage, 1, 'b'), join(stage, 2)];
    for (const update of updates) assert.equal((await succeeds(update)).verified, true);
    assert.deepEqual(versionsOf(await status()), ['a', 'b', 'a']);
  });
});

test('a source that dies while it is read is made up for by another rank of its host', async () => {
  await onStage(hosts, async (stage) => {
    const { cluster, succeeds } = stage;
    await add(stage, 1);
    const joining = join(stage, 1);
    await reading(stage, 1);
    cluster.ranks.get(0)!.kill();
    assert.equal((await succeeds(joining)).verified, true);
  });
});

test('an instance that leaves while it is read takes with it what nobody else holds', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, fails, status } = stage;
    await add(stage, 1);
    await add(stage, 2);
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const joining = join(stage, 1);
    await reading(stage, 1);
    await succeeds(user.removeInstance('engine-0'));
    await fails(joining, 'WEIGHTCAST_PEER_LOST', /no source is left for slice \d+ of the checkpoint/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    assert.deepEqual(mirrorsOn(stage, 1), []);
  });
});

test('an instance that leaves while others read its copy costs them nothing', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds } = stage;
    for (const number of [1, 2]) await add(stage, number);
    await succeeds(join(stage, 1));
    const joining = join(stage, 2);
    await reading(stage, 2);
    await succeeds(user.removeInstance('engine-1'));
    assert.equal((await succeeds(joining)).verified, true);
  });
});

test('a joiner that dies is named; who serves goes on, and it can join again', async () => {
  await onStage(hosts, async (stage) => {
    const { cluster, user, succeeds, fails, ready, status } = stage;
    await succeeds(user.update('a'));
    await add(stage, 1);
    const joining = join(stage, 1);
    await reading(stage, 1);
    cluster.ranks.get(3)!.kill();
    await fails(joining, 'WEIGHTCAST_PEER_LOST', /^rank 3 died \(SIGKILL\) while updating engine-1 to a$/);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    await ready();
    assert.equal((await succeeds(join(stage, 1))).verified, true);
  });
});

test('a network that falls silent for a while only holds a join up', async () => {
  // A run in which no message of the actors is late by seconds as well.
  await onStage({ ...hosts, seed: 2 }, async (stage) => {
    const { world, succeeds, wait } = stage;
    await add(stage, 1);
    const joining = join(stage, 1);
    await reading(stage, 1);
    world.silence(world.hosts[0]!);
    await wait(5_000);
    world.restore(world.hosts[0]!);
    const { seconds, verified } = await succeeds(joining);
    assert.equal(verified, true);
    assert.ok(seconds > 5 && seconds < 9, `${seconds} s`);
  });
});

test('a network that stays silent ends a join within its time, and nothing stays', async () => {
  await onStage(hosts, async (stage) => {
    const { world, fails } = stage;
    await add(stage, 1);
    const joining = join(stage, 1, 'a', 10_000);
    await reading(stage, 1);
    const cutOffAt = world.clock.now();
    world.silence(world.hosts[1]!);
    await fails(joining, /WEIGHTCAST_(DEADLINE|PEER_LOST)/, /./);
    assert.ok(world.clock.now() - cutOffAt < 12_000, `${world.clock.now() - cutOffAt} ms`);
    assert.deepEqual(mirrorsOn(stage, 1), []);
  });
});

test('a cancelled join says why, and nothing stays', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, fails } = stage;
    await add(stage, 1);
    const joining = join(stage, 1);
    await reading(stage, 1);
    await succeeds(user.cancel('no longer wanted'));
    await fails(joining, 'WEIGHTCAST_ABORTED', /^no longer wanted$/);
    assert.deepEqual(mirrorsOn(stage, 1), []);
    await succeeds(join(stage, 1));
  });
});

test('a copy goes when its checkpoint is replaced', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, wait } = stage;
    await add(stage, 1);
    await succeeds(join(stage, 1));
    assert.ok(mirrorsOn(stage, 1).length > 0);
    await succeeds(user.register('a', '/models/b'));
    await wait(1_000);
    assert.deepEqual(mirrorsOn(stage, 1), []);
  });
});

test('a rank that waits to be started again is started once, though its instance left and came back', async () => {
  await onStage(hosts, async (stage) => {
    const { cluster, user, succeeds, wait } = stage;
    await add(stage, 1);
    const launched = new Set<string>();
    cluster.ranks.get(2)!.kill();
    await wait(20);
    await succeeds(user.removeInstance('engine-1'));
    stage.world.onArrived.push(({ from, envelope }) => {
      if ((envelope as { body?: { type?: string } }).body?.type === 'rank-ready') launched.add(from);
    });
    await add(stage, 1);
    await wait(10_000);
    assert.equal(launched.size, 2, [...launched].join());
  });
});

test('updates of overlapping sets of instances follow each other', async () => {
  await onStage({ ...hosts, firstInstances: 3, reach: 'cluster' }, async ({ user, succeeds }) => {
    for (const instances of [
      [0, 1, 2],
      [0, 1],
      [1, 2],
      [0, 1, 2],
      [0, 1],
    ]) {
      const names = instances.map((number) => `engine-${number}`);
      assert.equal((await succeeds(user.update('a', { instances: names }))).verified, true);
    }
  });
});

test('an update of one rank that is cancelled does not spoil the communicator of all', async () => {
  const alone = {
    ...hosts,
    worldSize: 2,
    instances: [[0], [1]],
    firstInstances: 2,
    reach: 'cluster',
  } as const;
  await onStage({ ...alone, deviceSlowness: 100 }, async ({ world, user, succeeds, fails, until }) => {
    await succeeds(user.update('a'));
    const update = user.update('a', { instances: ['engine-0'] });
    await until('it streams', () => world.engines[0]!.workers.some(({ isBusy }) => isBusy));
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    assert.equal((await succeeds(user.update('a'))).verified, true);
  });
});
test('a host whose ranks all die while it is read is read on when they are back', async () => {
  await onStage(hosts, async (stage) => {
    const { cluster, succeeds } = stage;
    await add(stage, 1);
    const joining = join(stage, 1);
    await reading(stage, 1);
    for (const rank of [0, 1]) cluster.ranks.get(rank)!.kill();
    assert.equal((await succeeds(joining)).verified, true);
  });
});

test('of two that join at once one may die', async () => {
  await onStage(hosts, async (stage) => {
    const { cluster, succeeds, fails } = stage;
    for (const number of [1, 2]) await add(stage, number);
    const joins = [join(stage, 1), join(stage, 2)] as const;
    await reading(stage, 1);
    for (const rank of [2, 3]) cluster.ranks.get(rank)!.kill();
    await fails(joins[0], 'WEIGHTCAST_PEER_LOST', /^rank \d died/);
    assert.equal((await succeeds(joins[1])).verified, true);
  });
});
