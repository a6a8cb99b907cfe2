/** An engine whose workers are on two hosts: this one, and a network namespace. */
import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { HostNetwork, whyNoNamespaces } from '../../scenarios/host-network.ts';
import { makeModel } from '../../scenarios/model.ts';
import { startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster, type Progress, type UpdateReport } from '../../src/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually } from './harness.ts';

const skip = whyNoNamespaces() ?? false;
const bytes = 16 * 2 ** 20;
const capacity = 2 ** 28;
/** So slow that a fault comes while the other host reads the weights, which takes most of a second. */
const link = '200mbit';
const here = { hosts: [hostname()] };

function assertWhole({ instances: [one] }: UpdateReport, why: RegExp): void {
  assert.equal(one!.fed, 'whole');
  assert.match(one!.whyWhole!, why);
}

test('an engine over two hosts is updated as one, loses a rank and a host, and another one joins', {
  skip,
}, async (t) => {
  // A host that is cut off is lost after that.
  process.env.WEIGHTCAST_SILENCE_SECONDS = '4';
  const scratch = temporaryDirectory(t);
  const network = new HostNetwork(1);
  const address = network.connectHere();
  const launcher = network.launcher(0);
  const namespace = basename(scratch);
  const far = `${namespace}-far`;
  const ends: (() => unknown)[] = [() => network.close()];
  t.after(async () => {
    for (const end of ends.reverse()) await end();
  });
  const model = async (seed: number) => {
    const directory = await makeModel({ directory: join(scratch, `model-${seed}`), bytes, seed });
    return { directory, index: await openCheckpoint(directory) };
  };
  const shapes = await model(1);
  const startEngine = async (name: string, devices: readonly number[]) => {
    const places = [
      ...devices.map((device) => ({ launcher: [], namespace, device })),
      ...devices.map((device) => ({ launcher, namespace: far, device })),
    ];
    const engine = await startReferenceEngine({
      ...{ name, model: shapes.directory, ranks: places.length, places },
      ...{ deviceNamespace: namespace, deviceCapacity: capacity, keepsParts: true },
    });
    ends.push(() => engine.stop());
    const workers = [{ devices }, { host: 'node-2', devices }];
    return { engine, instance: { name, endpoint: engine.endpoint, workers } };
  };
  let received: (rank: number) => void = () => {};
  const first = await startEngine('first', [0, 1]);
  const cluster = await Cluster.start({
    ranks: 4,
    instances: [first.instance],
    devices: { kind: 'host', namespace },
    hosts: {
      // This machine under another name.
      store: { launcher: [] },
      'node-2': {
        launcher,
        fabricAddresses: [network.address(0)],
        devices: { kind: 'host', namespace: far },
      },
    },
    listen: `tcp://${address}:*`,
    // What is cut off ends by itself.
    orphanTimeoutMilliseconds: 6_000,
    onProgress: ({ activity, rank, doneBytes }: Progress) => {
      if (activity === 'receive' && doneBytes > 0) received(rank);
    },
  });
  ends.push(() => cluster.stop());
  const arrives = () =>
    new Promise<number>((resolve) => {
      received = resolve;
    });
  const ready = () =>
    eventually('all ranks are ready', async () =>
      (await cluster.status()).ranks.every(({ state }) => state === 'ready'),
    );
  const installed = async (name: string, index: Awaited<ReturnType<typeof model>>['index']) => {
    const { instances } = await cluster.status();
    for (const { state, version } of instances)
      assert.deepEqual([state, version?.checkpoint], ['serving', name]);
    await verifyWeights(first.engine.endpoint, index);
  };

  await t.test(
    'each rank is on the device of its own host, and what one host holds reaches the other',
    async () => {
      const { ranks } = await cluster.status();
      assert.deepEqual(
        ranks.map(({ rank, host, deviceUuid }) => [rank, host, deviceUuid]),
        first.engine.deviceUuids.map((uuid, rank) => [rank, rank < 2 ? hostname() : 'node-2', uuid]),
      );
      const { directory, index } = await model(2);
      const { bytes: size } = await cluster.register('one', directory, here);
      const report = await cluster.update('one');
      assert.ok(allArrived(report));
      assertWhole(report, /rank 0 has not said which parts it keeps/);
      assert.equal(report.receivedBytes, size, 'once over the network, for both ranks of the other host');
      await installed('one', index);
    },
  );

  network.limit(0, link);

  await t.test(
    'a rank of the other host dies: the instance is not updated, and is when the rank is back',
    async () => {
      const { directory, index } = await model(3);
      await cluster.register('two', directory, here);
      const arrived = arrives();
      const update = assert.rejects(cluster.update('two'), { name: 'PeerLostError', message: /rank 2 died/ });
      await arrived;
      const { ranks } = await cluster.status();
      process.kill(ranks.find(({ rank }) => rank === 2)!.pid!, 'SIGKILL');
      await update;
      await ready();
      const report = await cluster.update('two');
      assert.ok(allArrived(report));
      // Its workers say anew what they keep.
      assertWhole(report, /^it was broken$/);
      await installed('two', index);
    },
  );

  await t.test(
    'the other host is cut off: the update fails, and succeeds when the network is back',
    async () => {
      const { directory, index } = await model(4);
      await cluster.register('three', directory, here);
      const arrived = arrives();
      const update = assert.rejects(cluster.update('three'), { name: 'PeerLostError' });
      await arrived;
      network.silence(0);
      await update;
      const { instances } = await cluster.status();
      assert.notEqual(instances[0]!.version?.checkpoint, 'three');
      network.mend(0);
      await ready();
      assert.ok(allArrived(await cluster.update('three')));
      await installed('three', index);
    },
  );

  await t.test(
    'parts of what one host holds are not sent to ranks of the other: whole tensors are, and it is said',
    async () => {
      const report = await cluster.update('three');
      assert.ok(allArrived(report));
      assertWhole(report, /^tensor \S+, of which rank \d needs a part, lies on host \S+ and not on \S+$/);
    },
  );

  await t.test(
    'an instance over both hosts joins, with numbers for its ranks and no word of a taken device',
    async () => {
      const second = await startEngine('second', [2]);
      await assert.rejects(
        cluster.addInstance({ ...second.instance, workers: [{ host: 'node-2', devices: [1] }] }),
        {
          name: 'UsageError',
          message: 'instances first and second both have a worker on device 1 of host node-2',
        },
      );
      const { instances } = await cluster.addInstance(second.instance);
      assert.deepEqual(
        instances.map(({ ranks }) => ranks),
        [
          [0, 1, 2, 3],
          [4, 5],
        ],
      );
      const report = await cluster.update('three', { instances: ['second'] });
      assert.ok(allArrived(report));
      assertWhole(report, /rank 4 has not said which parts it keeps/);
      assert.equal(report.receivedBytes, 0, 'both hosts hold it');
      await verifyWeights(second.engine.endpoint, (await model(4)).index);
    },
  );

  await t.test('a host without an engine feeds both', async () => {
    const { directory, index } = await model(5);
    // Nobody asks for it.
    await cluster.addInstance({ name: 'store', endpoint: 'http://127.0.0.1:1', host: 'store', ranks: [9] });
    const { bytes: size } = await cluster.register('four', directory, { hosts: ['store'] });
    const report = await cluster.update('four', { instances: ['first'] });
    assert.ok(allArrived(report));
    assertWhole(report, /rank 0 has not said which parts it keeps/);
    assert.equal(report.receivedBytes, 2 * size);
    // What one has received it passes on.
    assert.ok(report.received.some(({ from }) => from === 9));
    await verifyWeights(first.engine.endpoint, index);
  });
});
