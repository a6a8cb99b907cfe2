import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gate } from '../../scenarios/reference-engine/gate.ts';

const never = new AbortController().signal;

/** Lets everything that can happen happen. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Notes when a promise resolves. */
function note(log: string[], what: string, promise: Promise<unknown>): void {
  promise.then(
    () => log.push(what),
    (error: Error) => log.push(`${what}: ${error.message}`),
  );
}

test('completions go in side by side, calls alone and first', async () => {
  const gate = new Gate();
  const log: string[] = [];
  note(log, 'one', gate.enter(never));
  note(log, 'two', gate.enter(never));
  note(log, 'call', gate.enterAlone(60_000));
  note(log, 'next call', gate.enterAlone(60_000));
  note(log, 'three', gate.enter(never));
  await settle();
  assert.deepEqual(log, ['one', 'two']);
  gate.leave();
  await settle();
  assert.deepEqual(log, ['one', 'two'], 'a completion is inside');
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

test('a call whose turn does not come in time lets those behind it in', async () => {
  const gate = new Gate();
  const log: string[] = [];
  await gate.enter(never);
  note(log, 'call', gate.enterAlone(20));
  note(log, 'completion', gate.enter(never));
  await settle();
  assert.deepEqual(log, []);
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.deepEqual(log, ['call: earlier calls were not done within 20 ms', 'completion']);
});

test('a paused gate lets calls in, and completions only when it is resumed', async () => {
  const gate = new Gate();
  const log: string[] = [];
  gate.pause();
  note(log, 'completion', gate.enter(never));
  note(log, 'call', gate.enterAlone(60_000));
  await settle();
  gate.leaveAlone();
  await settle();
  assert.deepEqual(log, ['call']);
  gate.resume();
  await settle();
  assert.deepEqual(log, ['call', 'completion']);
});

test('who hangs up or is refused is not let in later', async () => {
  const gate = new Gate();
  const log: string[] = [];
  const hangUp = new AbortController();
  gate.pause();
  note(log, 'one', gate.enter(hangUp.signal));
  note(log, 'two', gate.enter(never));
  hangUp.abort(new Error('hung up'));
  await settle();
  gate.refuseWaiting(new Error('refused'));
  await settle();
  note(log, 'late', gate.enter(hangUp.signal));
  gate.resume();
  let empty = false;
  gate.empty().then(() => {
    empty = true;
  });
  await settle();
  assert.deepEqual(log, ['one: hung up', 'two: refused', 'late: hung up']);
  assert.ok(empty, 'nobody is inside');
});
