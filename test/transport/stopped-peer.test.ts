import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OverloadedError } from '../../src/errors.ts';
import { eventually, listenTo, pause, TestCluster, tell } from './harness.ts';

/** Small windows, and patience: a stopped peer is slow here, not lost. */
const limits = {
  queueMessages: 500,
  queueBytes: 1_000_000,
  windowMessages: 100,
  windowBytes: 50_000_000,
  pingEveryMilliseconds: 100,
  lostAfterMilliseconds: 60_000,
};

test('sending to a peer that stopped reading throws OverloadedError, delays no other peer, and loses nothing later', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits });
  const atHub = listenTo(hub);
  const stopped = await cluster.spokeProcess(hub.endpoint, { limits });
  const other = await cluster.spoke(hub.endpoint, { limits, node: 'rank-1~a' });
  const atOther = listenTo(other);
  await eventually('both up', () => atHub.events.length === 2);

  stopped.child.kill('SIGSTOP');
  let accepted = 0;
  const fill = () => {
    for (;;) {
      hub.send(stopped.node, tell({ echo: accepted }));
      accepted += 1;
    }
  };
  // Once for what ZeroMQ takes and once more for the queue: the window is the most that is on its way.
  while (accepted < limits.windowMessages + limits.queueMessages) {
    assert.throws(fill, (error) => error instanceof OverloadedError && error.message.includes(stopped.node));
    await pause(1);
  }
  await pause(300);
  assert.throws(fill, OverloadedError);
  assert.equal(accepted, limits.windowMessages + limits.queueMessages);
  assert.equal(hub.counters.sent, limits.windowMessages);

  for (let index = 0; index < 1_000; index += 1) {
    hub.send(other.node, tell(index));
    if (index % 100 === 99)
      await eventually('the others get theirs', () => atOther.envelopes.length === index + 1);
  }
  assert.deepEqual(atHub.states(), ['rank-0 up', 'rank-1 up']);

  stopped.child.kill('SIGCONT');
  await eventually('all echoes', () => atHub.envelopes.length === accepted);
  assert.deepEqual(
    atHub.bodies(stopped.node),
    Array.from({ length: accepted }, (_, index) => index),
  );
});

test('the queue is limited in bytes as well', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits });
  const atHub = listenTo(hub);
  const { node, child } = await cluster.spokeProcess(hub.endpoint, { limits });
  await eventually('up', () => atHub.events.length === 1);
  child.kill('SIGSTOP');
  const body = { echo: 1, padding: new Uint8Array(300_000) };
  for (let sent = 0; sent < limits.windowMessages; sent += 1) {
    hub.send(node, tell(body));
    await pause(0);
  }
  for (let waiting = 0; waiting < 4; waiting += 1) hub.send(node, tell(body));
  assert.throws(() => hub.send(node, tell(body)), /is full: 4 messages, 120\d{4} bytes wait/);
  child.kill('SIGCONT');
  await eventually('all echoes', () => atHub.envelopes.length === limits.windowMessages + 4);
});

test('what is in flight to a peer that stopped reading is limited in bytes as well', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits: { ...limits, windowBytes: 1_000_000, queueBytes: 5_000_000 } });
  const atHub = listenTo(hub);
  const { node, child } = await cluster.spokeProcess(hub.endpoint, { limits });
  await eventually('up', () => atHub.events.length === 1);
  child.kill('SIGSTOP');
  for (let sent = 0; sent < 6; sent += 1)
    hub.send(node, tell({ echo: sent, padding: new Uint8Array(300_000) }));
  await pause(100);
  assert.equal(hub.counters.sent, 4, 'the first to reach the limit is the last');
  child.kill('SIGCONT');
  await eventually('all echoes', () => atHub.envelopes.length === 6);
});

test('a spoke whose hub stops reading is overloaded too, and loses nothing when the hub continues', async (t) => {
  const cluster = new TestCluster(t);
  const { child, endpoint } = await cluster.hubProcess('tcp://127.0.0.1:*', { limits });
  const spoke = await cluster.spoke(endpoint, { limits });
  const heard = listenTo(spoke);
  const hub = spoke.hub!;
  child.kill('SIGSTOP');
  let accepted = 0;
  const fill = () => {
    for (;;) {
      spoke.send(hub, tell({ echo: accepted }));
      accepted += 1;
    }
  };
  while (accepted < limits.windowMessages + limits.queueMessages) {
    assert.throws(fill, OverloadedError);
    await pause(1);
  }
  await pause(300);
  assert.throws(fill, OverloadedError);
  child.kill('SIGCONT');
  await eventually('all echoes', () => heard.envelopes.length === accepted);
  assert.deepEqual(
    heard.bodies(),
    Array.from({ length: accepted }, (_, index) => index),
  );
});
