import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

const mebibyte = 1 << 20;

function setUp(t: TestContext, bytes: number, threads = 3) {
  const { namespace } = new TestHost(t);
  const pool = new ThreadPool(threads);
  t.after(() => pool.close());
  return { pool, destination: Mapping.create(`/dev/shm/${namespace}-destination`, bytes) };
}

for (const threads of [1, 3]) {
  test(`tensors of all sizes are written by ${threads} threads to their places, with the digests of what is there`, async (t) => {
    const sizes = [0, 1, 7, 8, 9, 255, 4096, 262_143, 262_144, 262_147, 3 * mebibyte + 5, 0, 9 * mebibyte];
    const sources = sizes.map((size) => randomBytes(size + 3).subarray(3));
    const offsets = new Float64Array(sizes.length);
    for (const index of sizes.keys()) {
      offsets[index] = index === 0 ? 5 : offsets[index - 1]! + sizes[index - 1]! + 13;
    }
    const end = offsets.at(-1)! + sizes.at(-1)!;
    const { pool, destination } = setUp(t, end + 100, threads);
    const progress = new Float64Array(1);
    const digests = await pool.write(sources, destination, offsets, progress);
    const expected = await digestTensors(pool, destination, offsets, Float64Array.from(sizes));
    assert.deepEqual(digests, expected);
    assert.equal(
      progress[0],
      sizes.reduce((sum, size) => sum + size),
    );
    for (const [index, source] of sources.entries()) {
      assert(destination.read(offsets[index]!, source.length).equals(source), `tensor ${index}`);
    }
    assert(destination.read(end, 100).equals(Buffer.alloc(100)), 'nothing around them was touched');
    assert(destination.read(offsets[3]! + 8, 13).equals(Buffer.alloc(13)));
  });
}

test('a write follows the jobs before it on the same bytes, and those after it see what it wrote', async (t) => {
  const { pool, destination } = setUp(t, 4 * mebibyte);
  const last = randomBytes(4 * mebibyte);
  const offsets = Float64Array.of(0);
  const writes = [Buffer.alloc(4 * mebibyte, 1), Buffer.alloc(4 * mebibyte, 2), last].map((source) =>
    pool.write([source], destination, offsets),
  );
  const after = digestTensors(pool, destination, offsets, Float64Array.of(4 * mebibyte));
  assert.deepEqual(await after, await writes[2]);
  assert(destination.read(0, 4 * mebibyte).equals(last));
});

test('tensors that do not fit are refused before a byte is written', async (t) => {
  const { pool, destination } = setUp(t, 100);
  const refused = (sources: Uint8Array[], offsets: number[], message: RegExp) =>
    assert.rejects(pool.write(sources, destination, Float64Array.from(offsets)), {
      name: 'NativeError',
      message,
    });
  await refused([Buffer.alloc(10, 1), Buffer.alloc(11, 1)], [0, 90], /offset 90 with 11 bytes lies outside/);
  await refused([Buffer.alloc(10, 1)], [0, 1], /as many offsets as sources/);
  await refused([Buffer.alloc(10, 1)], [0.5], /offsets\[0\]/);
  await assert.rejects(
    pool.native.write([Buffer.alloc(1), {} as never], destination.native, Float64Array.of(0, 1), null),
    {
      code: 'ERR_INVALID_ARG_TYPE',
    },
  );
  await assert.rejects(
    pool.write([Buffer.alloc(1)], Mapping.open(destination.path, false), Float64Array.of(0)),
    /is mapped for reading only/,
  );
  assert(destination.read(0, 100).equals(Buffer.alloc(100)));
});

test('no tensors are a write of nothing', async (t) => {
  const { pool, destination } = setUp(t, 1);
  assert.equal((await pool.write([], destination, new Float64Array(0))).length, 0);
});
