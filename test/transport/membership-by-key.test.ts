import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Dealer, Router } from 'zeromq';
import { PeerLostError, UsageError } from '../../src/errors.ts';
import {
  createClusterKeys,
  curveClientOptions,
  curveServerOptions,
  keyBytes,
} from '../../src/transport/curve.ts';
import { controlFrame } from '../../src/transport/frames.ts';
import { listenTo, pause, recordingLog, TestCluster } from './harness.ts';

const shortly = 700;

test('a spoke with a key of its own, though it knows the public key of the hub, is refused', async (t) => {
  const cluster = new TestCluster(t);
  const log = recordingLog();
  const hub = await cluster.hub({ log });
  const atHub = listenTo(hub);
  const stranger = { hub: cluster.keys.hub, spoke: createClusterKeys().spoke };
  const before = performance.now();
  await assert.rejects(
    cluster.spoke(hub.endpoint, { keys: stranger, deadline: shortly }),
    (error) => error instanceof PeerLostError && error.message.includes(hub.endpoint),
  );
  assert.ok(performance.now() - before < shortly + 5_000);
  assert.deepEqual(atHub.events, []);
  assert.ok(log.lines.some(({ message }) => message.includes('does not belong to this cluster')));
  await cluster.spoke(hub.endpoint);
});

test('a spoke does not talk to a hub that does not own the key it expects', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const mistaken = { hub: createClusterKeys().hub, spoke: cluster.keys.spoke };
  await assert.rejects(cluster.spoke(hub.endpoint, { keys: mistaken, deadline: shortly }), PeerLostError);
  assert.deepEqual(atHub.events, []);
});

test('a client without encryption is refused', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const plain = new Dealer({ routingId: 'rank-0~plain', linger: 0 });
  t.after(() => plain.close());
  plain.connect(hub.endpoint);
  void plain.send([controlFrame('hello', 0, 0, {})]).catch(() => {});
  await pause(shortly);
  assert.deepEqual([atHub.events, hub.counters.stray, hub.counters.malformed], [[], 0, 0]);
});

test('two clusters in one process keep their spokes apart', async (t) => {
  const [one, other] = [new TestCluster(t), new TestCluster(t)];
  const [hub, otherHub] = [await one.hub(), await other.hub()];
  const [atHub, atOtherHub] = [listenTo(hub), listenTo(otherHub)];
  const crossed = { hub: other.keys.hub, spoke: one.keys.spoke };
  await assert.rejects(one.spoke(otherHub.endpoint, { keys: crossed, deadline: shortly }), PeerLostError);
  await one.spoke(hub.endpoint);
  await other.spoke(otherHub.endpoint);
  assert.deepEqual([atHub.events.length, atOtherHub.events.length], [1, 1]);
  // The handler goes on for the hub that is left, and forgets the one that closed.
  await hub.close(1_000);
  await other.spoke(otherHub.endpoint, { node: 'rank-1~late' });
});

test('without a handler to check keys even the right one is refused', async (t) => {
  const { keys } = new TestCluster(t);
  const client = async (endpoint: string) => {
    const dealer = new Dealer({ routingId: 'rank-0~x', linger: 0, ...curveClientOptions(keys) });
    t.after(() => dealer.close());
    dealer.connect(endpoint);
    await dealer.send('knock');
  };
  const heardBy = async (options: object) => {
    const router = new Router({ linger: 0, receiveTimeout: shortly, ...options });
    t.after(() => router.close());
    await router.bind('tcp://127.0.0.1:*');
    void client(router.lastEndpoint!);
    return router.receive().then(
      ([, message]) => message!.toString(),
      () => 'nothing',
    );
  };
  const options = curveServerOptions(keys, 'a domain that nobody answers for');
  assert.equal(await heardBy(options), 'nothing');
  // What would become of it if the domain were not enforced.
  assert.equal(await heardBy({ ...options, zapEnforceDomain: false }), 'knock');
});

test('keys are checked for their form, and never repeated in an error', () => {
  // The example of the manual of zmq_z85_decode.
  const key = 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID';
  assert.equal(
    Buffer.from(keyBytes(key)).toString('hex'),
    'bb88471d65e2659b30c55a5321cebb5aab2b70a398645c26dca2b2fcb43fc518',
  );
  for (const wrong of ['', key.slice(1), `${key.slice(1)}"`, '#'.repeat(40)]) {
    assert.throws(
      () => keyBytes(wrong),
      (error) => error instanceof UsageError && (wrong === '' || !error.message.includes(wrong)),
    );
  }
});
