import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { Dealer, Router } from 'zeromq';
import { PeerLostError, ProtocolError } from '../../src/errors.ts';
import { encode } from '../../src/transport/codec.ts';
import { curveClientOptions } from '../../src/transport/curve.ts';
import { controlFrame, parseFrame, protocolVersion } from '../../src/transport/frames.ts';
import { admit } from '../../src/transport/zap.ts';
import { patience } from '../patience.ts';
import { clock, eventually, listenTo, messageFrame, recordingLog, TestCluster, tell } from './harness.ts';

/** A member of the cluster that speaks ZeroMQ but does not keep to the protocol. */
function rudeSpoke(
  test: TestContext,
  cluster: TestCluster,
  endpoint: string,
  routingId = 'rank-9~rude',
): Dealer {
  const dealer = new Dealer({
    routingId,
    linger: 0,
    receiveTimeout: patience,
    ...curveClientOptions(cluster.keys),
  });
  test.after(() => dealer.close());
  dealer.connect(endpoint);
  return dealer;
}

/** A hub that owns the cluster's key but does not keep to the protocol. */
async function rudeHub(test: TestContext, cluster: TestCluster): Promise<Router> {
  const domain = 'rude';
  const withdraw = await admit(domain, [cluster.keys.spoke.publicKey], clock, recordingLog());
  const { secretKey: curveSecretKey } = cluster.keys.hub;
  const router = new Router({
    curveServer: true,
    curveSecretKey,
    zapDomain: domain,
    linger: 0,
    receiveTimeout: patience,
  });
  await router.bind('tcp://127.0.0.1:*');
  test.after(() => {
    router.close();
    withdraw();
  });
  return router;
}

function changed(frame: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = frame.slice();
  change(new DataView(copy.buffer));
  return copy;
}

const message = messageFrame(1, 0, encode(tell('x')));
const malformed: readonly Uint8Array[] = [
  new Uint8Array(0),
  new Uint8Array([0x57]),
  new Uint8Array([0x57, protocolVersion, 0, 0]),
  message.subarray(0, 15),
  changed(message, (view) => view.setUint8(0, 0)),
  changed(message, (view) => view.setUint8(2, 99)),
  changed(message, (view) => view.setUint8(3, 1)),
  changed(message, (view) => view.setFloat64(8, Number.NaN, true)),
  changed(message, (view) => view.setFloat64(8, -1, true)),
  changed(message, (view) => view.setFloat64(8, 0.5, true)),
];

test('a hub drops and counts bytes that are no frame, and continues', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const spoke = await cluster.spoke(hub.endpoint);
  const rude = rudeSpoke(t, cluster, hub.endpoint);
  for (const bytes of malformed) await rude.send([bytes]);
  await rude.send([message, message]);
  let random = 0;
  for (let size = 1; size < 300; size += 1) {
    const bytes = randomBytes(size);
    if (bytes[0] === 0x57) continue;
    await rude.send([bytes]);
    random += 1;
  }
  const nameless = rudeSpoke(t, cluster, hub.endpoint, 'no node name');
  await nameless.send([controlFrame('hello', 0, 0, {})]);
  await eventually('all are counted', () => hub.counters.malformed === malformed.length + 1 + random + 1);
  spoke.send(hub.node, tell('well-mannered'));
  await eventually('the message', () => atHub.envelopes.length === 1);
  assert.equal(atHub.events.length, 1);
});

test('in a session, what is malformed is dropped and counted, and what follows is delivered', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub();
  const atHub = listenTo(hub);
  const rude = rudeSpoke(t, cluster, hub.endpoint);
  await rude.send([controlFrame('hello', 0, 0, {})]);
  const { kind, session } = parseFrame((await rude.receive())[0]!);
  assert.equal(kind, 'welcome');
  const good = encode(tell('good'));
  const payloads = [
    randomBytes(50),
    good.subarray(0, good.length - 1),
    encode('no envelope'),
    encode({ kind: 'shout', body: 1 }),
    encode({ ...tell(1), to: { node: 'any~1', name: 'any', generation: -1 } }),
    encode({ ...tell(1), to: null }),
    encode({ kind: 'failure', id: 1, error: 'plain text' }),
    good,
  ];
  for (const [position, payload] of payloads.entries())
    await rude.send([messageFrame(session, position, payload)]);
  const position = payloads.length;
  const boastful = { receivedMessages: 1_000_000, receivedBytes: 1 };
  await rude.send([controlFrame('alive', session, position, boastful)]);
  await rude.send([controlFrame('alive', session, position, { receivedMessages: -1 } as never)]);
  await rude.send([controlFrame('welcome', session, position, { node: 'hub~me' })]);
  await rude.send([controlFrame('bye-ack', session, position, {})]);
  await rude.send([
    messageFrame(session === 1 ? 2 : session - 1, position, encode(tell('of another session'))),
  ]);
  await rude.send([messageFrame(session, position, good)]);
  await eventually('both good ones', () => atHub.envelopes.length === 2);
  assert.deepEqual(atHub.bodies(), ['good', 'good']);
  assert.equal(hub.counters.malformed, payloads.length - 1 + 3);
  assert.equal(atHub.events.length, 1);
});

test('a hub refuses a spoke of another version and says so in its log', async (t) => {
  const cluster = new TestCluster(t);
  const log = recordingLog();
  const hub = await cluster.hub({ log });
  const atHub = listenTo(hub);
  const rude = rudeSpoke(t, cluster, hub.endpoint, 'rank-9~newer');
  await rude.send([
    changed(controlFrame('hello', 0, 0, {}), (view) => view.setUint8(1, protocolVersion + 1)),
  ]);
  const answer = parseFrame((await rude.receive())[0]!);
  assert.equal(answer.kind, 'refusal');
  const expected = `rank-9~newer speaks protocol version ${protocolVersion + 1}, this hub ${protocolVersion}`;
  assert.ok(Buffer.from(answer.payload).includes(expected));
  assert.deepEqual(
    log.lines.filter(({ level }) => level === 'error').map(({ message }) => message),
    [expected],
  );
  assert.deepEqual(atHub.events, []);
});

test('a spoke rejects with ProtocolError when the hub speaks another version', async (t) => {
  const cluster = new TestCluster(t);
  const router = await rudeHub(t, cluster);
  const connecting = cluster.spoke(router.lastEndpoint!);
  const [id] = await router.receive();
  const frame = controlFrame('refusal', 0, 0, { node: 'hub~old', reason: 'too new' });
  await router.send([id!, changed(frame, (view) => view.setUint8(1, protocolVersion + 1))]);
  await assert.rejects(
    connecting,
    (error) => error instanceof ProtocolError && error.message.includes(`version ${protocolVersion + 1}`),
  );
});

test('a spoke drops and counts bytes that are no frame, and accepts a later welcome', async (t) => {
  const cluster = new TestCluster(t);
  const router = await rudeHub(t, cluster);
  const connecting = cluster.spoke(router.lastEndpoint!);
  const [id] = await router.receive();
  for (const bytes of malformed) await router.send([id!, bytes]);
  await router.send([id!, message, message]);
  await router.send([id!, controlFrame('welcome', 5, 0, { node: 'no node name' })]);
  await router.send([id!, controlFrame('welcome', 5, 0, { node: 'hub~polite' })]);
  const spoke = await connecting;
  const heard = listenTo(spoke);
  assert.equal(spoke.counters.malformed, malformed.length + 2);
  await router.send([id!, messageFrame(6, 0, encode(tell('of another session')))]);
  await router.send([id!, messageFrame(5, 0, randomBytes(20))]);
  await router.send([id!, messageFrame(5, 1, encode(tell('good')))]);
  await eventually('the message', () => heard.envelopes.length === 1);
  assert.deepEqual([heard.bodies(), spoke.counters.stray], [['good'], 1]);
});

test('connecting to something that is not a hub rejects in time', async (t) => {
  const cluster = new TestCluster(t);
  const router = await rudeHub(t, cluster);
  await assert.rejects(
    cluster.spoke(router.lastEndpoint!, { deadline: 300 }),
    (error) => error instanceof PeerLostError && error.message.includes(router.lastEndpoint!),
  );
  await assert.rejects(cluster.spoke('tcp://127.0.0.1:1', { deadline: 300 }), PeerLostError);
  await assert.rejects(cluster.spoke('nonsense', { deadline: 300 }), /cannot connect to nonsense/);
});
