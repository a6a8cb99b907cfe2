import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { DiskFile } from '../../bench/disk-file.ts';
import { addon } from '../../src/native-bridge/addon.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

/** `f_type` of a file system in memory, whose files are all in the page cache. */
const tmpfs = 0x01021994;

/** A file of random bytes in a directory of its own, and zeroed memory of as many bytes. */
function setUp(t: TestContext, bytes: number) {
  const { namespace } = new TestHost(t);
  const directory = mkdtempSync(join(tmpdir(), `${namespace}-`));
  const path = join(directory, 'model.safetensors');
  const content = randomBytes(bytes);
  writeFileSync(path, content);
  const destination = Mapping.create(`/dev/shm/${namespace}`, bytes);
  const pool = new ThreadPool(3);
  t.after(() => {
    pool.close();
    rmSync(directory, { recursive: true });
  });
  const progress = new Float64Array(1);
  /** Digests as they come if `tensors` names some, and no more than two threads that compute. */
  const load = (from: string, ranges: Float64Array, tensors = new Float64Array(0)) =>
    pool.load(destination, { files: [{ path: from, ranges }], tensors, progress, processors: 2 });
  return { pool, load, path, content, destination, directory, progress };
}

test('ranges of a file are read to where they belong, and counted', async (t) => {
  const bytes = 20_000_003;
  const { load, path, content, destination, progress } = setUp(t, bytes);
  // The halves change places; between them is a range of no bytes.
  const half = 10_000_001;
  const ranges = Float64Array.of(0, bytes - half, half, 5, 0, 0, half, 0, bytes - half);
  await load(path, ranges);
  assert.equal(progress[0], bytes);
  const swapped = Buffer.concat([content.subarray(half), content.subarray(0, half)]);
  assert(destination.read(0, bytes).equals(swapped));
});

test('many small ranges are all read, and the counter goes on from what it had', async (t) => {
  const { load, path, content, destination, progress } = setUp(t, 500_000);
  progress[0] = 7;
  const ranges = Float64Array.from({ length: 3 * 5000 }, (_, at) =>
    at % 3 === 2 ? 100 : Math.floor(at / 3) * 100,
  );
  await load(path, ranges);
  assert.equal(progress[0], 500_007);
  assert(destination.read(0, 500_000).equals(content));
});

test('a file that is shorter than a range is refused before anything is read, with its size', async (t) => {
  const { load, path, progress } = setUp(t, 1000);
  truncateSync(path, 900);
  await assert.rejects(load(path, Float64Array.of(0, 0, 500, 500, 500, 500)), {
    name: 'CheckpointError',
    message: `${path} has 900 bytes, but the bytes 500 to 1000 are asked for`,
  });
  assert.equal(progress[0], 0);
});

test('a file that is cut while it is read ends in an error that says where', async (t) => {
  const bytes = 256 << 20;
  const { namespace } = new TestHost(t);
  const path = `/dev/shm/${namespace}-file`;
  writeFileSync(path, '');
  truncateSync(path, bytes);
  const destination = Mapping.create(`/dev/shm/${namespace}`, bytes);
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const progress = new Float64Array(1);
  const files = [{ path, ranges: Float64Array.of(0, 0, bytes) }];
  const loaded = pool.load(destination, { files, tensors: new Float64Array(0), progress, processors: 1 });
  const refused = assert.rejects(loaded, (error: Error) => {
    assert.match(error.message, new RegExp(`^file ended early: ${path} at offset \\d+$`));
    return (error.cause as { code?: unknown }).code === 'FILE_ENDED';
  });
  // Runs while the pool reads; the last piece is far from its turn.
  while (progress[0] === 0);
  truncateSync(path, 4096);
  await refused;
  assert(progress[0]! < bytes);
});

test('what cannot be opened or is no regular file is refused in words', async (t) => {
  const { load: loadRanges, path, directory } = setUp(t, 1000);
  const load = (from: string) => loadRanges(from, Float64Array.of(0, 0, 1));
  await assert.rejects(load(`${path}.missing`), {
    name: 'NativeError',
    message: `cannot open ${path}.missing: No such file or directory`,
  });
  mkdirSync(join(directory, 'directory'));
  await assert.rejects(load(join(directory, 'directory')), /directory: not a regular file$/);
  spawnSync('mkfifo', [join(directory, 'fifo')]);
  await assert.rejects(load(join(directory, 'fifo')), /fifo: not a regular file$/);
});

test('a missing file is an error even where nothing is to be read', async (t) => {
  const { load, path } = setUp(t, 1000);
  await assert.rejects(load(`${path}.missing`, new Float64Array(0)), /cannot open/);
});

test('after a failed load the pool does the next one', async (t) => {
  const { load, path, content, destination } = setUp(t, 1000);
  const range = Float64Array.of(0, 0, 1000);
  const failed = assert.rejects(load('/nowhere', range));
  await load(path, range);
  await failed;
  assert(destination.read(0, 1000).equals(content));
});

test('ranges outside the destination are refused', async (t) => {
  const { pool, load, path, destination, progress } = setUp(t, 1000);
  const none = new Float64Array(0);
  await assert.rejects(load(path, Float64Array.of(0, 1, 1000)), /lies outside/);
  await assert.rejects(load(path, Float64Array.of(-1, 0, 1)), /ranges\[0\]/);
  await assert.rejects(load(path, none, Float64Array.of(0, 500, 400, 10)), /tensor 1 begins before/);
  await assert.rejects(load(path, Float64Array.of(0, 0, 10, 20, 20, 10), Float64Array.of(5, 20)), {
    message: 'the ranges bring 10 of the 20 bytes of tensors',
  });
  const work = { files: [{ path, ranges: none }], tensors: none, progress: none, processors: 1 };
  await assert.rejects(pool.load(destination, work), /progress/);
  const native = new addon.ThreadPool(1);
  const wrong = [0] as unknown as Float64Array;
  await assert.rejects(native.load([path], [wrong], destination.native, none, progress, 1), {
    code: 'ERR_INVALID_ARG_TYPE',
  });
  native.close();
});

test('any ranges are read to where they belong, and tensors are digested as their bytes come', async (t) => {
  const bytes = 9 << 20;
  const { pool, load, path, content, destination } = setUp(t, bytes);
  // Long and short, near each other and far, out of order, some of the same bytes.
  const lengths = fc.oneof(fc.integer({ min: 0, max: 2_000 }), fc.integer({ min: 0, max: 3 << 20 }));
  const range = fc.record({ from: fc.integer({ min: 0, max: bytes }), length: lengths, gap: fc.nat(600) });
  for (const drawn of fc.sample(fc.array(range, { minLength: 1, maxLength: 40 }), 15)) {
    const [ranges, tensors]: [number[], number[]] = [[], []];
    const expected = Buffer.alloc(bytes);
    let place = 0;
    for (const { from, length, gap } of drawn) {
      place = Math.min(bytes, place + gap);
      const count = Math.max(0, Math.min(length, bytes - from, bytes - place));
      ranges.push(from, place, count);
      // Of some ranges two tensors, of some none.
      const half = Math.floor(count / 2);
      if (gap % 3 > 0) tensors.push(place, half, place + half, count - half);
      content.copy(expected, place, from, from + count);
      place += count;
    }
    destination.write(0, Buffer.alloc(bytes));
    const digests = await load(path, Float64Array.from(ranges), Float64Array.from(tensors));
    assert(destination.read(0, bytes).equals(expected), fc.stringify(drawn));
    const offsets = Float64Array.from(tensors.filter((_, at) => at % 2 === 0));
    const sizes = Float64Array.from(tensors.filter((_, at) => at % 2 === 1));
    assert.deepEqual(digests, await digestTensors(pool, destination, offsets, sizes), fc.stringify(drawn));
  }
});

test('files of one load are each read to their places, and one that is missing or too short fails all of it', async (t) => {
  const bytes = 9 << 20;
  const { pool, path, content, destination, directory, progress } = setUp(t, bytes);
  const file = (name: string, from: number, count: number) => {
    const each = join(directory, name);
    writeFileSync(each, content.subarray(from, from + count));
    return { path: each, ranges: Float64Array.of(0, from, count) };
  };
  const third = bytes / 3;
  const files = [0, 1, 2].map((at) => file(`${at}.safetensors`, at * third, third));
  // One tensor lies in two files, which no checkpoint has.
  const tensors = Float64Array.of(7, bytes - 7);
  const work = { tensors, progress, processors: 1 };
  const digests = await pool.load(destination, { ...work, files });
  assert(destination.read(0, bytes).equals(content));
  const [offsets, sizes] = [Float64Array.of(7), Float64Array.of(bytes - 7)];
  assert.deepEqual(digests, await digestTensors(pool, destination, offsets, sizes));
  assert.deepEqual(
    await pool.load(destination, { ...work, files: [], tensors: new Float64Array(0) }),
    new BigUint64Array(0),
  );
  const empty = { path: `${path}.missing`, ranges: new Float64Array(0) };
  await assert.rejects(
    pool.load(destination, { ...work, files: [...files, empty] }),
    /cannot open .*missing/,
  );
  truncateSync(files[1]!.path, third - 1);
  await assert.rejects(pool.load(destination, { ...work, files }), /1\.safetensors has \d+ bytes/);
});

test('a file on a disk is not in the page cache after a load, unless it was before', async (t) => {
  const bytes = 20_000_003;
  const { load, path, content, destination, directory } = setUp(t, bytes);
  if (statfsSync(directory).type === tmpfs) return t.skip('the directory of temporary files is on no disk');
  if (spawnSync('fincore', ['--version']).error)
    return t.skip('fincore is missing (Debian: util-linux-extra)');
  const disk = new DiskFile(directory, path);
  const loadAll = () => load(disk.path, Float64Array.of(0, 0, bytes));
  disk.dropFromCache();
  await loadAll();
  assert(disk.cachedBytes() < bytes / 10, String(disk.cachedBytes()));
  disk.fetchIntoCache();
  await loadAll();
  assert(disk.cachedBytes() >= bytes);
  assert(destination.read(0, bytes).equals(content));
});
