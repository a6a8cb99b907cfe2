import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import type { LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import { digestTensors, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from '../native/harness.ts';
import { bindLink, buffer, Fixture, gate, receive, tensors, version } from './harness.ts';

test('an engine worker in another process copies every bucket out of device memory and reports its digests', async (t) => {
  const host = new TestHost(t);
  const device = host.device({ capacity: 1 << 22 });
  const slots = device.allocate(2_048);
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const worker = new Fixture(t, 'link-worker', link.address, host.namespace, 'copy');
  assert.deepEqual(await worker.next(), { ready: true });

  await link.open({ handle: slots.ipcHandle, bytes: slots.bytes });
  assert.deepEqual(await worker.next(), { asked: 'open', bytes: 2_048, epoch: 7, version });

  // Three buckets through two slots: the third overwrites the first, which the worker must have copied by then.
  const sent = Array.from({ length: 3 }, () => randomBytes(1_024));
  const announced = sent.map((_, bucket) => [
    { name: `${bucket}.q_proj`, dtype: 'BF16', shape: [128, 3], offset: (bucket % 2) * 1_024 },
    { name: `${bucket}.scale`, dtype: 'F32', shape: [], offset: (bucket % 2) * 1_024 + 768 },
    { name: `${bucket}.norm`, dtype: 'F8_E4M3', shape: [100], offset: (bucket % 2) * 1_024 + 800 },
  ]);
  for (const [bucket, bytes] of sent.entries()) {
    slots.mapping.write((bucket % 2) * 1_024, bytes);
    await link.load(announced[bucket]!);
    const names = announced[bucket]!.map(({ name }) => name);
    assert.deepEqual(await worker.next(), { asked: 'load', names });
  }
  await link.release();
  slots.free();
  const report = await link.finish();
  link.close();

  const expected = Buffer.concat(
    sent.flatMap((bytes) => [bytes.subarray(0, 768), bytes.subarray(768, 772), bytes.subarray(800, 900)]),
  );
  const { ended, contents } = await worker.next<{ ended: string; contents: Uint8Array }>();
  assert.equal(ended, 'installed');
  assert.ok(expected.equals(contents), 'the worker holds other bytes than were sent');

  const copy = device.allocate(expected.byteLength);
  copy.mapping.write(0, expected);
  const sizes = Float64Array.from([768, 4, 100, 768, 4, 100, 768, 4, 100]);
  const offsets = sizes.map((_, tensor) => sizes.subarray(0, tensor).reduce((sum, size) => sum + size, 0));
  const pool = new ThreadPool(1);
  const digests = await digestTensors(pool, copy.mapping, offsets, sizes);
  pool.close();
  assert.deepEqual(report, { digests, part: new Uint16Array(9), parts: new Uint16Array(9).fill(1) });
});

test('a worker that computes no digests answers null', async (t) => {
  const link = await bindLink(t);
  const { calls, received } = receive(link.address);
  await link.open(buffer);
  await link.release();
  assert.equal(await link.finish(), null);
  assert.deepEqual(await received, { epoch: 7, version });
  assert.deepEqual(calls, ['open', 'release', 'finish']);
});

test('a worker says what its model holds if it is asked, and names its tensors to those who do not know them', async (t) => {
  const digests = BigUint64Array.of(7n, 8n);
  const names = ['w bfloat16[4](1)', 'w:packed int8[4](1)'];
  const live: LiveDigests = { place: { tp: '0 of 2' }, coverage: 'complete', layout: 'aa01', digests, names };
  const receiver = { live: async () => live };
  for (const [options, said] of [
    [{}, null],
    [{ liveLayouts: [] }, live],
    [{ liveLayouts: ['ff', 'aa01'] }, { ...live, names: null }],
    // A version apart, and understood.
    [{ liveLayouts: [], protocol: 1 }, live],
    [{ liveLayouts: [], protocol: 3 }, live],
  ] as const) {
    const link = await bindLink(t, options);
    const { received } = receive(link.address, receiver);
    await link.open(buffer);
    await link.release();
    assert.equal(await link.finish(), null);
    assert.deepEqual(link.live, said);
    await received;
  }
  const link = await bindLink(t, { liveLayouts: [] });
  const { received } = receive(link.address);
  await link.open(buffer);
  await link.release();
  await link.finish();
  assert.equal(link.live, null, 'a worker that does not say');
  await received;
});

test('a second exchange, for a draft model, runs on the same address', async (t) => {
  const link = await bindLink(t);
  for (let round = 0; round < 3; round += 1) {
    const { calls, received } = receive(link.address);
    await link.open(buffer);
    await link.load(tensors);
    await link.release();
    await link.finish();
    assert.deepEqual(await received, { epoch: 7, version });
    assert.deepEqual(calls, ['open', 'load', 'release', 'finish']);
  }
});

test('buckets that are announced while an earlier one is loaded are loaded in order, each answered in its turn', async (t) => {
  const link = await bindLink(t);
  const gates = [gate(), gate(), gate()];
  const loaded: string[] = [];
  const answered: number[] = [];
  const { received } = receive(link.address, {
    async load([tensor]) {
      loaded.push(tensor!.name);
      await gates[loaded.length - 1]!.opened;
    },
  });
  await link.open(buffer);
  const named = (name: string) => [{ ...tensors[0]!, name }];
  const loads = ['a', 'b', 'c'].map((name, index) => link.load(named(name)).then(() => answered.push(index)));
  for (const [index, { open }] of gates.entries()) {
    assert.deepEqual(answered, [0, 1, 2].slice(0, index));
    open();
    await loads[index];
  }
  assert.deepEqual(loaded, ['a', 'b', 'c']);
  await link.release();
  await link.finish();
  await received;
});
