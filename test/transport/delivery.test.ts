import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OverloadedError, PeerLostError, ProtocolError, UsageError } from '../../src/errors.ts';
import { eventually, listenTo, pause, recordingLog, TestCluster, tell } from './harness.ts';

test('hub and spoke report each other as up and exchange every kind of envelope', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  assert.equal(spoke.hub, hub.node);
  const atSpoke = listenTo(spoke);
  const to = { node: hub.node, name: 'planner', generation: 3 };
  const from = { node: spoke.node, name: 'rank', generation: 1 };
  const sent = [
    { kind: 'tell', to, from: null, body: { offsets: new Float64Array([1, 2.5]), at: 2n ** 63n } },
    { kind: 'ask', to, from, id: 7, body: null },
    { kind: 'reply', id: 7, body: [1, 'two'] },
    { kind: 'reply', id: 8, body: undefined },
    { kind: 'failure', id: 9, error: { code: 'WEIGHTCAST_MEMORY', message: 'no room' } },
    { kind: 'watch', target: to, watcher: from },
    { kind: 'unwatch', target: to, watcher: from },
    { kind: 'down', target: to, watcher: from, reason: 'stopped' },
  ] as const;
  for (const envelope of sent) {
    spoke.send(hub.node, envelope);
    hub.send(spoke.node, envelope);
  }
  for (const heard of [atHub, atSpoke]) {
    await eventually('all envelopes', () => heard.envelopes.length === sent.length);
    assert.deepEqual(
      heard.envelopes.map(({ envelope }) => envelope),
      sent,
    );
  }
  assert.deepEqual(atHub.envelopes[0]!.from, spoke.node);
  assert.deepEqual(atSpoke.envelopes[0]!.from, hub.node);
  assert.deepEqual(
    [atHub.events, atSpoke.events].map((events) => events.map(({ node, state }) => [node, state])),
    [[[spoke.node, 'up']], [[hub.node, 'up']]],
  );
});

test('20,000 messages each way, between three nodes at once, arrive once each and in order', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spokes = await Promise.all([0, 1].map(() => cluster.spoke(hub.endpoint)));
  const atSpokes = spokes.map(listenTo);
  const count = 10_000;
  for (let index = 0; index < count; index += 1) {
    for (const spoke of spokes) {
      const body = { index, padding: new Uint8Array(index % 700) };
      hub.send(spoke.node, tell(body));
      spoke.send(hub.node, tell(body));
    }
    if (index % 2_000 === 0) await pause(1);
  }
  const expected = Array.from({ length: count }, (_, index) => index);
  const indices = (bodies: unknown[]) => (bodies as { index: number }[]).map(({ index }) => index);
  await eventually('all messages', () =>
    [
      atHub.envelopes.length === 2 * count,
      ...atSpokes.map(({ envelopes }) => envelopes.length === count),
    ].every(Boolean),
  );
  for (const spoke of spokes) assert.deepEqual(indices(atHub.bodies(spoke.node)), expected);
  for (const atSpoke of atSpokes) assert.deepEqual(indices(atSpoke.bodies()), expected);
});

test('a message arrives as it was when it was sent, even if it is changed later', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atSpoke.events.length === 1);
  const words = new Uint32Array(100_000).fill(7);
  const bytes = new Uint8Array(100_000).fill(7);
  hub.send(spoke.node, tell({ words, bytes }));
  words.fill(9);
  bytes.fill(9);
  await eventually('the message', () => atSpoke.envelopes.length === 1);
  const [body] = atSpoke.bodies() as { words: Uint32Array; bytes: Uint8Array }[];
  assert.ok(body!.words.every((word) => word === 7) && body!.bytes.every((byte) => byte === 7));
});

test('sending to a node that is not connected throws PeerLostError at once', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  assert.throws(() => hub.send('rank-9~zzz', tell(1)), PeerLostError);
  assert.throws(() => spoke.send('rank-9~zzz', tell(1)), PeerLostError);
  await spoke.close(1_000);
  assert.throws(() => spoke.send(hub.node, tell(1)), PeerLostError);
});

test('a message that cannot be encoded or is too large throws ProtocolError and disturbs no other', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits: { messageBytes: 1_000 } });
  listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atSpoke.events.length === 1);
  hub.send(spoke.node, tell('before'));
  assert.throws(
    () =>
      hub.send(
        spoke.node,
        tell(() => {}),
      ),
    ProtocolError,
  );
  assert.throws(() => hub.send(spoke.node, tell(new Uint8Array(1_001))), /1\d+ bytes .* exceeds 1000 bytes/);
  hub.send(spoke.node, tell('after'));
  await eventually('both', () => atSpoke.envelopes.length === 2);
  assert.deepEqual(atSpoke.bodies(), ['before', 'after']);
});

test('what the hub sends before the spoke listens is delivered after the event that the hub is up', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  await eventually('up', () => atHub.events.length === 1);
  hub.send(spoke.node, tell('early'));
  await pause(100);
  const order: string[] = [];
  spoke.listen(
    () => order.push('envelope'),
    () => order.push('up'),
  );
  await eventually('the message', () => order.length === 2);
  assert.deepEqual(order, ['up', 'envelope']);
});

test('a listener that throws is logged and gets later messages', async (t) => {
  const cluster = new TestCluster(t);
  const log = recordingLog();
  const hub = await cluster.hub({ log });
  const heard: unknown[] = [];
  hub.listen(
    (_, envelope) => {
      heard.push(envelope);
      throw new Error('not today');
    },
    () => {
      throw new Error('nor for peers');
    },
  );
  const spoke = await cluster.spoke(hub.endpoint);
  spoke.send(hub.node, tell(1));
  spoke.send(hub.node, tell(2));
  await eventually('both', () => heard.length === 2);
  const errors = log.lines.filter(({ level }) => level === 'error').map(({ message }) => message);
  assert.equal(errors.length, 3);
  assert.match(errors[0]!, /nor for peers/);
  assert.match(errors[1]!, /not today/);
  assert.throws(
    () =>
      hub.listen(
        () => {},
        () => {},
      ),
    UsageError,
  );
});

test('a message of many frames arrives whole and in order; the queue is full meanwhile', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atSpoke.events.length === 1);
  // More than a window, and than a queue.
  const large = new Uint8Array(96 * 2 ** 20);
  for (let at = 0; at < large.byteLength; at += 4096) large[at] = at / 4096;
  hub.send(spoke.node, tell('before'));
  hub.send(spoke.node, tell(large));
  assert.throws(() => hub.send(spoke.node, tell('while it waits')), OverloadedError);
  spoke.send(hub.node, tell('the other way'));
  await eventually('all', () => atSpoke.envelopes.length === 2 && atHub.envelopes.length === 1);
  hub.send(spoke.node, tell('after'));
  await eventually('the last', () => atSpoke.envelopes.length === 3);
  const [before, arrived, after] = atSpoke.bodies();
  assert.deepEqual([before, after], ['before', 'after']);
  assert.equal(Buffer.compare(arrived as Uint8Array, large), 0);
});

test('a hub is reached over IPv6', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ endpoint: 'tcp://[::1]:*' });
  listenTo(hub);
  assert.match(hub.endpoint, /^tcp:\/\/\[::1\]:\d+$/);
  const spoke = await cluster.spoke(hub.endpoint);
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atSpoke.states().join() === 'hub up');
});
