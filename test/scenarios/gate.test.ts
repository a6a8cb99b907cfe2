import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gate } from '../../scenarios/reference-engine/gate.ts';

const never = new AbortController().signal;

/** Runs all pending microtasks and callbacks. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Logs when a promise settles. */
function logSettled(log: string[], what: string, promise: Promise<unknown>): void {
  promise.then(
    () => log.push(what),
    (error: Error) => log.push(`${what}: ${error.message}`),
  );
}

test('completions run concurrently; calls run exclusively and have priority', async () => {
  const gate = new Gate();
  const log: string[] = [];
  logSettled(log, 'one', gate.enter(never));
  logSettled(log, 'two', gate.enter(never));
  logSettled(log, 'call', gate.enterAlone(60_000));
  logSettled(log, 'next call', gate.enterAlone(60_000));
  logSettled(log, 'three', gate.enter(never));
  await settle();
  assert.deepEqual(log, ['one', 'two']);
  gate.leave();
  await settle();
  assert.deepEqual(log, ['one', 'two'], 'a completion still runs');
  gate.leave();
  await settle();
  assert.deepEqual(log, ['one', 'two', 'call']);
  gate.leaveAlone();
  await settle();
  assert.deepEqual(log, ['one', 'two', 'call', 'next call']);
  gate.leaveAlone();
  await settle();
  assert.deepEqual(log, ['one', 'two', 'call', 'next call', 'three']);
});

test('a call that times out while it waits lets later ones run', async () => {
  const gate = new Gate();
  const log: string[] = [];
  await gate.enter(never);
  logSettled(log, 'call', gate.enterAlone(500));
  logSettled(log, 'completion', gate.enter(never));
  await settle();
  assert.deepEqual(log, []);
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.deepEqual(log, ['call: earlier calls were not done within 500 ms', 'completion']);
});

test('a paused gate admits calls at once, and completions when it is resumed', async () => {
  const gate = new Gate();
  const log: string[] = [];
  gate.pause();
  logSettled(log, 'completion', gate.enter(never));
  logSettled(log, 'call', gate.enterAlone(60_000));
  await settle();
  gate.leaveAlone();
  await settle();
  assert.deepEqual(log, ['call']);
  gate.resume();
  await settle();
  assert.deepEqual(log, ['call', 'completion']);
});

test('a completion that is cancelled or refused while it waits never runs', async () => {
  const gate = new Gate();
  const log: string[] = [];
  const disconnect = new AbortController();
  gate.pause();
  logSettled(log, 'one', gate.enter(disconnect.signal));
  logSettled(log, 'two', gate.enter(never));
  disconnect.abort(new Error('disconnected'));
  await settle();
  gate.refuseWaiting(new Error('refused'));
  await settle();
  logSettled(log, 'late', gate.enter(disconnect.signal));
  gate.resume();
  let empty = false;
  gate.empty().then(() => {
    empty = true;
  });
  await settle();
  assert.deepEqual(log, ['one: disconnected', 'two: refused', 'late: disconnected']);
  assert.ok(empty, 'no completion runs');
});
