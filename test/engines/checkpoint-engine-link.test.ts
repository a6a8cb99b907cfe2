import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  encodeAbort,
  encodeBucket,
  encodeBuffer,
  encodeNone,
} from '../../src/engines/worker-link/checkpoint-engine-messages.ts';
import { buffer, failure, soon, tensors } from './harness.ts';
import { bindCheckpointEngineLink, ScriptedWorker } from './scripted-worker.ts';

const told = (reason: string) => Buffer.from(encodeAbort(`weightcast aborted the update: ${reason}`));
const traceback = 'Traceback (most recent call last):\n  File "worker.py", line 3\nKeyError: \'lm_head\'\n';
const more = [{ name: 'größe', dtype: 'F8_E4M3', shape: [7, 3], offset: 512 }];

test('an exchange is a handle, buckets, and None twice, each with a reply', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  assert.match(link.address, /^ipc:\/\/@checkpoint-engine-GPU-test-7\d{6}\.sock$/);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(5);
  await link.open(buffer);
  await link.load(tensors);
  await link.load(more);
  await link.release();
  assert.equal(await link.finish(), null);
  const expected = [
    encodeBuffer(buffer),
    encodeBucket(tensors),
    encodeBucket(more),
    encodeNone(),
    encodeNone(),
  ];
  assert.deepEqual(await served, expected.map(Buffer.from));
});

const steps = ['open', 'load', 'load', 'release', 'finish'] as const;
const doing = {
  open: 'opening the link buffer',
  load: 'loading a bucket',
  release: 'releasing the link buffer',
  finish: 'running its post-hook',
};
for (const [turn, step] of steps.entries()) {
  test(`a traceback in reply to request ${turn + 1}, ${step}, fails it and all later ones`, async (t) => {
    const link = await bindCheckpointEngineLink(t);
    const worker = new ScriptedWorker(t, link.address);
    const requests = [
      () => link.open(buffer),
      () => link.load(tensors),
      () => link.load(more),
      () => link.release(),
      () => link.finish(),
    ];
    const served = worker.serve(turn);
    for (const request of requests.slice(0, turn)) await request();
    await served;
    const answered = worker.asked().then(() => worker.answer(traceback));
    const error = await failure(requests[turn]!());
    await answered;
    assert.equal(
      error.message,
      `the engine worker on device GPU-test failed ${doing[step]}: KeyError: 'lm_head'`,
    );
    assert.equal(error.cause, traceback);
    assert.equal(await failure(link.load(tensors)), error);

    // The worker waits for one more message, and gets it before the socket closes.
    const aborted = link.abort('the worker failed');
    assert.deepEqual(await worker.asked(), told('the worker failed'));
    worker.leave();
    await aborted;
  });
}

test('a tensor that torch has no dtype for fails before anything is sent', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(2);
  const strange = [...tensors, { name: 'experts.w1', dtype: 'F6_E3M2', shape: [8], offset: 512 }];
  const refusal = { name: 'CheckpointError', message: /"experts\.w1" of dtype F6_E3M2/ };
  assert.throws(() => link.check(strange), refusal);
  link.check(tensors);
  await link.open(buffer);
  await assert.rejects(link.load(strange), refusal);
  await link.load(tensors);
  assert.deepEqual((await served)[1], Buffer.from(encodeBucket(tensors)));
});

test('a worker that never connects ends the first request at its deadline', async (t) => {
  const link = await bindCheckpointEngineLink(t, { timeoutMilliseconds: soon });
  assert.equal(
    (await failure(link.open(buffer))).message,
    'the engine worker on device GPU-test did not connect within 300 ms when opening the link buffer',
  );
});

test('a worker that connects after its exchange was aborted gets the abort', async (t) => {
  const link = await bindCheckpointEngineLink(t, { latecomerMilliseconds: 10_000 });
  const opening = link.open(buffer);
  opening.catch(() => {});
  await link.abort('rank 3 died');
  await assert.rejects(opening, { name: 'AbortedError', message: 'rank 3 died' });
  await link.abort('again');
  link.close();
  const late = new ScriptedWorker(t, link.address);
  assert.deepEqual(await late.asked(), told('rank 3 died'));
  // The original takes it for a broken handle: it answers with a traceback and waits for another message.
  await late.answer('Traceback (most recent call last):\nAssertionError');
  assert.deepEqual(await late.asked(), told('rank 3 died'));
});

test('a worker that dies ends the request at once', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(1);
  await link.open(buffer);
  await served;
  const loading = link.load(tensors);
  await worker.asked();
  worker.leave();
  const error = await failure(loading);
  assert.equal(
    error.message,
    'the engine worker on device GPU-test closed the connection while loading a bucket',
  );
  assert.equal(await failure(link.release()), error);
});

test('a post-hook that throws closes the connection without a reply, which fails the exchange', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(2);
  await link.open(buffer);
  await link.release();
  await served;
  const finishing = link.finish();
  await worker.asked();
  worker.leave();
  assert.match((await failure(finishing)).message, /closed the connection while running its post-hook$/);
});

test('a post-hook that never ends fails the exchange at its deadline', async (t) => {
  const link = await bindCheckpointEngineLink(t, { timeoutMilliseconds: 1_000 });
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(2);
  await link.open(buffer);
  await link.release();
  await served;
  assert.match(
    (await failure(link.finish())).message,
    /did not answer within 1000 ms when running its post-hook$/,
  );
});

test('an abort while a reply is due reaches the worker after its reply', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(1);
  await link.open(buffer);
  await served;
  const loading = link.load(tensors);
  loading.catch(() => {});
  await worker.asked();
  const aborted = link.abort('rank 3 died');
  await assert.rejects(loading, { name: 'AbortedError', message: 'rank 3 died' });
  await worker.answer();
  assert.deepEqual(await worker.asked(), told('rank 3 died'));
  worker.leave();
  await aborted;
});

test('the readable part of a reply that is not valid UTF-8 is in the error', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const answered = worker.asked().then(() => worker.answer([Buffer.from([0xff, 0x1b]), Buffer.from('[2J')]));
  const error = await failure(link.open(buffer));
  await answered;
  assert.match(error.message, /failed opening the link buffer: \ufffd\\u001b\[2J$/);
});

test('a second exchange, for a draft model, runs on the same address with another worker', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const exchange = async (worker: ScriptedWorker) => {
    const served = worker.serve(4);
    await link.open(buffer);
    await link.load(tensors);
    await link.release();
    assert.equal(await link.finish(), null);
    assert.deepEqual((await served)[1], Buffer.from(encodeBucket(tensors)));
  };
  let worker = new ScriptedWorker(t, link.address);
  for (let round = 0; round < 30; round += 1) {
    await exchange(worker);
    // The next one comes before, while and after the last one leaves.
    if (round % 3 === 0) worker.leave();
    const next = new ScriptedWorker(t, link.address);
    if (round % 3 === 1) worker.leave();
    if (round % 3 === 2) setTimeout(() => worker.leave(), 20).unref();
    if (round % 3 === 2) await new Promise((resolve) => setTimeout(resolve, 25));
    worker = next;
  }
});

test('a second worker that never connects, or a first one that never disconnects, fails the second exchange', async (t) => {
  for (const leaves of [true, false]) {
    const link = await bindCheckpointEngineLink(t, { timeoutMilliseconds: 1_000 });
    const worker = new ScriptedWorker(t, link.address);
    const served = worker.serve(3);
    await link.open(buffer);
    await link.release();
    await link.finish();
    await served;
    if (leaves) worker.leave();
    const error = await failure(link.open(buffer));
    assert.match(error.message, /did not connect within 1000 ms when opening the link buffer$/);
  }
});

test('a draft worker that connects after the second exchange was aborted gets the abort', async (t) => {
  const link = await bindCheckpointEngineLink(t, { latecomerMilliseconds: 10_000 });
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(3);
  await link.open(buffer);
  await link.release();
  await link.finish();
  await served;
  const opening = link.open(buffer);
  opening.catch(() => {});
  await link.abort('rank 3 died');
  worker.leave();
  const draft = new ScriptedWorker(t, link.address);
  assert.deepEqual(await draft.asked(), told('rank 3 died'));
});

test('a complete exchange can neither be aborted nor continued', async (t) => {
  const link = await bindCheckpointEngineLink(t);
  const worker = new ScriptedWorker(t, link.address);
  const served = worker.serve(3);
  await link.open(buffer);
  await link.release();
  await link.finish();
  await served;
  await assert.rejects(link.load(tensors), { name: 'AssertionError' });
  worker.leave();
  await link.abort('too late');
  await assert.rejects(link.open(buffer), { name: 'AbortedError' });
});
