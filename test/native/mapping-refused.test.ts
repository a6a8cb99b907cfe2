import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { addon } from '../../src/native-bridge/addon.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

function pathOf(host: TestHost): string {
  return `/dev/shm/${host.namespace}-segment`;
}

/** The `code` that the addon gave the error. */
function codeOf(body: () => unknown): unknown {
  try {
    body();
  } catch (error) {
    assert(error instanceof NativeError, String(error));
    return (error.cause as { code?: unknown }).code;
  }
  assert.fail('nothing was thrown');
}

test('a mapping starts as zeros, and all mappings of its file see what one writes', (t) => {
  const path = pathOf(new TestHost(t));
  const mapping = Mapping.create(path, 5000);
  assert.equal(mapping.bytes, 5000);
  assert.equal(statSync(path).size, 5000);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert(statSync(path).blocks * 512 >= 5000, 'its pages are reserved');
  assert(mapping.read(0, 5000).every((byte) => byte === 0));
  mapping.write(4997, Buffer.from('abc'));
  const other = Mapping.open(path, false);
  assert.equal(other.read(4997, 3).toString(), 'abc');
  const copied = other.read(4997, 3);
  mapping.write(4997, Buffer.from('xyz'));
  assert.equal(copied.toString(), 'abc');
  mapping.unlink();
  assert(!existsSync(path));
  assert.equal(other.read(4997, 3).toString(), 'xyz');
  mapping.close();
  mapping.close();
  assert.equal(
    codeOf(() => mapping.read(0, 1)),
    'CLOSED',
  );
  other.close();
});

test('more memory than there is is refused with the path and both sizes, and no file stays', (t) => {
  const path = pathOf(new TestHost(t));
  const { bavail, bsize } = statfsSync('/dev/shm');
  for (const bytes of [bavail * bsize + 2 ** 30, Number.MAX_SAFE_INTEGER]) {
    assert.throws(() => Mapping.create(path, bytes), {
      name: 'NativeError',
      message: /^cannot reserve \S*-segment \(.* wanted, .* free\): No space left on device$/,
    });
    assert(!existsSync(path));
  }
  assert.equal(
    codeOf(() => Mapping.create(path, 2 ** 50)),
    'ENOSPC',
  );
});

test('an existing file is not overwritten, and a mapping of no bytes is not made', (t) => {
  const path = pathOf(new TestHost(t));
  writeFileSync(path, 'precious');
  assert.equal(
    codeOf(() => Mapping.create(path, 8)),
    'EEXIST',
  );
  assert.equal(statSync(path).size, 8);
  for (const bytes of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
    assert.equal(
      codeOf(() => Mapping.create(`${path}-${bytes}`, bytes)),
      'OUT_OF_RANGE',
    );
    assert(!existsSync(`${path}-${bytes}`));
  }
});

test('what cannot be mapped is refused with its path and the reason', (t) => {
  const host = new TestHost(t);
  const path = pathOf(host);
  assert.equal(
    codeOf(() => Mapping.open(path, false)),
    'ENOENT',
  );
  writeFileSync(path, '');
  assert.throws(() => Mapping.open(path, false), { message: `cannot map ${path}: the file is empty` });
  mkdirSync(`${path}-directory`);
  assert.throws(() => Mapping.open(`${path}-directory`, false), {
    message: /-directory: not a regular file$/,
  });
  assert.equal(
    codeOf(() => Mapping.open(`${path}-directory`, true)),
    'EISDIR',
  );
});

test('a file without permission is refused', {
  skip: process.geteuid?.() === 0 && 'root may open all',
}, (t) => {
  const path = pathOf(new TestHost(t));
  writeFileSync(path, 'secret');
  chmodSync(path, 0o400);
  assert.equal(
    codeOf(() => Mapping.open(path, true)),
    'EACCES',
  );
});

test('reads and writes outside the mapping are refused with offset, bytes and size', (t) => {
  const path = pathOf(new TestHost(t));
  const mapping = Mapping.create(path, 100);
  assert.throws(() => mapping.read(90, 11), {
    name: 'NativeError',
    message: `offset 90 with 11 bytes lies outside ${path} of 100 bytes`,
  });
  assert.equal(
    codeOf(() => mapping.read(101, 0)),
    'OUT_OF_RANGE',
  );
  assert.equal(
    codeOf(() => mapping.read(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)),
    'OUT_OF_RANGE',
  );
  assert.equal(
    codeOf(() => mapping.read(-1, 1)),
    'OUT_OF_RANGE',
  );
  assert.equal(
    codeOf(() => mapping.write(99, Buffer.alloc(2))),
    'OUT_OF_RANGE',
  );
  assert.equal(mapping.read(100, 0).length, 0);
  mapping.write(100, Buffer.alloc(0));
  mapping.close();
});

test('one read copies at most 64 MiB', (t) => {
  const mapping = Mapping.create(pathOf(new TestHost(t)), 2 ** 26 + 1);
  assert.equal(mapping.read(1, 2 ** 26).length, 2 ** 26);
  assert.throws(() => mapping.read(0, 2 ** 26 + 1), { message: /at most 64 MiB/ });
  mapping.close();
});

test('a mapping for reading refuses writes instead of ending the process', (t) => {
  const path = pathOf(new TestHost(t));
  writeFileSync(path, 'abc');
  const mapping = Mapping.open(path, false);
  assert.equal(
    codeOf(() => mapping.write(0, Buffer.from('x'))),
    'EACCES',
  );
  assert.equal(mapping.read(0, 3).toString(), 'abc');
  mapping.close();
});

test('arguments of a wrong type are refused', () => {
  const { create, open } = addon.Mapping as unknown as Record<
    'create' | 'open',
    (...values: unknown[]) => unknown
  >;
  const refused = { code: 'ERR_INVALID_ARG_TYPE' };
  assert.throws(() => create!.call(addon.Mapping, 7, 8), refused);
  assert.throws(() => create!.call(addon.Mapping, '/dev/shm/a\0b', 8), refused);
  assert.throws(() => create!.call(addon.Mapping, '/dev/shm/a', '8'), refused);
  assert.throws(() => open!.call(addon.Mapping, '/etc/hostname', 1), refused);
});
