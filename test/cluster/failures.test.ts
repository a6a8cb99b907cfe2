import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { after, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { deadlines } from '../../src/actors/protocol/deadlines.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster } from '../../src/index.ts';
import { eventually, isRunning, startBench } from './harness.ts';

let loaded = 0;
/** Its engine hangs once. The first test kills a rank of it. */
const killed = await startBench(
  { after },
  {
    ranks: 2,
    faults: { hangAtBucket: 1, rank: 1, once: true },
    onProgress: ({ activity, rank, doneBytes }) => {
      if (activity === 'update' && rank === 1) loaded = doneBytes;
    },
  },
);

/** Its engine fails once, and is well again after that; the last test stops it. */
const mended = await startBench(
  { after },
  { ranks: 2, faults: { failLoadOfTensor: 'model.norm.weight', once: true } },
);

test('the death of a rank ends the update with its name; the others live, and the next update works', async () => {
  const { engine, cluster, makeModel } = killed;
  const model = await makeModel(2);
  await cluster.register('v', model);
  const before = await cluster.status();
  const update = assert.rejects(cluster.update('v', { bucketBytes: 2 ** 20 }), {
    name: 'PeerLostError',
    message: /rank 0 died \(SIGKILL\)/,
  });
  await eventually('the first bucket is in the engine', () => loaded > 0);
  assert.equal((await cluster.status()).instances[0]?.state, 'updating');
  process.kill(before.ranks[0]!.pid!, 'SIGKILL');
  await update;

  const failed = await cluster.status();
  assert.equal(failed.instances[0]?.state, 'broken');
  assert.equal(failed.instances[0]?.version, null);
  assert.equal(failed.ranks[1]?.pid, before.ranks[1]?.pid, 'the other rank was not touched');
  for (const pid of engine.pids) assert.ok(isRunning(pid), 'the engine lives');

  await eventually('the rank is ready again', async () => {
    return (await cluster.status()).ranks.every(({ state }) => state === 'ready');
  });
  const report = await cluster.update('v');
  assert.ok(allArrived(report));
  await verifyWeights(engine.endpoint, await openCheckpoint(model));
});

test('an update while another one runs is refused, and does not disturb it', async () => {
  const { engine, cluster, makeModel } = killed;
  await cluster.register('v', await makeModel(7));
  const [, ...workers] = engine.pids;
  // Until they go on the first update cannot be over, however late the others arrive.
  for (const pid of workers) process.kill(pid, 'SIGSTOP');
  const first = cluster.update('v');
  try {
    const refused = () =>
      assert.rejects(cluster.update('v'), { name: 'BusyError', message: /busy updating to v/ });
    await Promise.all([refused(), refused(), refused()]);
  } finally {
    for (const pid of workers) process.kill(pid, 'SIGCONT');
  }
  assert.ok(allArrived(await first));
});

test("the error has the engine worker's traceback, and the next update restores the instance", async () => {
  const { engine, cluster, makeModel } = mended;
  const model = await makeModel(3);
  await cluster.register('v', model);
  await assert.rejects(cluster.update('v'), (error: Error) => {
    assert.ok(['WorkerLinkError', 'EngineError'].includes(error.name), error.name);
    assert.match(error.message, /model\.norm\.weight/);
    return true;
  });
  assert.equal((await cluster.status()).instances[0]?.state, 'broken');
  assert.ok(allArrived(await cluster.update('v')));
  await verifyWeights(engine.endpoint, await openCheckpoint(model));
});

test('an update of an engine that does not run fails with its address', async () => {
  const { engine, cluster, makeModel } = mended;
  await cluster.register('v', await makeModel(6));
  await engine.stop();
  // Shorter than the two minutes for an engine that loads its model.
  await assert.rejects(cluster.update('v', { timeoutMilliseconds: 1_000 }), {
    name: 'DeadlineError',
    message: new RegExp(new URL(engine.endpoint).host),
  });
});

test('the death of an engine worker fails the update at once', async (t) => {
  const faults = { exitAtBucket: 1, rank: 1 };
  const { cluster, makeModel } = await startBench(t, { ranks: 2, faults });
  await cluster.register('v', await makeModel(4));
  const startedAt = performance.now();
  await assert.rejects(cluster.update('v', { bucketBytes: 2 ** 20 }), (error: Error) => {
    return ['WorkerLinkError', 'EngineError'].includes(error.name);
  });
  assert.ok(performance.now() - startedAt < deadlines.workerLink / 2, 'it did not wait for a deadline');
});

test('a hung engine worker fails the update at its deadline', async (t) => {
  const faults = { hangAtBucket: 1, rank: 0 };
  const { cluster, makeModel } = await startBench(t, { ranks: 2, faults });
  await cluster.register('v', await makeModel(5));
  await assert.rejects(
    cluster.update('v', { bucketBytes: 2 ** 20, timeoutMilliseconds: 1_000 }),
    (error: Error) => {
      return ['DeadlineError', 'WorkerLinkError', 'EngineError'].includes(error.name);
    },
  );
  assert.equal((await cluster.status()).instances[0]?.version, null);
});

test('a supervisor that cannot start reports why at once', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  t.after(() => taken.close());
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  const instances = [{ name: 'engine', endpoint: 'http://127.0.0.1:1', ranks: [0] }];
  const startedAt = performance.now();
  await assert.rejects(Cluster.start({ ranks: 1, instances, listen: `tcp://127.0.0.1:${port}` }), {
    name: 'UsageError',
    message: `cannot listen on tcp://127.0.0.1:${port}: Address already in use`,
  });
  assert.ok(performance.now() - startedAt < deadlines.start / 2);
});
