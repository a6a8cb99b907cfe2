/** A failure ends the epoch of what shares something with it: its host's ranks, or those that read from each other. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ReadyRank } from '../../src/actors/protocol/supervisor.ts';
import { partsOf } from '../../src/actors/update/groups.ts';
import { bucketBytes, type Fixture, versionsOf, withCluster } from './harness.ts';

/** Two instances on the first host, and one on each of the others. Ranks broadcast within their host. */
const hosts = {
  worldSize: 6,
  ranksPerHost: 2,
  instances: [[0], [1], [2, 3], [4, 5]],
  reach: 'host',
} as const;

/** Counts how often each instance is streamed to from now on. */
function streams({ world }: Fixture): number[] {
  const counts = world.engines.map(() => 0);
  world.onArrived.push(({ to, envelope }) => {
    if (envelope.kind !== 'ask' || (envelope.body as { type?: string }).type !== 'stream') return;
    const rank = Number(/^rank-(\d+)~/.exec(to)![1]);
    const engine = world.options.instances.findIndex((ranks) => ranks[0] === rank);
    if (engine >= 0) counts[engine]! += 1;
  });
  return counts;
}

/** Every host holds everything from then on: updates read nothing from other hosts. */
async function warmUp({ user, succeeds }: Fixture): Promise<void> {
  await succeeds(user.update('a'));
}

test('instances on other hosts go on when a rank dies, and those beside it are updated again', async () => {
  await withCluster(hosts, async (fixture) => {
    const { cluster, world, user, spares, until, status } = fixture;
    await warmUp(fixture);
    const counts = streams(fixture);
    const update = user.update('a', { bucketBytes });
    await until('all receive', () => world.engines.every(({ isBroken }) => isBroken));
    cluster.ranks.get(1)!.kill();
    await spares(update, 'engine-1', 'WEIGHTCAST_PEER_LOST', /^rank 1 died/);
    assert.deepEqual(counts, [2, 1, 1, 1]);
    assert.deepEqual(versionsOf(await status()), ['a', null, 'a', 'a']);
  });
});

test('those beside a failed instance do not wait for a host that hangs', async () => {
  await withCluster(hosts, async (fixture) => {
    const { world, user, succeeds } = fixture;
    await warmUp(fixture);
    world.engines[1]!.workers[0]!.nextLoad = 'refuse';
    world.engines[3]!.workers[0]!.nextLoad = 'hang';
    const options = { bucketBytes, timeoutMilliseconds: 20_000 };
    const { instances } = await succeeds(user.update('a', options));
    assert.deepEqual(
      instances.map(({ outcome }) => outcome),
      ['updated', 'broken', 'updated', 'broken'],
    );
    // Half of the time is for those that have to go on without it.
    assert.ok(instances[0]!.seconds < 10 && instances[3]!.seconds >= 10);
    world.engines[3]!.restart();
  });
});

test('several hosts fail, each for itself', async () => {
  await withCluster(hosts, async (fixture) => {
    const { world, user, succeeds } = fixture;
    await warmUp(fixture);
    const counts = streams(fixture);
    world.engines[1]!.workers[0]!.nextLoad = 'refuse';
    world.engines[2]!.workers[0]!.nextLoad = 'refuse';
    const { instances } = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(
      instances.map(({ outcome }) => outcome),
      ['updated', 'broken', 'broken', 'updated'],
    );
    assert.deepEqual(counts, [2, 1, 1, 1]);
  });
});

test('an instance over two hosts joins their groups into one part, and groups that receive are one', () => {
  const group = (ranks: readonly number[], mirrors = 0) => ({
    ranks: ranks.map((rank) => ({ rank }) as ReadyRank),
    mirrors: Array(mirrors).fill(null),
  });
  const names = (groups: ReturnType<typeof group>[], instances: Record<string, number[]>) =>
    partsOf(
      Object.entries(instances).map(([name, ranks]) => ({ name, ranks })),
      groups,
    ).map((part) => part.map(({ name }) => name).join(''));
  const four = [group([0, 1]), group([2, 3]), group([4, 5]), group([6, 7])];
  assert.deepEqual(names(four, { a: [0], b: [1], c: [2, 3], d: [4, 5], e: [6, 7] }), ['ab', 'c', 'd', 'e']);
  assert.deepEqual(names(four, { a: [0], b: [4, 5], c: [2, 3], d: [1, 6], e: [7] }), ['b', 'c', 'ade']);
  const receiving = [group([0, 1], 2), group([2, 3]), group([4, 5], 1)];
  assert.deepEqual(names(receiving, { a: [0, 1], b: [2, 3], c: [4, 5] }), ['b', 'ac']);
});
