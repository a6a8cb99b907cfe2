import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UsageError } from '../../src/errors.ts';
import { defaultLimits } from '../../src/transport/limits.ts';
import {
  eventually,
  exitOf,
  hasty,
  listenTo,
  nextMessage,
  startProcess,
  TestCluster,
  tell,
} from './harness.ts';

test('processes that closed their transports exit on their own', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hubProcess('tcp://127.0.0.1:*');
  const spokes = await Promise.all(
    [0, 1].map((rank) => cluster.spokeProcess(hub.endpoint, { node: `rank-${rank}~a` })),
  );
  spokes[0]!.child.send('close');
  assert.deepEqual(await exitOf(spokes[0]!.child), { code: 0, signal: null });
  hub.child.send('close');
  assert.deepEqual(await exitOf(hub.child), { code: 0, signal: null });
  spokes[1]!.child.send('close');
  assert.deepEqual(await exitOf(spokes[1]!.child), { code: 0, signal: null });
});

test('a spoke process whose hub vanished closes and ends in time', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hubProcess('tcp://127.0.0.1:*');
  const { child } = await cluster.spokeProcess(hub.endpoint);
  hub.child.kill('SIGKILL');
  await exitOf(hub.child);
  child.send('close');
  assert.deepEqual(await exitOf(child), { code: 0, signal: null });
});

test('a process that could neither bind nor connect exits on its own', async (t) => {
  const cluster = new TestCluster(t);
  const { endpoint } = await cluster.hub();
  const child = startProcess(t, 'failing-process', {
    endpoint,
    silentEndpoint: 'tcp://127.0.0.1:1',
    keys: cluster.keys,
  });
  assert.deepEqual(await nextMessage(child), ['WEIGHTCAST_USAGE', 'WEIGHTCAST_PEER_LOST']);
  assert.deepEqual(await exitOf(child), { code: 0, signal: null });
});

test('a hub whose spoke is stopped closes at its deadline, and the others get bye before', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const stopped = await cluster.spokeProcess(hub.endpoint);
  const other = await cluster.spoke(hub.endpoint, { node: 'rank-1~a' });
  const atOther = listenTo(other);
  await eventually('both up', () => atHub.events.length === 2);
  stopped.child.kill('SIGSTOP');
  hub.send(stopped.node, tell(new Uint8Array(5_000_000)));
  let isClosed = false;
  const closing = hub.close(2_000);
  const closed = closing.then(() => {
    isClosed = true;
  });
  await eventually('the other hears bye', () => atOther.events.length === 2);
  assert.equal(isClosed, false, 'the hub still waits for the one that is stopped');
  await eventually('its deadline ends that', () => isClosed);
  await closed;
  assert.equal(hub.close(5_000), closing, 'a second close is the first');
});

test('hub and spoke may close at the same time, listened to or not', async (t) => {
  const cluster = new TestCluster(t);
  for (const listened of [true, false]) {
    const hub = await cluster.hub();
    listenTo(hub);
    const spoke = await cluster.spoke(hub.endpoint);
    if (listened) listenTo(spoke);
    let isClosed = false;
    void Promise.all([hub.close(60_000), spoke.close(60_000)]).then(() => {
      isClosed = true;
    });
    await eventually('both have closed', () => isClosed);
  }
});

test('a hub that closes is down for its spokes at once, and they find the next one at its endpoint', async (t) => {
  const cluster = new TestCluster(t);
  const first = await cluster.hubProcess('tcp://127.0.0.1:*');
  const spoke = await cluster.spoke(first.endpoint);
  const heard = listenTo(spoke);
  await eventually('up', () => heard.events.length === 1);
  first.child.send('close');
  await eventually('down', () => heard.events.length === 2);
  assert.equal(heard.events[1]!.reason, 'said bye: it was closed');
  await exitOf(first.child);
  const second = await cluster.hubProcess(first.endpoint);
  await eventually('up again', () => heard.events.length === 3);
  assert.equal(heard.events[2]!.node, second.node);
});

test('a wrong option and an endpoint in use are named in the error', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  await assert.rejects(
    cluster.hub({ endpoint: hub.endpoint }),
    (error) => error instanceof UsageError && error.message.includes(hub.endpoint),
  );
  await assert.rejects(cluster.hub({ node: 'hub' }), /"hub" is not a node name/);
  await assert.rejects(cluster.hub({ limits: { queueMessages: 0 } }), /queueMessages is 0/);
  await assert.rejects(cluster.hub({ limits: { lostAfterMilliseconds: 10 } }), /lostAfterMilliseconds/);
  assert.ok(defaultLimits.lostAfterMilliseconds > hasty.lostAfterMilliseconds!);
});
