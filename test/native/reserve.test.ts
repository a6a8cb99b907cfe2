import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { addon } from '../../src/native-bridge/addon.ts';
import { awaitNative } from '../../src/native-bridge/call.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';
import { runPreloaded } from './preloaded.ts';

const mebibyte = 1 << 20;

function setUp(t: TestContext, threads = 3) {
  const host = new TestHost(t);
  const pool = new ThreadPool(threads);
  t.after(() => pool.close());
  return { host, pool, path: `/dev/shm/${host.namespace}-reserved` };
}

/** A file system of its own; undefined where none can be mounted. */
function smallFileSystem(t: TestContext, mebibytes: number): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
  t.after(() => {
    // Its files may still be mapped.
    spawnSync('umount', ['--lazy', directory]);
    rmSync(directory, { recursive: true, force: true });
  });
  const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', directory]);
  if (mount.status !== 0) {
    t.skip('no file system can be mounted here');
    return undefined;
  }
  return directory;
}

const freeBytes = (directory: string) => {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
};

for (const bytes of [1, 4097, 3 * mebibyte + 5, 130 * mebibyte + 1]) {
  test(`a reserved file of ${bytes} bytes is private, has all its pages, and holds zeros`, async (t) => {
    const { pool, path } = setUp(t);
    const progress = new Float64Array(1);
    const mapping = await Mapping.reserve(path, bytes, { pool, progress });
    const { mode, size, blocks } = statSync(path);
    assert.equal(size, bytes);
    assert.equal(mode & 0o777, 0o600);
    assert(blocks * 512 >= bytes);
    assert.equal(progress[0], bytes);
    const end = Math.min(bytes, 1000);
    assert(mapping.read(bytes - end, end).equals(Buffer.alloc(end)));
    mapping.write(bytes - 1, Uint8Array.of(7));
    assert.deepEqual([...Mapping.open(path, false).read(bytes - 1, 1)], [7]);
  });
}

test('a file that exists already is not taken over, and what is hopeless is refused at once', async (t) => {
  const { pool, path } = setUp(t);
  Mapping.create(path, 10).write(0, Uint8Array.of(5));
  await assert.rejects(Mapping.reserve(path, 10, { pool }), {
    message: `cannot create ${path}: File exists`,
  });
  assert.deepEqual([...Mapping.open(path, false).read(0, 1)], [5]);
  await assert.rejects(Mapping.reserve(`${path}-huge`, 2 ** 50, { pool }), {
    name: 'OutOfHostMemoryError',
    message:
      /^cannot reserve \/dev\/shm\/test-[\w-]+-reserved-huge \(1 PiB wanted, [\d.]+ [KMGT]iB free\): No space left on device$/,
  });
  assert(!existsSync(`${path}-huge`));
});

test('a file system that is filled up meanwhile is an error with wanted and free bytes, and no signal', async (t) => {
  const directory = smallFileSystem(t, 24);
  if (directory === undefined) return;
  const { pool } = setUp(t);
  const before = freeBytes(directory);
  const [one, other] = ['one', 'other'].map((name) =>
    addon.Mapping.createEmpty(join(directory, name), 16 * mebibyte, -1),
  );
  await awaitNative(pool.native.reserve(one!, 0, 16 * mebibyte, null));
  await assert.rejects(awaitNative(pool.native.reserve(other!, 0, 16 * mebibyte, null)), {
    name: 'OutOfHostMemoryError',
    message: /^cannot reserve .*\/other \(16 MiB wanted, .* free\): No space left on device$/,
  });
  other!.unlink();
  other!.close();
  assert.equal(before - freeBytes(directory), 16 * mebibyte);
});

test('a file that cannot be reserved is gone again', async (t) => {
  const directory = smallFileSystem(t, 24);
  if (directory === undefined) return;
  const { pool } = setUp(t);
  const before = freeBytes(directory);
  const path = join(directory, 'file');
  // Both are found to fit while neither has its pages; each takes what it can until there are none left.
  const names = ['a', 'b'];
  const outcomes = await Promise.allSettled(
    names.map((name) => Mapping.reserve(path + name, 20 * mebibyte, { pool })),
  );
  const made = names.filter((_, index) => outcomes[index]!.status === 'fulfilled');
  assert(made.length < 2);
  assert.deepEqual(
    names.filter((name) => existsSync(path + name)),
    made,
  );
  assert.equal(before - freeBytes(directory), made.length * 20 * mebibyte);
});

test('pages come step by step from the begin, and what does not fit is refused', async (t) => {
  const directory = smallFileSystem(t, 24);
  if (directory === undefined) return;
  const { pool } = setUp(t);
  const progress = new Float64Array(1);
  const options = { pool, progress, stepBytes: 4 * mebibyte };
  // Each would fit alone, not both: the one that comes late is refused at its begin, or at one of its steps.
  const reasons: Error[] = [];
  const reserve = async (name: string) => {
    const path = join(directory, name);
    let steps: readonly Promise<unknown>[] = [];
    try {
      steps = Mapping.reserveInSteps(path, 14 * mebibyte, options).steps;
    } catch (error) {
      reasons.push(error as Error);
    }
    const ends = await Promise.allSettled(steps);
    const rejected = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as Error] : []));
    reasons.push(...rejected);
    if (steps.length > 0 && rejected.length === 0) assert.equal(statSync(path).blocks * 512, 14 * mebibyte);
    return ends.length - rejected.length;
  };
  const reserved = await Promise.all(['one', 'other'].map(reserve));
  assert.ok(reserved.some((steps) => steps > 0));
  assert.ok(reasons.length > 0);
  for (const { message } of reasons)
    assert.match(message, /^cannot reserve .*\/(one|other) \(14 MiB wanted, .* free\)/);
});

test('a kernel that cannot bring pages into a page table reserves them in the file', async (t) => {
  const host = new TestHost(t);
  const directory = join('/dev/shm', `${host.namespace}-old`);
  mkdirSync(directory);
  const { status, stdout, stderr } = runPreloaded(
    'old-kernel',
    new URL('fixtures/reserver.js', import.meta.url),
    join(directory, 'file'),
    String(70 * mebibyte),
  );
  assert.equal(status, 0, stderr);
  assert.equal(stdout.trim(), 'refused: cannot reserve; reserved: 73400320');
});
