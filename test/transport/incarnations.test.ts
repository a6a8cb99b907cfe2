import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Dealer } from 'zeromq';
import { PeerLostError, UsageError } from '../../src/errors.ts';
import { encode } from '../../src/transport/codec.ts';
import { curveClientOptions } from '../../src/transport/curve.ts';
import { isNodeName, nodeName } from '../../src/transport/node-name.ts';
import { eventually, exitOf, listenTo, messageFrame, TestCluster, tell } from './harness.ts';

test('node names end with an incarnation that differs each time unless given', () => {
  assert.match(nodeName('rank-3'), /^rank-3~[a-z0-9]{6}$/);
  assert.notEqual(nodeName('rank-3'), nodeName('rank-3'));
  assert.equal(nodeName('rank-3', 'k3f9a1'), 'rank-3~k3f9a1');
  for (const wrong of ['', 'rank 3', '~', 'a/b']) assert.throws(() => nodeName(wrong), UsageError);
  assert.equal(isNodeName('rank-3'), false);
});

test('a new incarnation of a role connects beside the old one and does not disturb it', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const old = await cluster.spoke(hub.endpoint, { node: 'rank-0~old' });
  const atOld = listenTo(old);
  const young = await cluster.spoke(hub.endpoint, { node: 'rank-0~new' });
  const atYoung = listenTo(young);
  await eventually(
    'both up',
    () => atHub.events.length === 2 && atOld.events.length + atYoung.events.length === 2,
  );
  hub.send(old.node, tell('to the old'));
  hub.send(young.node, tell('to the new'));
  await eventually('both', () => atOld.envelopes.length === 1 && atYoung.envelopes.length === 1);
  assert.deepEqual([atOld.bodies(), atYoung.bodies()], [['to the old'], ['to the new']]);
  await old.close(5_000);
  await eventually('down', () => atHub.events.length === 3);
  assert.deepEqual(
    atHub.events.map(({ node, state }) => `${node} ${state}`),
    ['rank-0~old up', 'rank-0~new up', 'rank-0~old down'],
  );
  hub.send(young.node, tell('again'));
  await eventually('the message', () => atYoung.envelopes.length === 2);
});

test('messages of an incarnation that is down are dropped and counted', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint, { node: 'rank-0~old' });
  listenTo(spoke);
  await spoke.close(5_000);
  await eventually('down', () => atHub.events.length === 2);
  const late = new Dealer({ routingId: 'rank-0~old', linger: 0, ...curveClientOptions(cluster.keys) });
  t.after(() => late.close());
  late.connect(hub.endpoint);
  const before = hub.counters.stray;
  await late.send([messageFrame(1, 0, encode(tell('from the grave')))]);
  await eventually('the count', () => hub.counters.stray === before + 1);
  await assert.rejects(cluster.spoke(hub.endpoint, { node: 'rank-0~old' }), PeerLostError);
  assert.deepEqual(atHub.envelopes, []);
  assert.equal(atHub.events.length, 2);
});

for (const { pingEveryMilliseconds, isNoticed, reason } of [
  { pingEveryMilliseconds: 100, isNoticed: true, reason: /^its connection is gone$/ },
  { pingEveryMilliseconds: 4_000, isNoticed: false, reason: /^hub~second has taken its place$/ },
]) {
  const when = isNoticed ? 'after' : 'before';
  test(`a hub that is replaced ${when} its spoke misses it is down, then its successor up`, async (t) => {
    const cluster = new TestCluster(t);
    const first = await cluster.hubProcess('tcp://127.0.0.1:*');
    const spoke = await cluster.spoke(first.endpoint, {
      limits: { pingEveryMilliseconds, lostAfterMilliseconds: 60_000 },
    });
    const heard = listenTo(spoke);
    await eventually('up', () => heard.events.length === 1);
    first.child.kill('SIGKILL');
    await exitOf(first.child);
    for (let index = 0; index < 10; index += 1) spoke.send(first.node, tell({ echo: 'for the first only' }));
    if (isNoticed) await eventually('down', () => heard.events.length === 2);
    const second = await cluster.hub({ endpoint: first.endpoint, node: 'hub~second' });
    const atSecond = listenTo(second);
    await eventually('down and up', () => heard.events.length === 3);
    assert.deepEqual(
      heard.events.map(({ node, state }) => [node, state]),
      [
        [first.node, 'up'],
        [first.node, 'down'],
        [second.node, 'up'],
      ],
    );
    assert.match(heard.events[1]!.reason, reason);
    assert.throws(() => spoke.send(first.node, tell(1)), PeerLostError);
    spoke.send(second.node, tell('for the second'));
    await eventually('the message', () => atSecond.envelopes.length > 0);
    assert.deepEqual(atSecond.bodies(), ['for the second']);
  });
}
