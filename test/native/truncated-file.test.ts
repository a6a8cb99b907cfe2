/** Files that someone truncates while they are mapped: what reads or writes them fails, and nothing else does. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

const size = 4 << 20;
/** One page of it is left. */
const left = 4_096;

function mapped(t: TestContext, isWritable = false) {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  writeFileSync(path, Buffer.alloc(size, 1));
  const pool = new ThreadPool(2);
  t.after(() => pool.close());
  return { path, mapping: Mapping.open(path, isWritable), pool };
}

const ended = (path: string) => ({
  name: 'CheckpointError',
  message: `${path} was truncated while it was in use`,
});
const all = Float64Array.of(0);
const digest = (pool: ThreadPool, mapping: Mapping, bytes = size) =>
  digestTensors(pool, mapping, all, Float64Array.of(bytes));

test('the digest of a truncated file is an error that names it, now and later; other files are read on', async (t) => {
  const [one, other] = [mapped(t), mapped(t)];
  const before = await digest(other.pool, other.mapping);
  truncateSync(one.path, left);
  for (let times = 0; times < 2; times += 1)
    await assert.rejects(digest(one.pool, one.mapping), ended(one.path));
  // What is left of it is no longer what it was either.
  await assert.rejects(digest(one.pool, one.mapping, left), ended(one.path));
  assert.deepEqual(await digest(one.pool, other.mapping), before);
  truncateSync(one.path, size);
  const again = Mapping.open(one.path, false);
  assert.deepEqual(again.read(left, 2), Buffer.alloc(2), 'the file itself was not written');
});

test('a part of a file that is not truncated is read', async (t) => {
  const { path, mapping, pool } = mapped(t);
  const before = await digest(pool, mapping, left);
  truncateSync(path, left);
  assert.deepEqual(await digest(pool, mapping, left), before);
});

test('a copy out of or into a truncated file is an error that names it', async (t) => {
  for (const isInto of [false, true]) {
    const [cut, whole] = [mapped(t, true), mapped(t, true)];
    truncateSync(cut.path, left);
    const [source, destination] = isInto ? [whole, cut] : [cut, whole];
    const rectangle = Float64Array.of(0, 0, size, 1, size, size);
    await assert.rejects(cut.pool.copy(source.mapping, destination.mapping, rectangle), ended(cut.path));
  }
});

test('this process reads and writes a truncated file as little', (t) => {
  const { path, mapping } = mapped(t, true);
  truncateSync(path, left);
  assert.equal(mapping.read(0, 1)[0], 1);
  assert.throws(() => mapping.read(size - 1, 1), ended(path));
  const [again] = [Mapping.open(path, true)];
  truncateSync(path, 0);
  assert.throws(() => again.write(0, Uint8Array.of(1)), ended(path));
});

test('a SIGBUS of something else ends the process as it does anywhere', (t) => {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  writeFileSync(path, 'x');
  const module = fileURLToPath(new URL('../../src/native-bridge/memory.js', import.meta.url));
  const code = `
    import { Mapping } from ${JSON.stringify(module)};
    Mapping.open(${JSON.stringify(path)}, false).read(0, 1);
    process.kill(process.pid, 'SIGBUS');
    setTimeout(() => {}, 60_000);`;
  const { signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code]);
  assert.ok(existsSync(path));
  // Sanitizers had handlers before ours, which tell of the signal.
  const sanitizers = process.env.WEIGHTCAST_TEST_SANITIZERS;
  if (sanitizers === 'thread') return assert.match(String(stderr), /ThreadSanitizer: BUS/);
  assert.equal(signal, sanitizers === undefined ? 'SIGBUS' : 'SIGABRT', String(stderr));
});
