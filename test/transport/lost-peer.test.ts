import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PeerLostError } from '../../src/errors.ts';
import { eventually, listenTo, pause, recordingLog, TestCluster, tell } from './harness.ts';

test('a spoke process that is killed is down long before the silence limit, and cannot be sent to', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits: { pingEveryMilliseconds: 100, lostAfterMilliseconds: 60_000 } });
  const atHub = listenTo(hub);
  const victim = await cluster.spokeProcess(hub.endpoint);
  await cluster.spoke(hub.endpoint, { node: 'rank-1~a' });
  await eventually('both up', () => atHub.events.length === 2);
  victim.child.kill('SIGKILL');
  await eventually('down', () => atHub.events.length === 3);
  assert.deepEqual(atHub.events[2], { node: victim.node, state: 'down', reason: 'its connection is gone' });
  assert.throws(() => hub.send(victim.node, tell(1)), PeerLostError);
  await pause(300);
  assert.equal(atHub.events.length, 3, 'the other spoke is not disturbed');
});

test('a hub process that is killed is down for its spoke', async (t) => {
  const cluster = new TestCluster(t);
  const { child, endpoint, node } = await cluster.hubProcess('tcp://127.0.0.1:*');
  const spoke = await cluster.spoke(endpoint);
  const heard = listenTo(spoke);
  await eventually('up', () => heard.events.length === 1);
  child.kill('SIGKILL');
  await eventually('down', () => heard.events.length === 2);
  assert.deepEqual(heard.events[1], {
    node,
    state: 'down',
    reason: 'its connection is gone',
    isFarewell: false,
  });
  assert.throws(() => spoke.send(node, tell(1)), PeerLostError);
});

test('a spoke whose event loop is blocked is lost though its connection is up, and is notified afterwards', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits: { pingEveryMilliseconds: 100, lostAfterMilliseconds: 1_000 } });
  const atHub = listenTo(hub);
  const { node, child } = await cluster.spokeProcess(hub.endpoint, {
    limits: { pingEveryMilliseconds: 100 },
  });
  await eventually('up', () => atHub.events.length === 1);
  const reports: { event?: { state: string; reason: string } }[] = [];
  child.on('message', (message) => reports.push(message as object));
  hub.send(node, tell({ block: 2_500 }));
  await eventually('down', () => atHub.events.length === 2);
  assert.deepEqual(atHub.events[1], { node, state: 'down', reason: 'silent for 1000 ms' });
  await eventually('the spoke learns it', () => reports.some(({ event }) => event?.state === 'down'));
  assert.match(reports.find(({ event }) => event?.state === 'down')!.event!.reason, /silent for 1000 ms/);
});

test('a spoke that the hub is patient with may be busy or stopped for any time, and is lost when it is killed', async (t) => {
  const cluster = new TestCluster(t);
  const node = 'owner~a';
  const limits = { pingEveryMilliseconds: 100, lostAfterMilliseconds: 500 };
  const hub = await cluster.hub({ limits, patientWith: node });
  const atHub = listenTo(hub);
  const { child } = await cluster.spokeProcess(hub.endpoint, { node, limits });
  const other = await cluster.spokeProcess(hub.endpoint, { node: 'rank-1~a', limits });
  await eventually('both up', () => atHub.events.length === 2);
  for (const one of [child, other.child]) one.kill('SIGSTOP');
  await eventually('the other is down', () => atHub.events.length === 3);
  await pause(500);
  assert.equal(atHub.states().at(-1), 'rank-1 down');
  assert.equal(atHub.events.length, 3);
  hub.send(node, tell({ echo: 'still here' }));
  child.kill('SIGCONT');
  await eventually('the echo', () => atHub.bodies(node).includes('still here'));
  child.kill('SIGKILL');
  await eventually('down', () => atHub.states().at(-1) === 'owner down');
});

test('a hub that was blocked itself does not declare its spokes lost', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits: { pingEveryMilliseconds: 100, lostAfterMilliseconds: 500 } });
  const atHub = listenTo(hub);
  const { node } = await cluster.spokeProcess(hub.endpoint, {
    limits: { pingEveryMilliseconds: 100, lostAfterMilliseconds: 60_000 },
  });
  await eventually('up', () => atHub.events.length === 1);
  await pause(200);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
  await pause(300);
  assert.equal(atHub.events.length, 1);
  hub.send(node, tell({ echo: 'still here' }));
  await eventually('the echo', () => atHub.envelopes.length === 1);
});

test('bye is received at once, after everything sent before', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const heard: unknown[] = [];
  hub.listen(
    (_, envelope) => heard.push('body' in envelope && envelope.body),
    ({ state, reason }) => heard.push(`${state}: ${reason}`),
  );
  const spoke = await cluster.spoke(hub.endpoint);
  for (let index = 0; index < 5_000; index += 1) spoke.send(hub.node, tell(index));
  await spoke.close(10_000);
  await eventually('down', () => heard.length === 5_002);
  assert.deepEqual(heard, [
    'up: said hello',
    ...Array.from({ length: 5_000 }, (_, index) => index),
    'down: said bye: it was closed',
  ]);
});

test('a node that the supervisor declares lost is down at once, is notified, and is refused for good', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atHub.events.length === 1 && atSpoke.events.length === 1);
  spoke.send(hub.node, tell('on its way'));
  hub.declareLost(spoke.node, 'its process exited with code 1');
  assert.deepEqual(atHub.events[1], {
    node: spoke.node,
    state: 'down',
    reason: 'its process exited with code 1',
  });
  await eventually('the spoke learns it', () => atSpoke.events.length === 2);
  assert.equal(atSpoke.events[1]!.state, 'down');
  await pause(400);
  assert.deepEqual(atHub.envelopes, [], 'what it had sent is dropped');
  assert.deepEqual([atHub.events.length, atSpoke.events.length], [2, 2]);
  hub.declareLost('rank-7~early', 'it exited before it said hello');
  await assert.rejects(
    cluster.spoke(hub.endpoint, { node: 'rank-7~early' }),
    /must reconnect under a new name/,
  );
  assert.equal(atHub.events.length, 2);
});

test('a hub at its limit of nodes refuses the next one with a reason', async (t) => {
  const cluster = new TestCluster(t);
  const log = recordingLog();
  const hub = await cluster.hub({ log, limits: { peers: 1 } });
  listenTo(hub);
  const first = await cluster.spoke(hub.endpoint);
  await assert.rejects(
    cluster.spoke(hub.endpoint, { node: 'rank-1~a' }),
    (error) => error instanceof PeerLostError && /serves 1 nodes, the maximum/.test(error.message),
  );
  listenTo(first);
  await first.close(5_000);
  await cluster.spoke(hub.endpoint, { node: 'rank-1~b' });
});
