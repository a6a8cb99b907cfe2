import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import type { Fleet } from '../../scenarios/fleet.ts';
import { HostNetwork, whyNoNamespaces } from '../../scenarios/host-network.ts';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { type CheckpointIndex, openCheckpoint } from '../../src/checkpoint/source.ts';
import type { Cluster, InstanceOptions, Progress } from '../../src/index.ts';
import { withFleet } from './fleet.ts';
import { eventually } from './harness.ts';

const skip = whyNoNamespaces() ?? false;
const names = ['first', 'second', 'third', 'fourth', 'fifth'];
/** Slow enough for faults while a checkpoint is read: that takes most of a second. */
const link = '200mbit';
const bytes = 16 * 2 ** 20;

/** Names of the instances that were read from. */
function giversOf({ received }: Awaited<ReturnType<Cluster['update']>>): string[] {
  return received.map(({ from }) => names[from]!).sort();
}

/** Segments that ranks of a host have received, or receive. */
function segmentsOf(host: string): string[] {
  const directories = readdirSync('/dev/shm').filter((name) => name.endsWith(`-${host}`));
  return directories
    .flatMap((name) => readdirSync(`/dev/shm/${name}`))
    .filter((name) => name.startsWith('mirror-'));
}

/** Waits for the moment in which a rank has received something but not all. */
class Moments {
  #waiting: { readonly rank: number; readonly resolve: () => void } | null = null;

  received(rank: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting = { rank, resolve };
    });
  }

  progress({ activity, rank, doneBytes }: Progress): void {
    if (activity !== 'receive' || this.#waiting?.rank !== rank || doneBytes === 0) return;
    this.#waiting.resolve();
    this.#waiting = null;
  }
}

interface Scene {
  readonly cluster: Cluster;
  readonly engines: Fleet['engines'];
  /** The checkpoint that is registered as `one`. */
  readonly index: CheckpointIndex;
  readonly moments: Moments;
}

async function sourceLeaves({ cluster, engines, index, moments }: Scene, third: InstanceOptions) {
  await cluster.addInstance(third);
  const received = moments.received(2);
  const joined = cluster.update('one', { instances: ['third'] });
  await received;
  await cluster.removeInstance('second');
  const report = await joined;
  assert.ok(giversOf(report).includes('first'), giversOf(report).join());
  assert.ok(report.receivedBytes >= report.bytes);
  await verifyWeights(engines.get('third')!.endpoint, index);
}

async function joinerDies({ cluster, engines, index, moments }: Scene, fourth: InstanceOptions) {
  await cluster.addInstance(fourth);
  const received = moments.received(3);
  const failed = assert.rejects(cluster.update('one', { instances: ['fourth'] }), {
    name: 'PeerLostError',
    message: /rank 3 died/,
  });
  await received;
  const { ranks } = await cluster.status();
  process.kill(ranks.find(({ rank }) => rank === 3)!.pid!, 'SIGKILL');
  await failed;
  const { instances } = await cluster.status();
  const serving = instances.filter(({ state }) => state === 'serving').map(({ name }) => name);
  assert.deepEqual(serving, ['first', 'third']);
  await eventually('the rank is ready again', async () =>
    (await cluster.status()).ranks.every(({ state }) => state === 'ready'),
  );
  await eventually('its received segments are removed', () => segmentsOf('fourth').length === 0);
  const report = await cluster.update('one', { instances: ['fourth'] });
  assert.deepEqual(giversOf(report), ['first', 'third'], 'a joiner serves what it has received');
  await verifyWeights(engines.get('fourth')!.endpoint, index);
}

async function firstLeaves({ cluster, engines, index }: Scene, fifth: InstanceOptions) {
  await cluster.removeInstance('first');
  await cluster.addInstance(fifth);
  const report = await cluster.update('one', { instances: ['fifth'] });
  assert.deepEqual(giversOf(report), ['fourth', 'third']);
  await verifyWeights(engines.get('fifth')!.endpoint, index);
}

async function hostReturns({ cluster, engines, index, moments }: Scene) {
  const { endpoint } = engines.get('second')!;
  await cluster.addInstance({ name: 'second', endpoint, ranks: [1], host: 'second' });
  const received = moments.received(1);
  const joined = cluster.update('one', { instances: ['second'] });
  await received;
  await assert.rejects(cluster.unregister('one'), {
    name: 'BusyError',
    message: /busy updating second to one/,
  });
  const report = await joined;
  assert.ok(report.receivedBytes >= report.bytes, `${report.receivedBytes}`);
  await verifyWeights(engines.get('second')!.endpoint, index);
  await cluster.unregister('one');
  await eventually('all hosts have released it', () => names.every((name) => segmentsOf(name).length === 0));
}

test('joins over slow links, while sources leave and joiners die', { skip }, async (t) => {
  const network = new HostNetwork(names.length);
  t.after(() => network.close());
  const address = network.connectHere();
  const moments = new Moments();
  const options = {
    instances: { first: [0], second: [1] },
    bytes,
    hosts: Object.fromEntries(
      names.map((name, host) => {
        return [name, { launcher: network.launcher(host), fabricAddresses: [network.address(host)] }];
      }),
    ),
    listen: `tcp://${address}:*`,
    onProgress: (progress: Progress) => moments.progress(progress),
  };
  await withFleet(options, async ({ cluster, engines, startEngine, makeModel }) => {
    const model = await makeModel(2);
    const scene = { cluster, engines, index: await openCheckpoint(model), moments };
    const [third, fourth, fifth] = await Promise.all(
      [2, 3, 4].map((rank) => startEngine(names[rank]!, [rank])),
    );
    await cluster.register('one', model);
    await cluster.update('one');
    for (const host of names.keys()) network.limit(host, link);
    await t.test('a source that leaves while it is read is replaced by another', () =>
      sourceLeaves(scene, third!),
    );
    await t.test(
      'a joiner that dies while it receives is named, leaves nothing behind and can join again',
      () => joinerDies(scene, fourth!),
    );
    await t.test('when the first source has left, the joiners have the whole checkpoint', () =>
      firstLeaves(scene, fifth!),
    );
    await t.test('a host that lost its memory receives it again; it cannot be unregistered meanwhile', () =>
      hostReturns(scene),
    );
  });
});
