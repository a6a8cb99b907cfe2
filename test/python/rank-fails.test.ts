import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encode } from '@msgpack/msgpack';
import { bindLink, Fixture, failure, rawRank } from '../engines/harness.ts';
import { TestHost } from '../native/harness.ts';
import { type Ended, PythonWorker } from './engine-worker.ts';
import { bind, connected, skip, startWorker, worksAgain } from './exchanges.ts';

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
  for (const [asked, waited] of [
    [undefined, 0.5],
    [0.75, 0.75],
    [0.01, 0.5],
  ] as const) {
    const link = await bindLink(t, { deviceUuid: device.uuid, ...(asked && { silenceSeconds: asked }) });
    worker.command({ links: { [device.uuid]: link.address } });
    await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
    assert.deepEqual(await worker.ended(), {
      ended: 'RankSilent',
      message: `the rank at ${link.address} was silent for ${waited} s`,
    } satisfies Ended);
  }
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
  report: true,
};
const refused: [string, Uint8Array, RegExp][] = [
  ['a pickle', Buffer.from('\x80\x04N.', 'latin1'), /not MessagePack/],
  ['nothing', new Uint8Array(), /not MessagePack/],
  ['an unknown request', encode({ type: 'sleep' }), /asks for 'sleep'/],
  ['a request without a type', encode([1]), /type is no str/],
  [
    'a later protocol',
    encode({ ...open, protocol: 4 }),
    /speaks version 4 of the worker link, this worker 2/,
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
