import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { encode } from '@msgpack/msgpack';
import { Request } from 'zeromq';
import { decodeReply } from '../../src/engines/worker-link/messages.ts';
import type { WorkerLink } from '../../src/engines/worker-link/worker-link.ts';
import { WorkerLinkError } from '../../src/errors.ts';
import type { HostDevice } from '../../src/native-bridge/device.ts';
import { bindLink, Fixture, never } from '../engines/harness.ts';
import { bindCheckpointEngineLink } from '../engines/scripted-worker.ts';
import { TestHost } from '../native/harness.ts';
import { type Ended, originalWorker, PythonWorker, type WorkerFault } from './engine-worker.ts';
import { missingPython } from './python-interpreter.ts';

const skip = missingPython('torch', 'zmq', 'msgpack');
const original = skip ? null : originalWorker();
const skipOriginal =
  skip ||
  (original === null &&
    'checkpoint-engine is not installed, and WEIGHTCAST_CHECKPOINT_ENGINE names no checkout of it');

const tensors = [{ name: 'norm', dtype: 'F32', shape: [2, 2], offset: 256 }];

type Kind = 'weightcast' | 'original';

async function startWorker(t: TestContext, kind: Kind): Promise<PythonWorker> {
  return kind === 'weightcast'
    ? PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '60'])
    : PythonWorker.start(t, 'original_worker.py', [original!, 'cpu']);
}

async function bind(
  t: TestContext,
  kind: Kind,
  device: HostDevice,
  timeoutMilliseconds = never,
): Promise<WorkerLink> {
  return kind === 'weightcast'
    ? bindLink(t, { deviceUuid: device.uuid, timeoutMilliseconds })
    : bindCheckpointEngineLink(t, { timeoutMilliseconds });
}

/** A rank and a worker that is in the exchange and has loaded one bucket. */
async function connected(
  t: TestContext,
  kind: Kind,
  fault: WorkerFault | null,
  timeoutMilliseconds?: number,
) {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const buffer = device.allocate(1_024);
  const worker = await startWorker(t, kind);
  const link = await bind(t, kind, device, timeoutMilliseconds);
  worker.command({ links: { [device.uuid]: link.address }, ...(fault && { fault }) });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await link.load(tensors);
  return { device, buffer, worker, link };
}

async function failure(request: Promise<unknown>): Promise<WorkerLinkError> {
  const error = await request.then(
    () => assert.fail('the request succeeded'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof WorkerLinkError, `not a WorkerLinkError: ${error}`);
  return error;
}

function mapsDeviceMemory(worker: PythonWorker): boolean {
  return readFileSync(`/proc/${worker.process.pid}/maps`, 'utf8').includes('weightcast-device');
}

/** The worker's process lives, and its next update is as if nothing had been. */
async function worksAgain(
  t: TestContext,
  kind: Kind,
  worker: PythonWorker,
  device: HostDevice,
): Promise<void> {
  const link = await bind(t, kind, device);
  const buffer = device.allocate(1_024);
  worker.command({ links: { [device.uuid]: link.address } });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await link.load(tensors);
  assert.ok(mapsDeviceMemory(worker));
  await link.release();
  assert.ok(!mapsDeviceMemory(worker));
  buffer.free();
  await link.finish();
  assert.equal((await worker.ended()).ended, 'installed');
}

for (const kind of ['weightcast', 'original'] as const) {
  const options = { skip: kind === 'original' ? skipOriginal : skip };
  const whose = kind === 'original' ? "checkpoint-engine's worker" : 'our worker';

  test(
    `an error in load_weights arrives with its traceback, and the process lives: ${whose}`,
    options,
    async (t) => {
      const { device, worker, link } = await connected(t, kind, { at: 2, does: 'raise' });
      const error = await failure(link.load(tensors));
      assert.match(
        error.message,
        /failed loading a bucket: KeyError: 'there is no such parameter in bucket 2'$/,
      );
      assert.match(String(error.cause), /^Traceback[\s\S]*engine_stub\.py", line \d+, in load_weights/);
      // The rank frees the buffer once it knows: by then our worker has let go of it, whatever the error holds on to.
      if (kind === 'weightcast') assert.ok(!mapsDeviceMemory(worker));
      await link.abort('the worker failed');
      // The original raises what the rank aborts with.
      assert.deepEqual(
        await worker.ended(),
        kind === 'original'
          ? { ended: 'RuntimeError', message: 'weightcast aborted the update: the worker failed' }
          : { ended: 'KeyError', message: "'there is no such parameter in bucket 2'" },
      );
      await worksAgain(t, kind, worker, device);
    },
  );

  test(
    `a handle that cannot be opened arrives with its traceback, and the process lives: ${whose}`,
    options,
    async (t) => {
      const device = new TestHost(t).device({ capacity: 2 ** 22 });
      const worker = await startWorker(t, kind);
      const link = await bind(t, kind, device);
      worker.command({ links: { [device.uuid]: link.address } });
      const handle = Buffer.from(`/dev/shm/weightcast-device-${device.uuid}/allocation-99`);
      const error = await failure(link.open({ handle, bytes: 64 }));
      assert.match(error.message, /failed opening the link buffer: FileNotFoundError: .*allocation-99'$/);
      await link.abort('no buffer');
      assert.equal((await worker.ended()).ended, 'FileNotFoundError');
      await worksAgain(t, kind, worker, device);
    },
  );

  test(`a worker that is killed while it loads fails the request at once: ${whose}`, options, async (t) => {
    const { link } = await connected(t, kind, { at: 2, does: 'die' });
    const error = await failure(link.load(tensors));
    assert.match(error.message, /closed the connection while loading a bucket$/);
    await link.abort('the worker died');
  });

  test(`a worker that hangs fails the request at its deadline: ${whose}`, options, async (t) => {
    const { link } = await connected(t, kind, { at: 2, does: 'hang' }, 5_000);
    const error = await failure(link.load(tensors));
    assert.match(error.message, /did not answer within 5000 ms when loading a bucket$/);
    await link.abort('the worker hangs');
  });

  test(`a post-hook that throws fails the exchange, and the process lives: ${whose}`, options, async (t) => {
    const { device, worker, link } = await connected(t, kind, { at: 'post-hook', does: 'raise' });
    await link.release();
    const error = await failure(link.finish());
    assert.match(
      error.message,
      kind === 'original'
        ? /closed the connection while running its post-hook$/
        : /running its post-hook: KeyError: /,
    );
    await link.abort('the post-hook failed');
    assert.equal((await worker.ended()).ended, 'KeyError');
    await worksAgain(t, kind, worker, device);
  });

  test(
    `an abort between two buckets ends the exchange on both sides, and the process lives: ${whose}`,
    options,
    async (t) => {
      const { device, worker, link, buffer } = await connected(t, kind, null);
      await link.abort('rank 3 died');
      buffer.free();
      const { ended, message } = await worker.ended();
      assert.equal(ended, kind === 'original' ? 'RuntimeError' : 'UpdateAborted');
      assert.match(message!, /aborted the update: rank 3 died$/);
      await worksAgain(t, kind, worker, device);
    },
  );
}

test('a worker of checkpoint-engine that comes too late is sent away, and its process lives', {
  skip: skipOriginal,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const worker = await startWorker(t, 'original');
  const link = await bindCheckpointEngineLink(t, { latecomerMilliseconds: 20_000 });
  const opening = link.open({ handle: Buffer.from('freed by now'), bytes: 64 });
  opening.catch(() => {});
  await link.abort('rank 3 died');
  link.close();
  worker.command({ links: { [device.uuid]: link.address } });
  assert.equal((await worker.ended()).ended, 'AssertionError');
  await worksAgain(t, 'original', worker, device);
});

test('a rank that is killed ends the exchange of our worker at once, and its process lives', {
  skip,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const buffer = device.allocate(1_024);
  const worker = await startWorker(t, 'weightcast');
  const rank = new Fixture(t, 'link-rank', device.uuid, Buffer.from(buffer.ipcHandle).toString());
  const { address } = await rank.next<{ address: string }>();
  worker.command({ links: { [device.uuid]: address } });
  await rank.next();
  await rank.kill();
  const { ended, message } = await worker.ended();
  assert.deepEqual([ended, message], ['RankLost', `the rank at ${address} has vanished`]);
  await worksAgain(t, 'weightcast', worker, device);
});

test('a rank that falls silent, or that never listened, ends the exchange of our worker at its deadline', {
  skip,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const buffer = device.allocate(1_024);
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '0.5']);
  worker.command({ links: { [device.uuid]: 'ipc://@weightcast-nobody.sock' } });
  assert.deepEqual(await worker.ended(), {
    ended: 'RankLost',
    message: 'no rank listens at ipc://@weightcast-nobody.sock',
  } satisfies Ended);
  const link = await bindLink(t, { deviceUuid: device.uuid });
  worker.command({ links: { [device.uuid]: link.address } });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  assert.deepEqual(await worker.ended(), {
    ended: 'RankSilent',
    message: `the rank at ${link.address} was silent for 0.5 s`,
  } satisfies Ended);
});

test('a model that keeps tensors of the link buffer fails the update before the memory goes', {
  skip,
}, async (t) => {
  const { device, worker, link } = await connected(t, 'weightcast', { at: 1, does: 'keep' });
  const error = await failure(link.release());
  assert.match(
    error.message,
    /releasing the link buffer: .*BufferInUse: the model holds on to tensors of the link buffer/,
  );
  await link.abort('in use');
  assert.equal((await worker.ended()).ended, 'BufferInUse');
  await worksAgain(t, 'weightcast', worker, device);
});

test('a worker that is given no link for its device says which there are', { skip }, async (t) => {
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '60'], {
    WEIGHTCAST_DEVICE_UUID: 'HOST-b-0',
  });
  worker.command({ links: { 'HOST-a-0': 'ipc://@a', 'HOST-a-1': 'ipc://@b' } });
  assert.deepEqual(await worker.ended(), {
    ended: 'WeightcastError',
    message: "no worker link for device HOST-b-0; there are links for ['HOST-a-0', 'HOST-a-1']",
  } satisfies Ended);
});

const handle = '/dev/shm/weightcast-device-nowhere/allocation-1';
const open = {
  type: 'open',
  protocol: 1,
  device: 'HOST-x-0',
  epoch: 7,
  version: 'v',
  handle: Buffer.from(handle),
  bytes: 8,
};
const refused: [string, Uint8Array, RegExp][] = [
  ['a pickle', Buffer.from('\x80\x04N.', 'latin1'), /not MessagePack/],
  ['nothing', new Uint8Array(), /not MessagePack/],
  ['an unknown request', encode({ type: 'sleep' }), /asks for 'sleep'/],
  ['a request without a type', encode([1]), /type is no str/],
  [
    'a later protocol',
    encode({ ...open, protocol: 2 }),
    /speaks version 2 of the worker link, this worker 1/,
  ],
  ['another device', encode({ ...open, device: 'HOST-y-0' }), /on device HOST-y-0, this worker on HOST-x-0/],
  [
    'a file that is no device memory',
    encode({ ...open, handle: Buffer.from('/etc/passwd') }),
    /not one of memory of a host device/,
  ],
  ['a negative size', encode({ ...open, bytes: -1 }), /bytes is -1/],
  ['a bucket before the buffer', encode({ type: 'load', tensors: [] }), /before it has opened/],
  ['finish before the buffer', encode({ type: 'finish' }), /before it has opened and released/],
];
test('our worker refuses what is no part of the protocol, and tells the rank', { skip }, async (t) => {
  const worker = await startWorker(t, 'weightcast');
  for (const [what, frame, message] of refused) {
    const rank = await rawRank(t);
    worker.command({ links: { 'HOST-x-0': rank.address } });
    const reply = await rank.ask(frame);
    assert.ok(!reply.ok, what);
    assert.match(reply.error, message);
    rank.close();
    assert.equal((await worker.ended()).ended, 'ProtocolError', what);
  }
});

const odd: [string, object, RegExp][] = [
  ['a dtype that torch has not', { dtype: 'F6_E2M3' }, /'w': torch 2\S+ has no dtype F6_E2M3/],
  [
    'pairs that begin in one row and end in the next',
    { dtype: 'F4', shape: [2, 3] },
    /'w': torch has no F4 of shape \[2, 3\]/,
  ],
  ['an end beyond the buffer', { shape: [300] }, /'w' reaches to byte 1200 of a buffer of 1024 bytes/],
  ['a beginning within a word', { offset: 4 }, /'w' begins at byte 4, which is not aligned/],
  ['a shape of fractions', { shape: [1.5] }, /tensor of shape \[1\.5\]/],
];
test('our worker refuses tensors by their names', { skip }, async (t) => {
  const { device, worker, link } = await connected(t, 'weightcast', null);
  await link.abort('next');
  assert.equal((await worker.ended()).ended, 'UpdateAborted');
  for (const [what, fields, message] of odd) {
    const buffer = device.allocate(1_024);
    const next = await bind(t, 'weightcast', device);
    worker.command({ links: { [device.uuid]: next.address } });
    await next.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
    const error = await failure(next.load([{ name: 'w', dtype: 'F32', shape: [2], offset: 0, ...fields }]));
    assert.match(error.message, message, what);
    await next.abort('refused');
    assert.equal((await worker.ended()).ended, 'ProtocolError', what);
    buffer.free();
  }
});

async function rawRank(t: TestContext) {
  const socket = new Request({ linger: 0 });
  t.after(() => socket.closed || socket.close());
  const address = `ipc://@weightcast-test-${process.pid}-${performance.now()}.sock`;
  await socket.bind(address);
  return {
    address,
    async ask(frame: Uint8Array) {
      await socket.send(frame);
      return decodeReply((await socket.receive())[0]!);
    },
    close: () => socket.close(),
  };
}
