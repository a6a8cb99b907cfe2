/** What a daemon is started with. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { ranksOf, workersOf } from '../../src/cli/rank-arguments.ts';
import { readConfiguration, readToken } from '../../src/daemon/configuration.ts';
import { defaultSocket } from '../../src/daemon/default-socket.ts';
import { SocketLock } from '../../src/daemon/socket-lock.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

test('a configuration has names as in the API; what is wrong with one does not repeat its keys', (t) => {
  const file = join(temporaryDirectory(t), 'config.json');
  const read = (content: unknown) => {
    writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
    return readConfiguration(file);
  };
  const instance = {
    name: 'a',
    endpoint: 'http://10.0.0.2:8000',
    ranks: [0],
    api_key: 'the-key',
    reset_cache: true,
  };
  const hosts = { node_2: { launcher: ['ssh', 'node-2'], fabric_addresses: ['10.0.0.2'] } };
  const { instances, ...rest } = read({
    instances: [instance],
    hosts,
    cluster_listen: 'tcp://10.0.0.1:7000',
    start_timeout_seconds: 1_800,
  });
  const { api_key: apiKey, reset_cache: resetCache, ...same } = instance;
  assert.deepEqual(instances, [{ ...same, apiKey, resetCache }]);
  assert.deepEqual(rest, {
    hosts: { node_2: { launcher: ['ssh', 'node-2'], fabricAddresses: ['10.0.0.2'] } },
    clusterListen: 'tcp://10.0.0.1:7000',
    startTimeoutSeconds: 1_800,
    roots: [],
    allowEngines: [],
  });
  const refused = (content: unknown, message: RegExp) =>
    assert.throws(
      () => read(content),
      (error: Error) => {
        assert.equal(error.name, 'UsageError');
        assert.match(error.message, message);
        return !error.message.includes('the-key');
      },
    );
  refused('{"api_key": "the-key",', /config.json: it is not JSON$/);
  refused({ instance: [] }, /config.json: instance: there is no such option$/);
  refused({ instances: [{ ...instance, ranks: [] }] }, /instances.0.ranks/);
  assert.throws(() => readConfiguration('/nowhere.json'), { name: 'UsageError', message: /ENOENT/ });
});

test('a token is long enough to be a secret, and fits into a header', (t) => {
  const file = join(temporaryDirectory(t), 'token');
  for (const [text, isToken] of [
    ['0123456789abcdef\n', true],
    ['short', false],
    ['', false],
    ['with spaces in the middle', false],
    ['0123456789abcdef\r\nx: y', false],
  ] as const) {
    writeFileSync(file, text);
    if (isToken) assert.equal(readToken(file), text.trim());
    else
      assert.throws(() => readToken(file), { name: 'UsageError', message: /at least 16 characters/ }, text);
  }
});

test('a socket is taken once; what is no socket, or not of a dead daemon, is left alone', async (t) => {
  const scratch = temporaryDirectory(t);
  const socket = join(scratch, 'd.sock');
  const lock = await SocketLock.take(socket);
  const holder = new RegExp(`another daemon serves on ${socket}: pid ${process.pid}, since `);
  await assert.rejects(SocketLock.take(socket), { name: 'UsageError', message: holder });
  lock.release();
  (await SocketLock.take(socket)).release();

  const other = createServer();
  await new Promise<void>((resolve) => other.listen(join(scratch, 'other.sock'), resolve));
  t.after(() => other.close());
  writeFileSync(join(scratch, 'file'), '');
  const refused = (path: string, message: RegExp) =>
    assert.rejects(SocketLock.take(path), { name: 'UsageError', message });
  await refused(join(scratch, 'other.sock'), /a process of another network namespace/);
  await refused(join(scratch, 'file'), /file exists and is no socket/);
  await refused(join(scratch, 'x'.repeat(120)), /at most 107 bytes/);
  await refused('/proc/nowhere/d.sock', /the directory \/proc\/nowhere of the socket cannot be used/);
});

test('the default socket is where only this user may look', () => {
  assert.equal(defaultSocket({ WEIGHTCAST_SOCKET: '/a/b', XDG_RUNTIME_DIR: '/run/user/1' }), '/a/b');
  assert.equal(defaultSocket({ XDG_RUNTIME_DIR: '/run/user/1' }), '/run/user/1/weightcast.sock');
  const own = `/tmp/weightcast-${process.getuid!()}/weightcast.sock`;
  assert.equal(defaultSocket({}), own);
  assert.equal(defaultSocket({ XDG_RUNTIME_DIR: 'relative' }), own);
});

test('ranks are numbers and ranges of them', () => {
  assert.deepEqual(ranksOf('0-3'), [0, 1, 2, 3]);
  assert.deepEqual(ranksOf('4, 1,2'), [4, 1, 2]);
  for (const text of ['', '1-', '3-1', 'a', '-1', '1.5', '0-999999', '0-1023,1024'])
    assert.throws(() => ranksOf(text), { name: 'UsageError', message: /--ranks is/ }, text);
});

test('workers are devices of a host, by index or UUID', () => {
  assert.deepEqual(workersOf('0-2'), { devices: [0, 1, 2] });
  assert.deepEqual(workersOf('node-2:4,6'), { host: 'node-2', devices: [4, 6] });
  assert.deepEqual(workersOf('node-2:GPU-1a,MIG-2b'), { host: 'node-2', devices: ['GPU-1a', 'MIG-2b'] });
  for (const text of ['', ':0', 'node-2', 'node-2:', 'a:b:0', '0,GPU-1a'])
    assert.throws(() => workersOf(text), { name: 'UsageError', message: /--workers is/ }, text);
});
