import assert from 'node:assert/strict';
import { cpSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { collectiveRpc, verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster, type ClusterOptions, type Progress, type UpdateOptions } from '../../src/index.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { startBench } from './harness.ts';
import { readTensors } from './tensors.ts';

const progress: Progress[] = [];
/** Of all tests here: each leaves an engine and a cluster that work. */
const bench = await startBench({ after }, { ranks: 2, onProgress: (one) => progress.push(one) });
const { engine, cluster, makeModel, scratch } = bench;

test('a checkpoint reaches every engine worker bit for bit, and all resources are released', async () => {
  const model = await makeModel(2);
  const registered = await cluster.register('step-1', model);
  const free = await freeMemory(engine.endpoint);
  const report = await cluster.update('step-1');
  assert.equal(report.mode, 'pipelined');
  assert.ok(allArrived(report));
  assert.equal(report.tensors, registered.tensors);
  assert.equal(report.digest, registered.digest);
  await verifyWeights(engine.endpoint, await openCheckpoint(model));

  const dump = join(scratch, 'dump.safetensors');
  await collectiveRpc(engine.endpoint, 'dump_weights', [dump]);
  assert.deepEqual(await readTensors(dump), await readTensors(model));

  const { instances } = await cluster.status();
  assert.deepEqual(instances[0]?.version, { checkpoint: 'step-1', digest: registered.digest });
  assert.equal(instances[0]?.state, 'serving');
  assert.deepEqual(await freeMemory(engine.endpoint), free);
  for (const activity of ['load', 'update'] as const) {
    const last = progress.filter((one) => one.activity === activity && one.rank === 1).at(-1);
    assert.ok(last !== undefined && last.totalBytes > 0, `progress of the ${activity} was reported`);
    assert.equal(last.doneBytes, last.totalBytes, `to its end`);
  }
  const proofs = async (verify: NonNullable<UpdateOptions['verify']>) =>
    (await cluster.update('step-1', { verify })).instances.map((one) => [one.name, one.outcome, one.proofs]);
  const asked = { arrived: 'holds', installed: 'not asked', answering: 'not asked' };
  assert.deepEqual(await proofs({ installed: false }), [['engine', 'updated', asked]]);
  const unasked = { ...asked, arrived: 'not asked' };
  assert.deepEqual(await proofs(false), [['engine', 'updated', unasked]], 'no worker was asked');
});

test('consecutive updates: other weights, the same again, another name', async () => {
  const [one, two] = [await makeModel(11), await makeModel(12)];
  await cluster.register('a', one);
  await cluster.register('b', two);
  let epoch = 0;
  for (const [name, model] of [
    ['a', one],
    ['b', two],
    ['b', two],
    ['a', one],
  ] as const) {
    const report = await cluster.update(name);
    assert.ok(report.epoch > epoch, 'epochs only grow');
    epoch = report.epoch;
    await verifyWeights(engine.endpoint, await openCheckpoint(model));
  }
  // The same name with other weights: the old ones are released.
  await cluster.register('a', two);
  await cluster.update('a');
  await verifyWeights(engine.endpoint, await openCheckpoint(two));
  const held = (await cluster.status()).checkpoints.filter(({ checkpoint }) => /^[ab]$/.test(checkpoint));
  assert.equal(held.length, 2);
});

test('registers tensors from the memory of this process', async () => {
  const model = await makeModel(3);
  const tensors = await readTensors(model);
  await cluster.register('from-memory', { tensors });
  const report = await cluster.update('from-memory');
  assert.ok(allArrived(report));
  await verifyWeights(engine.endpoint, await openCheckpoint(model));
});

test('files in /dev/shm are used in place and not removed', async (t) => {
  const shared = temporaryDirectory(t, '/dev/shm');
  cpSync(await makeModel(4), shared, { recursive: true });
  const before = readdirSync(shared);
  await cluster.register('adopted', shared);
  await cluster.update('adopted');
  await verifyWeights(engine.endpoint, await openCheckpoint(shared));
  assert.deepEqual(readdirSync(shared), before);
});

test('device memory for two slots makes the update serial, for less it fails with a MemoryError', async () => {
  const model = await makeModel(5);
  const largest = Math.max(...(await openCheckpoint(model)).bytes);
  await cluster.register('tight', model);
  const devices = [0, 1].map((index) =>
    HostDevice.open({ namespace: bench.deviceNamespace, index, capacity: 0, uploadThreads: 1 }),
  );
  const updateWithRoomFor = async (slots: number) => {
    // A tenth of the free memory is left alone, and a slot is a little larger than the largest tensor.
    const room = Math.ceil((largest * slots) / 0.9);
    const taken = devices.map((device) => device.allocate(device.memory().free - room));
    try {
      return await cluster.update('tight');
    } finally {
      for (const buffer of taken) buffer.free();
    }
  };
  try {
    assert.equal((await updateWithRoomFor(3.1)).mode, 'pipelined');
    assert.equal((await updateWithRoomFor(2.5)).mode, 'serial');
    await assert.rejects(updateWithRoomFor(1.5), {
      name: 'MemoryError',
      message:
        /(model\.embed_tokens|lm_head)\.weight.*rank [01]|rank [01].*(model\.embed_tokens|lm_head)\.weight/,
    });
    assert.equal((await cluster.update('tight')).mode, 'pipelined');
  } finally {
    for (const device of devices) device.close();
  }
});

test('an invalid checkpoint is refused with one line, and changes nothing', async () => {
  await cluster.register('good', await makeModel(6));
  const { checkpoints } = await cluster.status();
  await assert.rejects(cluster.register('missing', join(scratch, 'nowhere')), {
    name: 'CheckpointError',
    message: /nowhere/,
  });
  await assert.rejects(cluster.update('missing'), { name: 'UsageError', message: /missing/ });
  assert.deepEqual((await cluster.status()).checkpoints, checkpoints);
  assert.ok(allArrived(await cluster.update('good')));
});

async function freeMemory(endpoint: string): Promise<{ free: number; total: number }[]> {
  return (await collectiveRpc(endpoint, 'device_memory', [])) as { free: number; total: number }[];
}

test('an invalid value is refused by the name of its option, and is no fault of the cluster', async () => {
  await cluster.register('v', await makeModel(3));
  const refused = (work: Promise<unknown>, message: RegExp) =>
    assert.rejects(work, { name: 'UsageError', message });
  await refused(cluster.register('v', []), /^register: invalid source\.files: /);
  await refused(cluster.register('', '/models/x'), /^register: invalid checkpoint: /);
  await refused(cluster.update('v', { memoryFraction: 2 }), /^update: invalid memoryFraction: /);
  await refused(
    cluster.update('v', { timeoutMilliseconds: Infinity }),
    /^update: invalid timeoutMilliseconds: /,
  );
  await refused(cluster.update('v', { instances: [] }), /^update: invalid instances: /);
  await refused(cluster.update('v', { instances: 'engine' as never }), /^update: invalid instances: /);
  await refused(cluster.update('v', { pausing: true } as never), /^update: .*pausing/);
  await refused(cluster.update('v', null as never), /^update: /);
  await refused(cluster.register('v', null as never), /^register: expected a path/);
  await refused(cluster.register('v', '/models/x', { hosts: 'vm' as never }), /^register: invalid hosts: /);
  await refused(cluster.register('a\nb', '/models/x'), /^register: invalid checkpoint: it has characters/);
  const tensors = { w: { dtype: 'U8', shape: [1], data: new Uint8Array(1) } };
  await refused(
    cluster.register('v', { tensors }, { hosts: ['vm'] }),
    /hosts chooses which hosts load files/,
  );
  await refused(cluster.addInstance(null as never), /^an instance: /);
  assert.ok(allArrived(await cluster.update('v')));
});

test('a cluster that could not work is refused before anything starts', async () => {
  const instance = { name: 'a', endpoint: 'http://127.0.0.1:1', ranks: [0] };
  const refused = (options: Partial<ClusterOptions>, message: RegExp) =>
    assert.rejects(Cluster.start({ ranks: 1, instances: [instance], ...options }), {
      name: 'UsageError',
      message,
    });
  await refused(
    { ranks: 2, instances: [instance, { ...instance, ranks: [1] }] },
    /two instances have the name a/,
  );
  await refused({ instances: [{ ...instance, ranks: [0, 0] }] }, /instance a has a rank twice/);
  await refused({ ranks: 5_000, instances: [instance] }, /a cluster has at most 1023/);
  await refused(
    { instances: [{ ...instance, endpoint: 'http://h:1/v1' }] },
    /invalid endpoint "http:\/\/h:1\/v1"/,
  );
  await refused({ instances: [{ ...instance, endpoint: 'http://h:1?a=1' }] }, /invalid endpoint/);
  await refused(
    { instances: [{ ...instance, endpoint: 'http://u:secret@h:1' }] },
    /at h:1: a user and a password/,
  );
  await refused({ instances: [{ ...instance, apiKey: 'key\n' }] }, /API key contains characters/);
});
