import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { layOutParameters } from '../../scenarios/reference-engine/parameter-layout.ts';
import { WorkerParameters } from '../../scenarios/reference-engine/worker-parameters.ts';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { combineParts } from '../../src/checkpoint/parts.ts';
import { type CheckpointIndex, openCheckpoint } from '../../src/checkpoint/source.ts';
import { EngineError, MemoryError } from '../../src/errors.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { SeededRandom } from '../plan/seeded-random.ts';
import { writeRandomModel } from './random-model.ts';

const capacity = 1 << 20;

async function model(test: TestContext) {
  const path = join(temporaryDirectory(test), 'model.safetensors');
  writeRandomModel(path, new SeededRandom(1));
  const index = await openCheckpoint(path);
  const source = Mapping.open(path, false);
  const pool = new ThreadPool(2);
  test.after(() => {
    source.close();
    pool.close();
  });
  return { path, index, source, pool };
}

function openDevice(test: TestContext, index: number, bytes = capacity): HostDevice {
  const namespace = `parameters-${process.pid}`;
  const device = HostDevice.open({ namespace, index, capacity: bytes, uploadThreads: 1 });
  test.after(() => {
    device.close();
    assert.ok(!existsSync(`/dev/shm/weightcast-device-${namespace}-${index}`), 'the device memory is freed');
  });
  return device;
}

/** The tensors as a rank announces them, with the file itself as link buffer. */
function announce(index: CheckpointIndex, source: Mapping) {
  assert.ok(index.names.length > 0 && source.bytes > 0);
  return index.names.map((name, row) => ({
    name,
    dtype: DTYPES[index.dtypes[row]!]!.name,
    shape: [...index.dimensions.subarray(index.shapeStarts[row]!, index.shapeStarts[row + 1]!)],
    offset: index.bytes[row] === 0 ? 0 : index.offsets[row]!,
  }));
}

for (const ranks of [1, 2, 4, 5]) {
  test(`${ranks} workers install a model bit by bit and can write it back`, async (t) => {
    const { path, index, source, pool } = await model(t);
    const tensors = announce(index, source);
    const out = Mapping.create(`${path}.out`, source.bytes);
    t.after(() => out.close());
    const reports = [];
    for (let rank = 0; rank < ranks; rank += 1) {
      const layout = layOutParameters(index, { ranks, rank, keyValueHeads: 2 });
      const parameters = await WorkerParameters.allocate({ layout, device: openDevice(t, rank), rank, pool });
      // In a different order than in the file.
      await parameters.install(source, tensors.slice(7).reverse());
      await parameters.install(source, tensors.slice(0, 7));
      reports.push({ rank, ...(await parameters.digest(index.names)) });
      await parameters.writeParts(out, index.offsets);
      parameters.free();
    }
    const expected = await digestTensors(pool, source, index.offsets, index.bytes);
    assert.deepEqual(combineParts(reports, expected), { ok: true, badCount: 0, bad: [] });
    const header = Math.min(...index.offsets);
    assert.deepEqual(readFileSync(`${path}.out`).subarray(header), readFileSync(path).subarray(header));
  });
}

test('the tensors of a parameter follow each other, and each parameter has the alignment of a GPU allocation', async (t) => {
  const { index } = await model(t);
  const { parameters, tensors, bytes } = layOutParameters(index, { ranks: 2, rank: 1, keyValueHeads: 2 });
  const offsetIn = (name: string, tensor: string) =>
    tensors.get(tensor)!.offset - parameters.find((parameter) => parameter.name === name)!.offset;
  const experts = 'model.layers.1.mlp.experts';
  assert.equal(offsetIn(`${experts}.w13_weight`, `${experts}.0.gate_proj.weight`), 0);
  assert.equal(offsetIn(`${experts}.w13_weight`, `${experts}.0.up_proj.weight`), 4 * 24 * 2);
  assert.equal(offsetIn(`${experts}.w13_weight`, `${experts}.10.gate_proj.weight`), 6 * 4 * 24 * 2);
  const attention = 'model.layers.0.self_attn';
  assert.equal(offsetIn(`${attention}.qkv_proj.weight`, `${attention}.v_proj.weight`), (16 + 8) * 24 * 2);
  assert.ok(parameters.every(({ offset }) => offset % 256 === 0));
  const ends = parameters.map(({ offset, bytes: size }) => offset + size);
  assert.ok(parameters.slice(1).every(({ offset }, at) => offset >= ends[at]!));
  assert.equal(bytes, ends.at(-1));
});

test('dummy weights depend on parameter name and rank only', async (t) => {
  const { index, pool } = await model(t);
  const contents = async (rank: number, device: number) => {
    const layout = layOutParameters(index, { ranks: 4, rank, keyValueHeads: 2 });
    const parameters = await WorkerParameters.allocate({ layout, device: openDevice(t, device), rank, pool });
    const content = parameters.read(0, parameters.bytes);
    parameters.free();
    return { layout, content };
  };
  const { layout, content } = await contents(1, 0);
  assert.deepEqual((await contents(1, 1)).content, content);
  assert.notDeepEqual((await contents(2, 2)).content, content);
  const starts = layout.parameters
    .filter(({ bytes }) => bytes >= 16)
    .map(({ offset }) => content.toString('hex', offset, offset + 16));
  assert.equal(new Set(starts).size, starts.length);
});

test('a model that does not fit into the device is refused, naming parameter, rank, needed and free memory', async (t) => {
  const { index, pool } = await model(t);
  const layout = layOutParameters(index, { ranks: 1, rank: 0, keyValueHeads: null });
  const last = layout.parameters.at(-1)!;
  const device = openDevice(t, 0, 8192);
  const fits = layout.parameters.find(({ offset, bytes }) => offset + bytes > device.memory().free)!;
  assert.notEqual(fits, last);
  await assert.rejects(
    WorkerParameters.allocate({ layout, device, rank: 0, pool }),
    (error) =>
      error instanceof MemoryError &&
      error.message.includes(`parameter ${fits.name} (${fits.bytes} bytes)`) &&
      error.message.includes('rank 0') &&
      error.message.includes(`${layout.bytes} bytes, 8192 are free`),
  );
});

test('a tensor that is unknown or has another dtype or shape is refused by name', async (t) => {
  const { index, source, pool } = await model(t);
  const layout = layOutParameters(index, { ranks: 1, rank: 0, keyValueHeads: null });
  const parameters = await WorkerParameters.allocate({ layout, device: openDevice(t, 0), rank: 0, pool });
  t.after(() => parameters.free());
  const step = { name: 'model.step', dtype: 'I64', shape: [], offset: 0 };
  const refused = (tensor: typeof step | { shape: number[] }, words: string) =>
    assert.rejects(
      parameters.install(source, [{ ...step, ...tensor }]),
      (error) => error instanceof EngineError && error.message.includes(words),
    );
  await refused({ ...step, name: 'model.stride' }, 'no tensor model.stride');
  await refused({ ...step, dtype: 'F64' }, 'tensor model.step is I64 [] in the model, not F64 []');
  await refused({ ...step, shape: [1] }, 'not I64 [1]');
});
