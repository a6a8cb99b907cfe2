import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { Mapping, SharedDirectory } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

test('a shared directory is private to its user and goes with its last holder, files and all', (t) => {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  const first = new SharedDirectory(path);
  const second = new SharedDirectory(path);
  assert.equal(first.path, path);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  writeFileSync(`${path}/segment`, 'content');
  assert.equal(first.close(), false);
  assert.equal(first.close(), false);
  assert(existsSync(`${path}/segment`));
  assert.equal(second.close(), true);
  assert(!existsSync(path));
});

test('memory mapped from a shared directory outlives the directory', (t) => {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  const directory = new SharedDirectory(path);
  const mapping = Mapping.create(`${path}/segment`, 4);
  mapping.write(0, Uint8Array.of(1, 2, 3, 4));
  directory.close();
  assert.deepEqual([...mapping.read(0, 4)], [1, 2, 3, 4]);
  mapping.unlink();
  mapping.close();
});

test('a killed holder does not keep the directory: the next one to leave removes it', async (t) => {
  const host = new TestHost(t);
  const path = `/dev/shm/${host.namespace}`;
  const holder = host.start('directory-holder', path, 'stay');
  await holder.message();
  const directory = new SharedDirectory(path);
  await holder.kill();
  assert.equal(directory.close(), true);
  assert.deepEqual(host.remains(), []);
});

test('a directory is abandoned once its only holder has been killed, and not before', async (t) => {
  const host = new TestHost(t);
  const path = `/dev/shm/${host.namespace}`;
  const holder = host.start('directory-holder', path, 'stay');
  await holder.message();
  assert.equal(SharedDirectory.removeIfAbandoned(path), false);
  assert(existsSync(`${path}/lock`));
  await holder.kill();
  assert(existsSync(path));
  assert.equal(SharedDirectory.removeIfAbandoned(path), true);
  assert.equal(SharedDirectory.removeIfAbandoned(path), false);
  assert.deepEqual(host.remains(), []);
});

test('a holder that ends with process.exit() leaves nothing behind', async (t) => {
  const host = new TestHost(t);
  const holder = host.start('directory-holder', `/dev/shm/${host.namespace}`, 'exit');
  await holder.message();
  assert.equal(await holder.ended(), 0);
  assert.deepEqual(host.remains(), []);
});

test('the directory is not held by programs that a holder starts', (t) => {
  const host = new TestHost(t);
  const directory = new SharedDirectory(`/dev/shm/${host.namespace}`);
  const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
  assert.match(stdout, /->/);
  assert(!stdout.includes(host.namespace));
  directory.close();
});

test('a directory is never removed under a process that joins while others leave', async (t) => {
  const host = new TestHost(t);
  const path = `/dev/shm/${host.namespace}`;
  const holders = [1, 2, 3].map(() => host.start('directory-holder', path, 'churn'));
  const reports = await Promise.all(holders.map((holder) => holder.message()));
  assert.deepEqual(reports, [{ wrong: null }, { wrong: null }, { wrong: null }]);
  await Promise.all(holders.map((holder) => holder.ended()));
  assert.deepEqual(host.remains(), []);
});

test('the remains of a process that died while it made or removed the directory are abandoned', (t) => {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  mkdirSync(path);
  assert.equal(SharedDirectory.removeIfAbandoned(path), true);
  assert(!existsSync(path));
});

test('a directory that is not a shared one is left alone', (t) => {
  const path = join(tmpdir(), new TestHost(t).namespace);
  t.after(() => rmSync(path, { recursive: true, force: true }));
  mkdirSync(path);
  writeFileSync(join(path, 'precious'), '');
  assert.equal(SharedDirectory.removeIfAbandoned(path), false);
  assert(existsSync(join(path, 'precious')));
});

test('a name that leads elsewhere is refused', (t) => {
  const { namespace } = new TestHost(t);
  symlinkSync(tmpdir(), `/dev/shm/${namespace}-link`);
  writeFileSync(`/dev/shm/${namespace}-file`, '');
  for (const name of [`${namespace}-link`, `${namespace}-file`]) {
    assert.throws(() => new SharedDirectory(`/dev/shm/${name}`), {
      name: 'NativeError',
      message: `cannot join /dev/shm/${name}: Not a directory`,
    });
  }
  assert.throws(() => new SharedDirectory(`/dev/shm/${namespace}/too/deep`), NativeError);
});

test('a link that somebody put at the name of an abandoned directory is not followed', (t) => {
  const host = new TestHost(t);
  const path = `/dev/shm/${host.namespace}`;
  const victim = `${path}-victim`;
  mkdirSync(victim);
  t.after(() => rmSync(victim, { recursive: true, force: true }));
  for (const name of ['lock', 'precious']) writeFileSync(join(victim, name), 'content');
  symlinkSync(victim, path);
  t.after(() => rmSync(path, { force: true }));
  assert.throws(() => SharedDirectory.removeIfAbandoned(path), NativeError);
  assert(existsSync(join(victim, 'precious')));
  assert(existsSync(join(victim, 'lock')));
});

test("another user's directory is not touched", { skip: process.getuid!() !== 0 && 'needs root' }, (t) => {
  const path = `/dev/shm/${new TestHost(t).namespace}`;
  mkdirSync(path);
  t.after(() => rmSync(path, { recursive: true, force: true }));
  for (const name of ['lock', 'precious']) writeFileSync(join(path, name), 'content');
  chownSync(path, 65_534, 65_534);
  assert.throws(() => SharedDirectory.removeIfAbandoned(path), /it belongs to user 65534/);
  assert(existsSync(join(path, 'precious')));
});
