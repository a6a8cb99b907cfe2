import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { type Fixture, versionsOf, withCluster } from './harness.ts';

/** 64 tensors of 16 MiB, which make 64 slices of one piece each. */
const large = Array.from({ length: 64 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [8 * 2 ** 20],
}));
const totalBytes = 64 * 16 * 2 ** 20;

/** Three hosts with one instance each, of which the first is in the cluster from the start. A join takes about a second. */
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

/** Adds an instance, which holds nothing yet. */
async function add({ cluster, user, succeeds }: Fixture, number: number): Promise<void> {
  await succeeds(user.addInstance(cluster.instance(number)));
}

/** Starts the update by which an instance gets its weights. */
function join({ user }: Fixture, number: number, checkpoint = 'a', timeoutMilliseconds = 60_000) {
  return user.update(checkpoint, { instances: [`engine-${number}`], timeoutMilliseconds });
}

/** Lets virtual time pass until about a third of a join is done. */
async function reading({ world, until }: Fixture, number: number): Promise<void> {
  const before = bytesServed(world);
  await until(`engine-${number} has received a third`, () => bytesServed(world) - before > totalBytes / 3);
}

function bytesServed({ hosts: all, fabrics }: Fixture['world']): number {
  return all.reduce((sum, host) => sum + fabrics.servedBy(host), 0);
}

/** Segments on a host that were received from other hosts. */
function mirrorsOn({ world }: Fixture, host: number): string[] {
  return world.hosts[host]!.segments.filter((path) => path.includes('mirror-'));
}

test('an instance on another host receives the tensors that its host lacks, and keeps a copy', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, status } = fixture;
    await succeeds(user.update('a'));
    await add(fixture, 1);
    const report = await succeeds(join(fixture, 1));
    assert.ok(allArrived(report));
    assert.equal(report.receivedBytes, totalBytes);
    const again = await succeeds(join(fixture, 1));
    assert.equal(again.receivedBytes, 0);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('a join takes at most 1.2 times as long as its bytes take over the link', async () => {
  await withCluster({ ...hosts, isCalm: true }, async (fixture) => {
    await add(fixture, 1);
    const { seconds } = await fixture.succeeds(join(fixture, 1));
    assert.ok(seconds > totalBytes / 1e9, `${seconds} s is faster than the link`);
    assert.ok(seconds < (1.2 * totalBytes) / 1e9, `${seconds} s`);
  });
});

test('with keepCopy: false the received segments are removed', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, wait } = fixture;
    await add(fixture, 1);
    await succeeds(user.update('a', { instances: ['engine-1'], keepCopy: false }));
    await wait(1_000);
    assert.deepEqual(mirrorsOn(fixture, 1), []);
    const again = await succeeds(join(fixture, 1));
    assert.equal(again.receivedBytes, totalBytes);
  });
});

test('joiners read from copies as well as from loaded segments', async () => {
  await withCluster({ ...hosts, isCalm: true }, async (fixture) => {
    const { world, succeeds } = fixture;
    for (const number of [1, 2]) await add(fixture, number);
    await succeeds(join(fixture, 1));
    await succeeds(join(fixture, 2));
    const shares = world.hosts.map((host) => world.fabrics.servedBy(host) / totalBytes);
    // The second one reads from two ranks of host 0, and from the one of host 1 that received.
    assert.ok(shares[0]! > 1.3 && shares[0]! < 1.8, `${shares}`);
    assert.ok(shares[1]! > 0.2 && shares[1]! < 0.7, `${shares}`);
  });
});

test('two instances that join concurrently, each by its own update, read from each other', async () => {
  await withCluster({ ...hosts, isCalm: true }, async (fixture) => {
    const { world, succeeds } = fixture;
    for (const number of [1, 2]) await add(fixture, number);
    const joins = [join(fixture, 1), join(fixture, 2)];
    for (const one of joins) assert.ok(allArrived(await succeeds(one)));
    assert.ok(world.fabrics.servedBy(world.hosts[0]!) < 1.5 * totalBytes);
  });
});

test('instances can be updated to different checkpoints at the same time', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, status } = fixture;
    await succeeds(user.register('b', '/models/b'));
    for (const number of [1, 2]) await add(fixture, number);
    const updates = [join(fixture, 0), join(fixture, 1, 'b'), join(fixture, 2)];
    for (const update of updates) assert.ok(allArrived(await succeeds(update)));
    assert.deepEqual(versionsOf(await status()), ['a', 'b', 'a']);
  });
});

test('another rank of its host stands in for a source that dies while it is read', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, succeeds } = fixture;
    await add(fixture, 1);
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    cluster.ranks.get(0)!.kill();
    assert.ok(allArrived(await succeeds(joining)));
  });
});

test('a join fails when the only instance that holds a slice leaves', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, fails, status } = fixture;
    await add(fixture, 1);
    await add(fixture, 2);
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    await succeeds(user.removeInstance('engine-0'));
    await fails(joining, 'WEIGHTCAST_PEER_LOST', /slice \d+/);
    assert.deepEqual(versionsOf(await status()), [null, null]);
    assert.deepEqual(mirrorsOn(fixture, 1), []);
  });
});

test('joiners finish although an instance leaves while they read its copy', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds } = fixture;
    for (const number of [1, 2]) await add(fixture, number);
    await succeeds(join(fixture, 1));
    const joining = join(fixture, 2);
    await reading(fixture, 2);
    await succeeds(user.removeInstance('engine-1'));
    assert.ok(allArrived(await succeeds(joining)));
  });
});

test('a joiner that dies fails its join by name, serving instances are unaffected, and it can join again', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, user, succeeds, fails, ready, status } = fixture;
    await succeeds(user.update('a'));
    await add(fixture, 1);
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    cluster.ranks.get(3)!.kill();
    await fails(
      joining,
      'WEIGHTCAST_PEER_LOST',
      /^rank 3 died \(SIGKILL\) while updating engine-1 to a; instance engine-1 is broken:/,
    );
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    await ready();
    assert.ok(allArrived(await succeeds(join(fixture, 1))));
  });
});

test('a temporarily silent network only delays a join', async () => {
  // A seed with which no actor message is delayed by seconds as well.
  await withCluster({ ...hosts, seed: 2 }, async (fixture) => {
    const { world, succeeds, wait } = fixture;
    await add(fixture, 1);
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    world.silence(world.hosts[0]!);
    await wait(5_000);
    world.restore(world.hosts[0]!);
    const report = await succeeds(joining);
    assert.ok(allArrived(report));
    assert.ok(report.seconds > 5 && report.seconds < 9, `${report.seconds} s`);
  });
});

test('a network that stays silent fails a join within its timeout, and nothing is left behind', async () => {
  await withCluster(hosts, async (fixture) => {
    const { world, fails } = fixture;
    await add(fixture, 1);
    const joining = join(fixture, 1, 'a', 10_000);
    await reading(fixture, 1);
    const cutOffAt = world.clock.now();
    world.silence(world.hosts[1]!);
    await fails(joining, /WEIGHTCAST_(DEADLINE|PEER_LOST)/, /./);
    assert.ok(world.clock.now() - cutOffAt < 12_000, `${world.clock.now() - cutOffAt} ms`);
    assert.deepEqual(mirrorsOn(fixture, 1), []);
  });
});

test('a cancelled join fails with the reason, and nothing is left behind', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, fails } = fixture;
    await add(fixture, 1);
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    await succeeds(user.cancel('no longer wanted'));
    await fails(joining, 'WEIGHTCAST_ABORTED', /^no longer wanted; instance engine-1 is broken:/);
    assert.deepEqual(mirrorsOn(fixture, 1), []);
    await succeeds(join(fixture, 1));
  });
});

test('replacing a checkpoint removes its copies', async () => {
  await withCluster(hosts, async (fixture) => {
    const { user, succeeds, wait } = fixture;
    await add(fixture, 1);
    await succeeds(join(fixture, 1));
    assert.ok(mirrorsOn(fixture, 1).length > 0);
    await succeeds(user.register('a', '/models/b'));
    await wait(1_000);
    assert.deepEqual(mirrorsOn(fixture, 1), []);
  });
});

test('a rank that waits for its restart is started once although its instance is removed and added again', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, user, succeeds, wait } = fixture;
    await add(fixture, 1);
    const launched = new Set<string>();
    cluster.ranks.get(2)!.kill();
    await wait(20);
    await succeeds(user.removeInstance('engine-1'));
    fixture.world.onArrived.push(({ from, envelope }) => {
      if ((envelope as { body?: { type?: string } }).body?.type === 'rank-ready') launched.add(from);
    });
    await add(fixture, 1);
    await wait(10_000);
    assert.equal(launched.size, 2, [...launched].join());
  });
});

test('updates of overlapping sets of instances succeed one after the other', async () => {
  await withCluster({ ...hosts, firstInstances: 3, reach: 'cluster' }, async ({ user, succeeds }) => {
    for (const instances of [
      [0, 1, 2],
      [0, 1],
      [1, 2],
      [0, 1, 2],
      [0, 1],
    ]) {
      const names = instances.map((number) => `engine-${number}`);
      assert.ok(allArrived(await succeeds(user.update('a', { instances: names }))));
    }
  });
});

test('cancelling an update of one rank does not break the communicator of all ranks', async () => {
  const alone = {
    ...hosts,
    worldSize: 2,
    instances: [[0], [1]],
    firstInstances: 2,
    reach: 'cluster',
  } as const;
  await withCluster({ ...alone, deviceSlowness: 100 }, async ({ world, user, succeeds, fails, until }) => {
    await succeeds(user.update('a'));
    const update = user.update('a', { instances: ['engine-0'] });
    await until('the update streams', () => world.engines[0]!.workers.some(({ isBusy }) => isBusy));
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('reads from a host whose ranks all die continue when the ranks are back', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, succeeds } = fixture;
    await add(fixture, 1);
    const joining = join(fixture, 1);
    await reading(fixture, 1);
    for (const rank of [0, 1]) cluster.ranks.get(rank)!.kill();
    assert.ok(allArrived(await succeeds(joining)));
  });
});

test('one of two concurrent joiners may die without failing the other', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, succeeds, fails } = fixture;
    for (const number of [1, 2]) await add(fixture, number);
    const joins = [join(fixture, 1), join(fixture, 2)] as const;
    await reading(fixture, 1);
    for (const rank of [2, 3]) cluster.ranks.get(rank)!.kill();
    await fails(joins[0], 'WEIGHTCAST_PEER_LOST', /^rank \d died/);
    assert.ok(allArrived(await succeeds(joins[1])));
  });
});
