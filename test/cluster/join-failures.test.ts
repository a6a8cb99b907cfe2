import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { HostNetwork, whyNoNamespaces } from '../../scenarios/host-network.ts';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { Cluster } from '../../src/index.ts';
import { withFleet } from './fleet.ts';
import { eventually } from './harness.ts';

const skip = whyNoNamespaces() ?? false;
const names = ['first', 'second', 'third', 'fourth', 'fifth'];
/** Slow enough that something can happen while a checkpoint is read: most of a second for the whole. */
const link = '200mbit';
const bytes = 16 * 2 ** 20;

/** The names of instances by what they gave. */
function giversOf({ received }: Awaited<ReturnType<Cluster['update']>>): string[] {
  return received.map(({ from }) => names[from]!).sort();
}

/** What ranks of a host have received, or receive. */
function segmentsOf(host: string): string[] {
  const directories = readdirSync('/dev/shm').filter((name) => name.endsWith(`-${host}`));
  return directories
    .flatMap((name) => readdirSync(`/dev/shm/${name}`))
    .filter((name) => name.startsWith('mirror-'));
}

test('joining, while sources leave and joiners die, on hosts with slow links', { skip }, async (t) => {
  const network = new HostNetwork(names.length);
  t.after(() => network.close());
  const address = network.connectHere();
  const hosts = Object.fromEntries(
    names.map((name, host) => [
      name,
      { launcher: network.launcher(host), fabricAddresses: [network.address(host)] },
    ]),
  );
  /** Called once, when the rank has received something. */
  let moment: { readonly rank: number; readonly act: () => void } | null = null;
  const onceReceived = (rank: number) =>
    new Promise<void>((resolve) => {
      moment = { rank, act: resolve };
    });
  const options = {
    instances: { first: [0], second: [1] },
    bytes,
    hosts,
    listen: `tcp://${address}:*`,
    onProgress: ({ activity, rank, doneBytes }: { activity: string; rank: number; doneBytes: number }) => {
      if (activity !== 'receive' || moment?.rank !== rank || doneBytes === 0) return;
      moment.act();
      moment = null;
    },
  };
  await withFleet(options, async ({ cluster, engines, startEngine, makeModel }) => {
    const model = await makeModel(2);
    const index = await openCheckpoint(model);
    const [third, fourth, fifth] = await Promise.all(
      [2, 3, 4].map((rank) => startEngine(names[rank]!, [rank])),
    );
    await cluster.register('one', model);
    await cluster.update('one');
    for (const host of names.keys()) network.limit(host, link);

    await t.test(
      'an instance that leaves while it is read is made up for by the copy of another',
      async () => {
        await cluster.addInstance(third!);
        const received = onceReceived(2);
        const joined = cluster.update('one', { instances: ['third'] });
        await received;
        await cluster.removeInstance('second');
        const report = await joined;
        assert.ok(giversOf(report).includes('first'), giversOf(report).join());
        assert.ok(report.receivedBytes >= report.bytes);
        await verifyWeights(engines.get('third')!.endpoint, index);
      },
    );

    await t.test(
      'a joiner that dies while it receives is named, leaves nothing behind, and can join again',
      async () => {
        await cluster.addInstance(fourth!);
        const received = onceReceived(3);
        const failed = assert.rejects(cluster.update('one', { instances: ['fourth'] }), {
          name: 'PeerLostError',
          message: /rank 3 died/,
        });
        await received;
        const { ranks } = await cluster.status();
        process.kill(ranks.find(({ rank }) => rank === 3)!.pid!, 'SIGKILL');
        await failed;
        const { instances } = await cluster.status();
        assert.deepEqual(
          instances.filter(({ state }) => state === 'serving').map(({ name }) => name),
          ['first', 'third'],
        );
        await eventually('the rank is back', async () =>
          (await cluster.status()).ranks.every(({ state }) => state === 'ready'),
        );
        await eventually('what it had received is gone', () => segmentsOf('fourth').length === 0);
        const report = await cluster.update('one', { instances: ['fourth'] });
        assert.deepEqual(giversOf(report), ['first', 'third'], 'who has joined passes on what it got');
        await verifyWeights(engines.get('fourth')!.endpoint, index);
      },
    );

    await t.test('when the first one is gone, those that joined have it all', async () => {
      await cluster.removeInstance('first');
      await cluster.addInstance(fifth!);
      const report = await cluster.update('one', { instances: ['fifth'] });
      assert.deepEqual(giversOf(report), ['fourth', 'third']);
      await verifyWeights(engines.get('fifth')!.endpoint, index);
    });

    await t.test(
      'a host that all ranks had left gets it anew, and it is not unregistered meanwhile',
      async () => {
        const { endpoint } = engines.get('second')!;
        await cluster.addInstance({ name: 'second', endpoint, ranks: [1], host: 'second' });
        const received = onceReceived(1);
        const joined = cluster.update('one', { instances: ['second'] });
        await received;
        await assert.rejects(cluster.unregister('one'), {
          name: 'UsageError',
          message: /busy updating second to one/,
        });
        const report = await joined;
        assert.ok(report.receivedBytes >= report.bytes, `${report.receivedBytes}`);
        await verifyWeights(engines.get('second')!.endpoint, index);
        await cluster.unregister('one');
        await eventually('no host keeps anything of it', () =>
          names.every((name) => segmentsOf(name).length === 0),
        );
      },
    );
  });
});
