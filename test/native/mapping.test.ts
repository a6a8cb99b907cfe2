import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { OutOfHostMemoryError } from '../../src/errors.ts';
import { addon } from '../../src/native-bridge/addon.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';
import { TestHost } from './harness.ts';

const freshPath = (t: TestContext) => `/dev/shm/${new TestHost(t).namespace}`;

test('memory that should lie on a NUMA node is as good as any, also where there is no such node', (t) => {
  for (const node of [0, 1, 1023, 5000]) {
    const path = `/dev/shm/${sharedMemoryName()}-node-${node}`;
    const mapping = Mapping.create(path, 10_000, node);
    t.after(() => mapping.unlink());
    mapping.write(9_999, Uint8Array.of(7));
    assert.equal(mapping.bytes, 10_000);
    assert.deepEqual([...mapping.read(9_998, 2)], [0, 7]);
  }
});

test('what one mapping writes, another mapping and the file show', (t) => {
  const path = freshPath(t);
  const written = Mapping.create(path, 10_000);
  assert.equal(written.path, path);
  assert.equal(written.bytes, 10_000);
  written.write(9_996, Uint8Array.of(1, 2, 3, 4));
  const seen = Mapping.open(path, false);
  assert.equal(seen.bytes, 10_000);
  assert.deepEqual([...seen.read(9_994, 6)], [0, 0, 1, 2, 3, 4]);
  assert.deepEqual([...readFileSync(path).subarray(9_996)], [1, 2, 3, 4]);
  const copy = seen.read(9_996, 4);
  written.write(9_996, Uint8Array.of(9));
  assert.equal(copy[0], 1, 'read makes a copy');
});

test('a new file is private and its pages are reserved', (t) => {
  const path = freshPath(t);
  Mapping.create(path, 1 << 20);
  const { mode, blocks } = statSync(path);
  assert.equal(mode & 0o777, 0o600);
  assert(blocks * 512 >= 1 << 20);
});

test('a file that exists already is not taken over', (t) => {
  const path = freshPath(t);
  writeFileSync(path, 'precious');
  assert.throws(() => Mapping.create(path, 100), { message: `cannot create ${path}: File exists` });
  assert.equal(readFileSync(path, 'utf8'), 'precious');
});

test('a file larger than what is free is refused at once, with what is wanted and what is free', (t) => {
  const path = freshPath(t);
  assert.throws(() => Mapping.create(path, 2 ** 50), {
    name: 'OutOfHostMemoryError',
    message:
      /^cannot reserve \/dev\/shm\/test-[\w-]+ \(1 PiB wanted, [\d.]+ [KMGT]iB free\): No space left on device$/,
  });
  assert(!existsSync(path));
});

test('a refused file takes nothing of the space that others need', (t) => {
  const path = freshPath(t);
  const before = statfsSync('/dev/shm');
  assert.throws(() => Mapping.create(path, (before.bavail + 1_000_000) * before.bsize), OutOfHostMemoryError);
  const after = statfsSync('/dev/shm');
  assert(before.bavail - after.bavail < 100_000);
});

test('the name goes with unlink, the memory only with close', (t) => {
  const path = freshPath(t);
  const mapping = Mapping.create(path, 4);
  mapping.unlink();
  mapping.unlink();
  assert(!existsSync(path));
  mapping.write(0, Uint8Array.of(5));
  assert.deepEqual([...mapping.read(0, 1)], [5]);
  mapping.close();
  mapping.close();
  assert.throws(() => mapping.read(0, 1), { message: `the mapping of ${path} is closed` });
});

test('unlink spares another file that has taken the name', (t) => {
  const path = freshPath(t);
  const mapping = Mapping.create(path, 4);
  mapping.unlink();
  writeFileSync(path, 'precious');
  mapping.unlink();
  assert(existsSync(path));
});

test('ranges outside the file are refused, naming offset, bytes and size', (t) => {
  const path = freshPath(t);
  const mapping = Mapping.create(path, 100);
  const outside = (offset: number, bytes: number) => ({
    name: 'NativeError',
    message: `offset ${offset} with ${bytes} bytes lies outside ${path} of 100 bytes`,
  });
  assert.throws(() => mapping.read(100, 1), outside(100, 1));
  assert.throws(() => mapping.read(99, 2), outside(99, 2));
  assert.throws(() => mapping.read(Number.MAX_SAFE_INTEGER, 64), outside(Number.MAX_SAFE_INTEGER, 64));
  assert.throws(() => mapping.write(98, new Uint8Array(3)), outside(98, 3));
  assert.equal(mapping.read(100, 0).length, 0);
  mapping.write(100, new Uint8Array(0));
});

test('numbers that are no sizes are refused, naming the argument', (t) => {
  const mapping = Mapping.create(freshPath(t), 100);
  for (const number of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
    assert.throws(() => mapping.read(number, 1), { message: /^offset must be a whole number below 2\^53/ });
    assert.throws(() => Mapping.create('/dev/shm/never', number), {
      message: /^bytes must be a whole number/,
    });
  }
  assert.throws(() => Mapping.create('/dev/shm/never', 0), { message: /with 0 bytes$/ });
  assert.throws(() => mapping.read(0, (64 << 20) + 1), { message: /at most 64 MiB/ });
});

test('arguments of a wrong type are type errors, never a crash', (t) => {
  const { native } = Mapping.create(freshPath(t), 100);
  const read = native.read as (...values: unknown[]) => unknown;
  for (const values of [[], ['0', 1], [0n, 1], [0, null], [{}, 1]]) {
    assert.throws(() => read.apply(native, values), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  }
  assert.throws(() => read.call({}, 0, 1));
  const Constructor = addon.Mapping as unknown as new (...values: unknown[]) => unknown;
  assert.throws(() => new Constructor(), TypeError);
  assert.throws(() => new Constructor({}), TypeError);
  assert.throws(() => Mapping.open('/dev/shm/with\0zero', false), { code: 'WEIGHTCAST_NATIVE' });
});

test('what is no file to map is refused in words', (t) => {
  const path = freshPath(t);
  assert.throws(() => Mapping.open(path, false), {
    message: `cannot open ${path}: No such file or directory`,
  });
  writeFileSync(path, '');
  assert.throws(() => Mapping.open(path, false), { message: `cannot map ${path}: the file is empty` });
  mkdirSync(`${path}-directory`);
  assert.throws(() => Mapping.open(`${path}-directory`, false), { message: /not a regular file$/ });
  spawnSync('mkfifo', [`${path}-fifo`]);
  assert.throws(() => Mapping.open(`${path}-fifo`, false), { message: /not a regular file$/ });
});

test('a file mapped for reading only cannot be written to', (t) => {
  const path = freshPath(t);
  writeFileSync(path, 'precious');
  chmodSync(path, 0o400);
  const mapping = Mapping.open(path, false);
  assert.throws(() => mapping.write(0, Uint8Array.of(1)), { message: `${path} is mapped for reading only` });
  assert.equal(readFileSync(path, 'utf8'), 'precious');
});
