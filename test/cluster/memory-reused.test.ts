import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { Cluster, Progress } from '../../src/index.ts';
import { eventually, startBench } from './harness.ts';
import { readTensors } from './tensors.ts';

/** Directory of a cluster's segments: the one that its ranks hold open. */
async function directoryOf(cluster: Cluster): Promise<string> {
  const [rank] = (await cluster.status()).ranks;
  const folder = `/proc/${rank!.pid}/fd`;
  const locks = readdirSync(folder)
    .map((descriptor) => readlinkSync(join(folder, descriptor)))
    .filter((path) => /^\/dev\/shm\/weightcast-[0-9a-f]{12}\/lock$/.test(path));
  assert.equal(locks.length, 1);
  return dirname(locks[0]!);
}

/** Segments by name, each with its inode. */
function segmentsIn(directory: string): Record<string, number> {
  const names = readdirSync(directory).filter((name) => name.startsWith('checkpoint-'));
  return Object.fromEntries(names.sort().map((name) => [name, statSync(join(directory, name)).ino]));
}

/** Kills ranks and waits until they are ready again. */
async function restart(cluster: Cluster, pids: readonly number[]): Promise<void> {
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  await eventually('the ranks are ready again', async () => {
    const { ranks } = await cluster.status();
    return ranks.every(({ state, pid }) => state === 'ready' && !pids.includes(pid!));
  });
}

/** Unregisters everything, and releases the memory of it. */
async function empty(cluster: Cluster): Promise<void> {
  for (const { checkpoint } of (await cluster.status()).checkpoints) await cluster.unregister(checkpoint);
  await cluster.releaseSpareMemory();
}

const progress: Progress[] = [];
/** The last of its tests stops the cluster. */
const bench = await startBench({ after }, { ranks: 2, onProgress: (one) => progress.push(one) });

/** Its engine hangs in the first update. */
const hangsOnce = await startBench({ after }, { ranks: 1, faults: { hangAtBucket: 1, rank: 0, once: true } });

test('a rank that is killed while spare memory is filled leaves the old checkpoint as it was', async () => {
  const { engine, cluster, makeModel } = bench;
  const directory = await directoryOf(cluster);
  const [one, two] = [await makeModel(8), await makeModel(9)];
  await cluster.register('v', one);
  const spare = segmentsIn(directory);
  const content = () => readFileSync(join(directory, 'checkpoint-1-0'));
  const held = content();
  const { digest } = await cluster.register('v', two);
  const { ranks } = await cluster.status();
  // Rank 0 looks at the files first.
  process.kill(ranks[1]!.pid!, 'SIGSTOP');
  const refused = assert.rejects(cluster.register('v', two), {
    name: 'PeerLostError',
    message: /rank 1 died/,
  });
  await eventually('rank 0 has filled its part', () => !content().equals(held));
  await Promise.all([refused, restart(cluster, [ranks[1]!.pid!])]);
  await eventually('the incomplete segments are removed', () => {
    return Object.keys(segmentsIn(directory)).every((name) => !(name in spare));
  });
  const { checkpoints, spareBytes } = await cluster.status();
  assert.deepEqual(
    checkpoints.map((checkpoint) => checkpoint.digest),
    [digest],
  );
  assert.equal(spareBytes, 0);
  assert.ok(allArrived(await cluster.update('v')));
  await verifyWeights(engine.endpoint, await openCheckpoint(two));
  await cluster.register('v', one);
  assert.ok(allArrived(await cluster.update('v')));
  await verifyWeights(engine.endpoint, await openCheckpoint(one));
});

test('what is registered survives the processes of all ranks', async () => {
  const { engine, cluster, makeModel } = bench;
  await empty(cluster);
  const directory = await directoryOf(cluster);
  const model = await makeModel(7);
  await cluster.register('tensors', { tensors: await readTensors(model) });
  await cluster.register('files', model);
  const before = segmentsIn(directory);
  await restart(
    cluster,
    (await cluster.status()).ranks.map(({ pid }) => pid!),
  );
  assert.deepEqual(segmentsIn(directory), before);
  for (const name of ['tensors', 'files']) {
    assert.ok(allArrived(await cluster.update(name)));
    await verifyWeights(engine.endpoint, await openCheckpoint(model));
  }
  // Ranks that have not made them fill them all the same.
  await cluster.unregister('files');
  await cluster.register('files', model);
  assert.deepEqual(segmentsIn(directory), before);
  assert.ok(allArrived(await cluster.update('files')));
});

test('tensors that come again and again go into the same two sets of segments, and arrive', async () => {
  const { engine, cluster, makeModel } = bench;
  await empty(cluster);
  progress.length = 0;
  const directory = await directoryOf(cluster);
  const models = [await makeModel(2), await makeModel(3)];
  const tensors = await Promise.all(models.map(readTensors));
  const round = async (which: number) => {
    const { digest, seconds } = await cluster.register('policy', { tensors: tensors[which]! });
    assert(seconds > 0);
    const report = await cluster.update('policy');
    assert.ok(allArrived(report));
    assert.equal(report.digest, digest);
    await verifyWeights(engine.endpoint, await openCheckpoint(models[which]!));
  };
  await round(0);
  await round(1);
  const both = segmentsIn(directory);
  assert.equal(Object.keys(both).length, 4, 'two for each rank');
  for (const which of [0, 1, 1, 0]) {
    await round(which);
    assert.deepEqual(segmentsIn(directory), both);
  }
  const loads = progress.filter(({ activity }) => activity === 'load');
  for (const rank of [0, 1]) assert(loads.some((one) => one.rank === rank && one.doneBytes > 0));
  assert(loads.every(({ doneBytes, totalBytes }) => doneBytes <= totalBytes));
  await cluster.stop();
  assert(!existsSync(directory), 'nothing stays in shared memory');
});

test('a checkpoint is not unregistered while it is being installed', async () => {
  const { cluster, makeModel } = hangsOnce;
  await cluster.register('v', await makeModel(6));
  const update = cluster.update('v', { bucketBytes: 2 ** 20, timeoutMilliseconds: 3_000 });
  const failed = assert.rejects(update);
  await eventually('the update touches the engine', async () => {
    return (await cluster.status()).instances[0]?.state === 'updating';
  });
  await assert.rejects(cluster.unregister('v'), { name: 'BusyError', message: /busy updating to v/ });
  await failed;
  await cluster.unregister('v');
});

test('files go into spare memory too; what is unregistered is spare, what is released is gone', async () => {
  const { engine, cluster, makeModel } = hangsOnce;
  await empty(cluster);
  const directory = await directoryOf(cluster);
  const [one, two] = [await makeModel(4), await makeModel(5)];
  const { bytes } = await cluster.register('one', one);
  const first = segmentsIn(directory);
  await cluster.unregister('one');
  await assert.rejects(cluster.update('one'), { name: 'UsageError', message: /no checkpoint one/ });
  await assert.rejects(cluster.unregister('one'), { name: 'UsageError', message: /no checkpoint one/ });
  assert((await cluster.status()).spareBytes >= bytes);
  await cluster.register('two', two);
  assert.deepEqual(segmentsIn(directory), first);
  assert.equal((await cluster.status()).spareBytes, 0);
  assert.ok(allArrived(await cluster.update('two')));
  await verifyWeights(engine.endpoint, await openCheckpoint(two));
  await cluster.unregister('two');
  const released = await cluster.releaseSpareMemory();
  assert(released >= bytes);
  assert.deepEqual(segmentsIn(directory), {});
  assert.equal(await cluster.releaseSpareMemory(), 0);
});

test('memory that is short has spare memory given back, then is an error that harms nothing', (t) => {
  const program = fileURLToPath(new URL('fixtures/small-memory.js', import.meta.url));
  const mounted = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"';
  if (spawnSync('unshare', ['-m', 'sh', '-c', 'mount -t tmpfs tmpfs /dev/shm']).status !== 0) {
    t.skip('no file system can be mounted here');
    return;
  }
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    ['-m', 'sh', '-c', mounted, 'sh', process.execPath, program],
    { encoding: 'utf8', timeout: 120_000 },
  );
  assert.equal(status, 0, stderr);
  const said = stdout.trim().split('\n');
  assert.deepEqual(said.slice(0, 2), ['a again: spare 20 MiB', 'b instead of the spare: spare 0 MiB']);
  assert.match(
    said[2]!,
    /^c from memory: OutOfHostMemoryError cannot reserve \S+ \(30 MiB wanted, 1\d[.\d]* MiB free\): No space left on device$/,
  );
  assert.match(
    said[3]!,
    /^c from a file: OutOfHostMemoryError cannot reserve \S+ \(30 MiB wanted, 1\d[.\d]* MiB free\): No space left on device$/,
  );
  assert.deepEqual(said.slice(4), ['files 2, a and b registered', 'left: nothing']);
});
