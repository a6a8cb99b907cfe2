import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { decodeManifest } from '../../src/checkpoint/manifest.ts';
import { type NamedTensors, sizesOfTensors, type TensorSegment } from '../../src/checkpoint/named-tensors.ts';
import { TensorWriter } from '../../src/checkpoint/tensor-writer.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { shareTensors } from '../../src/plan/tensor-shares.ts';
import { TestHost } from '../native/harness.ts';

function randomTensors(): NamedTensors {
  const tensor = (dtype: string, shape: number[], width: number) => {
    const data = randomBytes(shape.reduce((product, size) => product * size, width));
    return { dtype, shape, data };
  };
  return {
    large: tensor('BF16', [700, 1000], 2),
    empty: tensor('F32', [0, 7], 4),
    odd: tensor('F8_E4M3', [3, 111], 1),
    scalar: tensor('F32', [], 4),
    last: tensor('F16', [123_457], 2),
  };
}

function setUp(t: TestContext) {
  const { namespace } = new TestHost(t);
  const directory = `/dev/shm/${namespace}`;
  mkdirSync(directory);
  const writer = new TensorWriter(2);
  t.after(() => writer.close());
  const segmentsFor = (tensors: NamedTensors): TensorSegment[] =>
    shareTensors(sizesOfTensors('c', tensors), [0, 1]).map((share) => ({
      ...share,
      path: `${directory}/segment-${share.rank}`,
      host: 'h',
    }));
  return { writer, segmentsFor };
}

async function check(encoded: Uint8Array, tensors: NamedTensors): Promise<void> {
  const manifest = decodeManifest(encoded);
  assert.deepEqual(manifest.names, Object.keys(tensors));
  const pool = new ThreadPool(1);
  for (const [row, name] of manifest.names.entries()) {
    const { path } = manifest.segments[manifest.segmentOf[row]!]!;
    const [offset, size] = [manifest.offsets[row]!, manifest.bytes[row]!];
    assert.equal(offset % 256, 0);
    const place = readFileSync(path).subarray(offset, offset + size);
    assert(place.equals(tensors[name]!.data), name);
    const [digest] = await digestTensors(
      pool,
      Mapping.open(path, false),
      Float64Array.of(offset),
      Float64Array.of(size),
    );
    assert.equal(manifest.digests[row], digest, name);
  }
  pool.close();
}

test('tensors are written into segments, described with their digests, and again into the same files', async (t) => {
  const { writer, segmentsFor } = setUp(t);
  const tensors = randomTensors();
  const segments = segmentsFor(tensors);
  assert.equal(segments.length, 2);
  const job = writer.write('c', tensors, segments, false);
  await check(await job.manifest, tensors);
  const inodes = segments.map(({ path }) => statSync(path).ino);
  for (const [index, { rank, doneBytes, totalBytes }] of job.progress().entries()) {
    assert.equal(rank, segments[index]!.rank);
    assert(doneBytes <= totalBytes && doneBytes > totalBytes - 256 * 5);
  }
  const next = randomTensors();
  const again = writer.write('c', next, segments, true);
  await check(await again.manifest, next);
  assert.deepEqual(
    segments.map(({ path }) => statSync(path).ino),
    inodes,
  );
  // Another process has made them.
  const other = new TensorWriter(1);
  await check(await other.write('c', tensors, segments, true).manifest, tensors);
  other.close();
});

test('segments that cannot all be made leave none behind', async (t) => {
  const { writer, segmentsFor } = setUp(t);
  const tensors = randomTensors();
  const [first, second] = segmentsFor(tensors) as [TensorSegment, TensorSegment];
  const vast = { ...second, bytes: 2 ** 50 };
  await assert.rejects(writer.write('c', tensors, [first, vast], false).manifest, {
    name: 'OutOfHostMemoryError',
    message: /cannot reserve .*segment-1 \(1 PiB wanted, .* free\)/,
  });
  assert(!existsSync(first.path) && !existsSync(second.path));
  await check(await writer.write('c', tensors, [first, second], false).manifest, tensors);
});

test('segments that are not what they are said to be are refused', async (t) => {
  const { writer, segmentsFor } = setUp(t);
  const tensors = randomTensors();
  const segments = segmentsFor(tensors);
  await assert.rejects(writer.write('c', tensors, segments, true).manifest, /No such file or directory/);
  Mapping.create(segments[0]!.path, 10);
  await assert.rejects(writer.write('c', tensors, segments, true).manifest, /has 10 bytes, not \d+/);
});

test('what is forgotten is no longer mapped', async (t) => {
  const { writer, segmentsFor } = setUp(t);
  const tensors = randomTensors();
  const segments = segmentsFor(tensors);
  await writer.write('c', tensors, segments, false).manifest;
  const mapped = () => segments.filter(({ path }) => readFileSync('/proc/self/maps', 'utf8').includes(path));
  assert.equal(mapped().length, 2);
  writer.forget([segments[0]!.path, '/dev/shm/never']);
  assert.deepEqual(mapped(), [segments[1]]);
  writer.close();
  assert.deepEqual(mapped(), []);
});

test('a tensor that is wrong is named', () => {
  const data = new Uint8Array(10);
  const sizes = (tensors: NamedTensors) => () => sizesOfTensors('c', tensors);
  assert.throws(sizes({ t: { dtype: 'X9', shape: [10], data } }), /tensor t: there is no dtype X9/);
  assert.throws(
    sizes({ t: { dtype: 'F32', shape: [3], data } }),
    /tensor t: F32 .* is 12 bytes, its data has 10/,
  );
  assert.throws(sizes({}), /checkpoint c has no tensors/);
});
