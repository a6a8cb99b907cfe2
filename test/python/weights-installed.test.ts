import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WorkerLink } from '../../src/engines/worker-link/worker-link.ts';
import type { HostDevice, HostDeviceBuffer } from '../../src/native-bridge/host-device.ts';
import { digestTensors, ThreadPool } from '../../src/native-bridge/memory.ts';
import { bindLink, never, version } from '../engines/harness.ts';
import { bindCheckpointEngineLink } from '../engines/scripted-worker.ts';
import { TestHost } from '../native/harness.ts';
import { PythonWorker, sendBuckets, type TestTensor } from './engine-worker.ts';
import { original, skip, skipOriginal } from './exchanges.ts';
import { oddTensors, tensorOf } from './tensors.ts';

async function deliver(link: WorkerLink, buffer: HostDeviceBuffer, tensors: readonly TestTensor[]) {
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await sendBuckets(link, buffer.bytes, (offset, data) => buffer.mapping.write(offset, data), tensors);
  await link.release();
  buffer.free();
  return link.finish();
}

/** The tensors' digests by the addon: the truth that a worker's report is measured by. */
async function digestsOf(device: HostDevice, tensors: readonly TestTensor[]): Promise<BigUint64Array> {
  const data = Buffer.concat(tensors.map((tensor) => tensor.data));
  const copy = device.allocate(Math.max(1, data.byteLength));
  const pool = new ThreadPool(1);
  try {
    for (let at = 0; at < data.byteLength; at += 2 ** 26)
      copy.mapping.write(at, data.subarray(at, at + 2 ** 26));
    const sizes = Float64Array.from(tensors, (tensor) => tensor.data.byteLength);
    let end = 0;
    const offsets = sizes.map((size) => {
      end += size;
      return end - size;
    });
    return await digestTensors(pool, copy.mapping, offsets, sizes);
  } finally {
    pool.close();
    copy.free();
  }
}

const sizes: [string, number][] = [
  ['one bucket', 2 ** 20],
  ['many buckets', 2 ** 10],
];
for (const form of ['vllm', 'draft', 'sglang']) {
  for (const [how, slotBytes] of sizes) {
    test(`every dtype in odd shapes arrives bit by bit in ${how}, with equal digests: ${form}`, {
      skip,
    }, async (t) => {
      const device = new TestHost(t).device({ capacity: 2 ** 23 });
      const tensors = oddTensors();
      const link = await bindLink(t, { deviceUuid: device.uuid });
      const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', form, '60']);
      worker.command({ links: { [device.uuid]: link.address } });
      const report = await deliver(link, device.allocate(2 * slotBytes), tensors);
      const { ended, result } = await worker.ended();
      assert.equal(ended, 'installed');
      const expected = {
        epoch: 7,
        version,
        tensors: tensors.length,
        models: form === 'draft' ? ['target', 'draft'] : ['target'],
        reload: 'raw',
        coverage: 'unknown',
      };
      assert.deepEqual(result, form === 'sglang' ? null : expected);
      assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
      assert.deepEqual(report, {
        digests: await digestsOf(device, tensors),
        part: new Uint16Array(tensors.length),
        parts: new Uint16Array(tensors.length).fill(1),
      });
    });
  }
}

test('digests of tensors that take several steps are those of the addon', { skip }, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 28 });
  // Steps of 16 MiB: a tensor that ends with one, one that ends within a word of the next, and one of several.
  const mebi = 2 ** 20;
  const tensors = [16 * mebi, 16 * mebi + 3, 40 * mebi + 5].map((bytes) =>
    tensorOf(`${bytes}`, 'U8', [bytes]),
  );
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '60']);
  worker.command({ links: { [device.uuid]: link.address } });
  const report = await deliver(link, device.allocate(96 * mebi), tensors);
  assert.deepEqual(report?.digests, await digestsOf(device, tensors));
});

test('a digest is of the bytes that arrived: one flipped bit shows', { skip }, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const tensors = [tensorOf('a', 'BF16', [1_001]), tensorOf('b', 'F32', [77])];
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '60']);
  worker.command({ links: { [device.uuid]: link.address } });
  const flipped = tensors.map((tensor) => ({ ...tensor, data: Uint8Array.from(tensor.data) }));
  flipped[1]!.data[307]! ^= 1;
  const report = await deliver(link, device.allocate(2 ** 14), flipped);
  const expected = await digestsOf(device, tensors);
  assert.equal(report?.digests[0], expected[0]);
  assert.notEqual(report?.digests[1], expected[1]);
  await worker.ended();
  assert.deepEqual(await worker.compare(tensors), { equal: 1, wrong: ['b'] });
});

test('target and draft model are both processed once all weights are in them, in the engine’s configuration', {
  skip,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'draft', '60']);
  worker.command({ links: { [device.uuid]: link.address } });
  await deliver(link, device.allocate(2 ** 14), [tensorOf('a', 'BF16', [8])]);
  const said = [];
  for (let count = 0; count < 6; count += 1) said.push(await worker.next());
  assert.deepEqual(said, [
    { asked: 'load', bucket: 1, names: ['a'] },
    { processed: 0 },
    { asked: 'post-hook' },
    { processed: 1 },
    { asked: 'post-hook' },
    {
      ended: 'installed',
      result: {
        epoch: 7,
        version,
        tensors: 1,
        models: ['target', 'draft'],
        reload: 'raw',
        coverage: 'unknown',
      },
    },
  ]);
});

test('SGLang’s second call for a draft model takes all weights again on the same address', {
  skip,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const tensors = [tensorOf('a', 'BF16', [1_001]), tensorOf('b', 'F8_E4M3', [77])];
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'sglang', '60']);
  for (const _model of ['target', 'draft']) {
    worker.command({ links: { [device.uuid]: link.address } });
    const report = await deliver(link, device.allocate(2 ** 12), tensors);
    assert.deepEqual(report?.digests, await digestsOf(device, tensors));
    assert.equal((await worker.ended()).ended, 'installed');
    assert.deepEqual(await worker.compare(tensors), { equal: 2, wrong: [] });
  }
});

for (const [how, slotBytes] of sizes) {
  test(`checkpoint-engine's own worker takes every dtype in odd shapes bit by bit, in ${how}`, {
    skip: skipOriginal,
  }, async (t) => {
    const device = new TestHost(t).device({ capacity: 2 ** 23 });
    const tensors = oddTensors();
    const link = await bindCheckpointEngineLink(t, { timeoutMilliseconds: never });
    const worker = await PythonWorker.start(t, 'original_worker.py', [original!, 'cpu']);
    // Twice, as SGLang does for a draft model: on the same address.
    for (const _model of ['target', 'draft']) {
      worker.command({ links: { [device.uuid]: link.address } });
      assert.equal(await deliver(link, device.allocate(2 * slotBytes), tensors), null);
      assert.equal((await worker.ended()).ended, 'installed');
      assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
    }
  });
}
