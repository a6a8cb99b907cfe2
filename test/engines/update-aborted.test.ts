import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { Clock } from '../../src/ports.ts';
import { bindLink, buffer, gate, never, receive, soon, tensors } from './harness.ts';

const told = { name: 'AbortedError', message: 'the rank aborted the update: rank 3 died' };

test('a worker that waits for the next bucket gets the reason of an abort', async (t) => {
  const link = await bindLink(t);
  const { calls, received } = receive(link.address);
  await link.open(buffer);
  await link.abort('rank 3 died');
  await assert.rejects(received, told);
  assert.deepEqual(calls, ['open', 'release']);
  await assert.rejects(link.load(tensors), { name: 'AbortedError', message: 'rank 3 died' });
});

test('an abort while a reply is due rejects the request at once, and resolves when the copy has ended', async (t) => {
  const link = await bindLink(t);
  const copying = gate();
  const copied = gate();
  const order: string[] = [];
  const { received } = receive(link.address, {
    async load() {
      copying.open();
      await copied.opened;
      order.push('copied');
    },
  });
  await link.open(buffer);
  const loading = link.load(tensors);
  await copying.opened;
  const aborted = link.abort('rank 3 died').then(() => order.push('aborted'));
  await assert.rejects(loading, { name: 'AbortedError', message: 'rank 3 died' });
  copied.open();
  await aborted;
  assert.deepEqual(order, ['copied', 'aborted']);
  await assert.rejects(received, told);
});

test('an abort stops waiting for a worker that hangs', async (t) => {
  const link = await bindLink(t);
  const copied = gate();
  const { received } = receive(link.address, { load: () => copied.opened });
  await link.open(buffer);
  const loading = link.load(tensors);
  loading.catch(() => {});
  await link.abort('rank 3 died');
  await assert.rejects(loading, { name: 'AbortedError' });
  copied.open();
  await assert.rejects(received);
});

/** A clock that notes what is waited for, and may be put forward. */
function notingClock(): { readonly clock: Clock; readonly waits: number[]; ahead: number } {
  const waits: number[] = [];
  const noting = {
    waits,
    ahead: 0,
    clock: {
      now: () => systemClock.now() + noting.ahead,
      after: (milliseconds: number, callback: () => void) => {
        waits.push(milliseconds);
        return systemClock.after(milliseconds, callback);
      },
    },
  };
  return noting;
}

test('an abort waits no second time for a worker that has not answered in time', async (t) => {
  const { clock, waits } = notingClock();
  const link = await bindLink(t, { timeoutMilliseconds: soon, clock });
  const copied = gate();
  const { received } = receive(link.address, { load: () => copied.opened });
  await link.open(buffer);
  await assert.rejects(link.load(tensors), /did not answer within 300 ms/);
  waits.length = 0;
  await link.abort('its worker hangs');
  assert.deepEqual(waits, [500]);
  copied.open();
  await assert.rejects(received);
});

for (const [what, share, milliseconds] of [
  ['has had most of its time, as one that waits for another which hangs', 0.8, 500],
  ['has had some of its time', 0.5, 5_000],
] as const) {
  test(`an abort waits ${milliseconds} ms for a worker that ${what}`, async (t) => {
    const noting = notingClock();
    const link = await bindLink(t, { clock: noting.clock });
    const copying = gate();
    const copied = gate();
    const { received } = receive(link.address, {
      load: () => {
        copying.open();
        return copied.opened;
      },
    });
    await link.open(buffer);
    const loading = link.load(tensors);
    await copying.opened;
    noting.ahead = share * never;
    noting.waits.length = 0;
    const aborted = link.abort('the worker of another rank hangs');
    await assert.rejects(loading, { name: 'AbortedError' });
    copied.open();
    await aborted;
    assert.equal(noting.waits[0], milliseconds);
    await assert.rejects(received);
  });
}

test('an abort before any worker has connected, after the end, and a second one do nothing', async (t) => {
  const unconnected = await bindLink(t);
  const opening = unconnected.open(buffer);
  opening.catch(() => {});
  await unconnected.abort('rank 3 died');
  await assert.rejects(opening, { name: 'AbortedError', message: 'rank 3 died' });
  await unconnected.abort('again');

  const finished = await bindLink(t);
  const { received } = receive(finished.address);
  await finished.open(buffer);
  await finished.release();
  await finished.finish();
  await finished.abort('too late');
  await received;
});

test('close ends the request in progress and the exchange of the worker', async (t) => {
  const link = await bindLink(t);
  const loading = gate();
  const copied = gate();
  const { received } = receive(link.address, {
    load() {
      loading.open();
      return copied.opened;
    },
  });
  await link.open(buffer);
  const request = link.load(tensors);
  request.catch(() => {});
  await loading.opened;
  link.close();
  link.close();
  await assert.rejects(request, { name: 'AbortedError', message: /device HOST-test-0 was closed/ });
  copied.open();
  await assert.rejects(received, { name: 'PeerLostError' });
});
