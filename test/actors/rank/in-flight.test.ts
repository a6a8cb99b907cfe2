import assert from 'node:assert/strict';
import { test } from 'node:test';
import { InFlight } from '../../../src/actors/rank/in-flight.ts';
import { AbortedError, NativeError } from '../../../src/errors.ts';

test('what fails by itself after the abort is told from what was aborted', async () => {
  const inFlight = new InFlight();
  const failure = () => inFlight.failure?.message ?? 'none';
  let fail = (_: Error) => {};
  const broadcast = new Promise<void>((_, reject) => {
    fail = reject;
  });
  const aborted = new AbortedError('broadcast 19 on rank 1: rank 0 failed');
  const tracked = [
    inFlight.track(() => broadcast),
    inFlight.track(() => Promise.reject(new AbortedError('the worker link was closed'))),
  ].map((work) => work.catch((error: Error) => error.message));
  inFlight.abort(aborted);
  await assert.rejects(
    inFlight.track(async () => {}),
    aborted,
  );
  assert.equal(failure(), 'none');
  fail(new NativeError('cannot open /dev/shm/slot: Too many open files'));
  await inFlight.settled();
  assert.match(failure(), /Too many open files/);
  assert.deepEqual(await Promise.all(tracked), [
    'cannot open /dev/shm/slot: Too many open files',
    'the worker link was closed',
  ]);
});
