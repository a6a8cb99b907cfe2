import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { type TestContext, test } from 'node:test';
import { encode } from '@msgpack/msgpack';
import { Reply } from 'zeromq';
import { TestHost } from '../native/harness.ts';
import { bindLink, buffer, Fixture, failure, never, receive, soon, tensors } from './harness.ts';

/** A rank whose worker process is ready for the second bucket, at which it does as it was told. */
async function atSecondBucket(t: TestContext, behaviour: string, timeoutMilliseconds = never) {
  const host = new TestHost(t);
  const device = host.device({ capacity: 1 << 22 });
  const slots = device.allocate(2_048);
  const link = await bindLink(t, { deviceUuid: device.uuid, timeoutMilliseconds });
  const worker = new Fixture(t, 'link-worker', link.address, host.namespace, behaviour);
  assert.deepEqual(await worker.next(), { ready: true });
  await link.open({ handle: slots.ipcHandle, bytes: slots.bytes });
  await link.load(tensors);
  for (const asked of ['open', 'load']) assert.equal((await worker.next<{ asked: string }>()).asked, asked);
  return { link, worker, uuid: device.uuid };
}

test('a worker that never connects ends the first request at its deadline', async (t) => {
  const link = await bindLink(t, { timeoutMilliseconds: soon });
  assert.equal(
    (await failure(link.open(buffer))).message,
    'the engine worker on device HOST-test-0 did not connect within 300 ms when opening the link buffer',
  );
  await link.abort('no worker');
});

/** Connects as ZeroMQ does, as a process of that user, and says whether it is greeted. */
const knock = `
import os, socket, sys
os.setuid(int(sys.argv[1]))
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
peer.connect("\\0" + sys.argv[2])
try:
    peer.sendall(b"\\xff" + bytes(8) + b"\\x7f")
    print("greeted" if peer.recv(1) else "refused")
except (ConnectionResetError, BrokenPipeError):
    print("refused")
`;
const stranger = 65_534;

test('nobody takes the place of a worker who is neither the same user nor root, unless that is allowed', {
  skip: process.getuid!() !== 0 && 'it takes root to be another user',
}, async (t) => {
  t.after(() => delete process.env.WEIGHTCAST_WORKER_UIDS);
  const answer = (uid: number, address: string) => {
    const name = address.replace('ipc://@', '');
    const python = spawnSync('python3', ['-c', knock, String(uid), name], { encoding: 'utf8' });
    return python.stdout.trim() || python.stderr;
  };
  const link = await bindLink(t, { timeoutMilliseconds: soon });
  assert.equal(answer(stranger, link.address), 'refused');
  assert.match(
    (await failure(link.open(buffer))).message,
    /; a connection was refused: its process may be of another user \(WEIGHTCAST_WORKER_UIDS\)$/,
  );
  assert.equal(answer(0, (await bindLink(t)).address), 'greeted');
  process.env.WEIGHTCAST_WORKER_UIDS = `7,${stranger}`;
  assert.equal(answer(stranger, (await bindLink(t)).address), 'greeted');
});

test('a worker that is killed while it loads ends the request at once, and all later ones with the same error', async (t) => {
  const { link, uuid } = await atSecondBucket(t, 'die');
  const error = await failure(link.load(tensors));
  assert.equal(
    error.message,
    `the engine worker on device ${uuid} closed the connection while loading a bucket`,
  );
  assert.equal(await failure(link.release()), error);
});

test('a worker that is killed between two requests fails the next one at once', async (t) => {
  const { link, worker, uuid } = await atSecondBucket(t, 'copy');
  await worker.kill();
  const error = await failure(link.load(tensors));
  assert.match(
    error.message,
    new RegExp(`device ${uuid} closed the connection (after|while) loading a bucket`),
  );
});

test('a worker that connects and then hangs ends the request at its deadline', async (t) => {
  const { link, uuid } = await atSecondBucket(t, 'hang', 3_000);
  assert.equal(
    (await failure(link.load(tensors))).message,
    `the engine worker on device ${uuid} did not answer within 3000 ms when loading a bucket`,
  );
});

test("a worker's exception is an error of one line with the traceback as its cause, and ends the worker", async (t) => {
  const { link, worker, uuid } = await atSecondBucket(t, 'throw');
  const error = await failure(link.load(tensors));
  const line = `the engine worker on device ${uuid} failed loading a bucket`;
  assert.equal(error.message, `${line}: TypeError: cannot convert the second bucket`);
  assert.match(String(error.cause), /and more of it\n +at /);
  assert.equal(await failure(link.finish()), error);
  await worker.next();
  link.close();
  const end = await worker.next<{ ended: string; message: string }>();
  assert.deepEqual(end, { ended: 'TypeError', message: 'cannot convert the second bucket\nand more of it' });
});

test('the error message is the last line of a Python traceback', async (t) => {
  const link = await bindLink(t);
  const traceback = 'Traceback (most recent call last):\n  File "worker.py", line 3\nKeyError: "lm_head"\n';
  await withReply(t, link.address, encode({ ok: false, error: traceback }));
  assert.match((await failure(link.open(buffer))).message, /opening the link buffer: KeyError: "lm_head"$/);
});

const garbage: [string, Uint8Array | Uint8Array[], RegExp][] = [
  ['nothing', new Uint8Array(0), /not MessagePack/],
  ['a pickle', Buffer.from('\x80\x04K\x01.', 'latin1'), /not MessagePack|wrong form/],
  ['a map of another form', encode({ ok: 'yes' }), /wrong form: ok/],
  ['columns of different lengths', encode(report(16, 2, 4)), /16, 2 and 4 bytes/],
  ['half a digest', encode(report(12, 3, 3)), /12, 3 and 3 bytes/],
  ['several frames', [encode({ ok: true }), encode({ ok: true })], /not MessagePack: Extra/],
];
for (const [name, reply, expected] of garbage) {
  test(`a worker that answers with ${name} fails the request`, async (t) => {
    const link = await bindLink(t);
    await withReply(t, link.address, reply);
    const error = await failure(link.open(buffer));
    assert.match(error.message, /device HOST-test-0 answered with garbage .* when opening the link buffer/);
    assert.match(error.message, expected);
    assert.equal(await failure(link.release()), error);
  });
}

function report(digests: number, part: number, parts: number): object {
  const column = (bytes: number) => new Uint8Array(bytes);
  return { ok: true, report: { digests: column(digests), part: column(part), parts: column(parts) } };
}

test('a reply that a worker sends just before it disconnects counts', async (t) => {
  for (let round = 0; round < 20; round += 1) {
    const link = await bindLink(t);
    const { received } = receive(link.address);
    await link.open(buffer);
    await link.release();
    const [answer] = await Promise.all([link.finish(), received]);
    assert.equal(answer, null);
    link.close();
  }
});

/** A worker that gives one answer, whatever it is asked. */
async function withReply(t: TestContext, address: string, reply: Uint8Array | Uint8Array[]): Promise<void> {
  const socket = new Reply({ linger: 0 });
  t.after(() => socket.close());
  socket.connect(address);
  socket
    .receive()
    .then(() => socket.send(reply))
    .catch(() => {});
}

test('a worker that fails on one of several announced buckets loads none of those after it', async (t) => {
  const link = await bindLink(t);
  let buckets = 0;
  const { calls, received } = receive(link.address, {
    async load() {
      buckets += 1;
      if (buckets === 2) throw new RangeError('no second bucket');
    },
  });
  await link.open(buffer);
  const [first, ...others] = [1, 2, 3, 4].map(() => link.load(tensors));
  const errors = Promise.all(others.map(failure));
  await first;
  const [error, ...later] = await errors;
  assert.match(error!.message, /failed loading a bucket: RangeError: no second bucket/);
  for (const one of later) assert.equal(one, error);
  await link.abort('the worker failed');
  await assert.rejects(received, { name: 'RangeError' });
  assert.deepEqual(calls, ['open', 'load', 'load', 'release']);
});
