import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import type { Exposure, HostFabric } from '../../src/native-bridge/fabric.ts';
import { patience, timeBudget } from '../patience.ts';
import { contentOf, run, segmentBytes, TestCluster } from './fabrics.ts';

/** What a stranger learns of a fabric from its address. */
interface Target {
  readonly fabric: Buffer;
  readonly port: number;
}

function targetOf(fabric: HostFabric): Target {
  const address = Buffer.from(fabric.address);
  return { fabric: address.subarray(1, 17), port: address.readUInt16LE(33) };
}

/** A connection made by hand, outside the code under test. */
class Caller {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  readonly ended: Promise<unknown>;

  constructor(test: TestContext, { port }: Target) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('error', () => {});
    this.socket.on('data', (data) => {
      this.#received = Buffer.concat([this.#received, data]);
    });
    // Not once(): a connection that is reset has ended as well as any other.
    this.ended = new Promise((resolve, reject) => {
      this.socket.once('close', resolve);
      const late = () => reject(new Error('the connection is still open'));
      AbortSignal.timeout(patience).addEventListener('abort', late);
    });
    this.ended.catch(() => {});
    test.after(() => this.socket.destroy());
  }

  get received(): Buffer {
    return this.#received;
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async take(bytes: number): Promise<Buffer> {
    while (this.#received.length < bytes) {
      await once(this.socket, 'data', { signal: AbortSignal.timeout(patience) });
    }
    const taken = this.#received.subarray(0, bytes);
    this.#received = this.#received.subarray(bytes);
    return taken;
  }
}

const magic = Buffer.from('weightc\x01', 'latin1');

function hello(fabric: Uint8Array, purpose: 'control' | 'stream', nonce = randomBytes(32)): Buffer {
  return Buffer.concat([magic, Buffer.of(purpose === 'control' ? 1 : 2, 0, 0, 0, 0, 0, 0, 0), fabric, nonce]);
}

const mac = (secret: Uint8Array, label: string, ...parts: Uint8Array[]) =>
  createHmac('sha256', secret).update(label).update(Buffer.concat(parts)).digest();

/** The handshake as native/fabric/handshake.h describes it, by Node's crypto. */
async function authenticate(
  caller: Caller,
  secret: Uint8Array,
  target: Target,
  purpose: 'control' | 'stream',
): Promise<void> {
  const greeting = hello(target.fabric, purpose);
  caller.send(greeting);
  const challenge = await caller.take(64);
  const expected = mac(secret, 'weightcast fabric: listener', greeting, challenge.subarray(0, 32));
  assert(challenge.subarray(32).equals(expected), 'the listener proves that it knows the secret');
  caller.send(mac(secret, 'weightcast fabric: dialler', greeting, challenge));
}

interface Exposed {
  readonly cluster: TestCluster;
  readonly fabric: HostFabric;
  readonly exposure: Exposure;
  readonly target: Target;
  /** Asserts that members are still served. */
  stillServes(): Promise<void>;
}

async function expose(t: TestContext): Promise<Exposed> {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const exposure = await fabric.expose(cluster.segment(1));
  const reader = cluster.fabric();
  const stillServes = async () => {
    const peer = await cluster.connect(reader, fabric.address, { kind: 'tcp' });
    const destination = cluster.memory();
    await peer.read(exposure.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
    peer.close();
  };
  return { cluster, fabric, exposure, target: targetOf(fabric), stillServes };
}

const streamRequest = (token: Uint8Array, offset: number, bytes: number) => {
  const numbers = Buffer.alloc(16);
  numbers.writeBigUInt64LE(BigInt(offset));
  numbers.writeUInt32LE(bytes, 8);
  return Buffer.concat([token, numbers]);
};

function frame(type: number, fields: Uint8Array, length = fields.length): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(length);
  head[4] = type;
  return Buffer.concat([head, fields]);
}

test('a fabric with another secret is refused on both sides, over every way', async (t) => {
  const { cluster, fabric, stillServes } = await expose(t);
  const stranger = cluster.fabric({ secret: randomBytes(32) });
  for (const [from, to] of [
    [stranger, fabric],
    [fabric, stranger],
  ] as const) {
    for (const kind of ['shm', 'tcp', undefined] as const) {
      await assert.rejects(
        from.connect(to.address, { name: 'rank 1', timeoutMilliseconds: patience, kind }),
        {
          name: 'NativeError',
          message: /^rank 1 at .* does not know the secret of this cluster/,
        },
      );
    }
  }
  await stillServes();
});

test('who knows the secret is served, by the handshake as it is written down', async (t) => {
  const { cluster, exposure, target } = await expose(t);
  const caller = new Caller(t, target);
  await authenticate(caller, cluster.secret, target, 'stream');
  caller.send(streamRequest(exposure.token, 1_000, 500));
  const reply = await caller.take(8 + 500 + 4);
  assert.deepEqual([reply.readUInt32LE(0), reply.readUInt32LE(4), reply.readUInt32LE(508)], [0, 500, 0]);
  assert(reply.subarray(8, 508).equals(contentOf(1, segmentBytes).subarray(1_000, 1_500)));
});

test('who does not prove to know the secret gets not a byte more than the challenge', async (t) => {
  const { exposure, target, stillServes } = await expose(t);
  for (const purpose of ['control', 'stream'] as const) {
    const caller = new Caller(t, target);
    const greeting = hello(target.fabric, purpose);
    // All at once, as if it had been let in.
    caller.send(greeting, randomBytes(32), streamRequest(exposure.token, 0, 100));
    await caller.ended;
    assert(caller.received.length <= 64, `${caller.received.length} bytes`);
  }
  await stillServes();
});

test('a proof heard before is worth nothing in another connection', async (t) => {
  const { cluster, exposure, target } = await expose(t);
  const heard = new Caller(t, target);
  const nonce = randomBytes(32);
  const greeting = hello(target.fabric, 'stream', nonce);
  heard.send(greeting);
  const challenge = await heard.take(64);
  const proof = mac(cluster.secret, 'weightcast fabric: dialler', greeting, challenge);
  const replayed = new Caller(t, target);
  replayed.send(greeting, proof, streamRequest(exposure.token, 0, 100));
  await replayed.ended;
  assert(replayed.received.length <= 64);
  // The listener's own proof sent back to it is none either.
  const reflected = new Caller(t, target);
  reflected.send(greeting);
  const answer = await reflected.take(64);
  reflected.send(answer.subarray(32), streamRequest(exposure.token, 0, 100));
  await reflected.ended;
  assert.equal(reflected.received.length, 0);
});

test('garbage, other protocols, other fabrics and half a greeting end their connection and nothing else', async (t) => {
  const { target, stillServes } = await expose(t);
  const texts = [
    Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser of some kind or other\r\n\r\n'),
    randomBytes(1 << 20),
    Buffer.alloc(4_096),
    hello(randomBytes(16), 'control'),
    Buffer.concat([Buffer.from('weightc\x02', 'latin1'), hello(target.fabric, 'control').subarray(8)]),
    Buffer.concat([magic, Buffer.of(3), hello(target.fabric, 'control').subarray(9)]),
  ];
  for (const text of texts) {
    const caller = new Caller(t, target);
    caller.send(text);
    await caller.ended;
    assert.equal(caller.received.length, 0);
  }
  const half = new Caller(t, target);
  half.send(hello(target.fabric, 'control').subarray(0, 30));
  half.socket.end();
  await half.ended;
  await stillServes();
});

test('strangers that say nothing are sent away, and members get in beside any number of them', async (t) => {
  const { target, stillServes } = await expose(t);
  const silent = Array.from({ length: 200 }, () => new Caller(t, target));
  await Promise.all(silent.map(({ socket }) => once(socket, 'connect')));
  await stillServes();
  const began = performance.now();
  await Promise.all(silent.map(({ ended }) => ended));
  assert(performance.now() - began < timeBudget(10_000));
});

test('malformed requests of a member end its connection and nothing else', async (t) => {
  const { cluster, exposure, target, stillServes } = await expose(t);
  const streams = [
    streamRequest(exposure.token, 0, 0),
    streamRequest(exposure.token, 0, (16 << 20) + 1),
    // More at a time than a source takes.
    Buffer.concat(Array.from({ length: 2_000 }, () => streamRequest(exposure.token, 0, 4 << 20))),
  ];
  const controls = [
    frame(1, Buffer.alloc(19)),
    frame(1, Buffer.alloc(21)),
    frame(99, Buffer.alloc(0)),
    frame(1, Buffer.alloc(100), 2 ** 32 - 1),
    randomBytes(200_000),
  ];
  for (const [purpose, requests] of [
    ['stream', streams],
    ['control', controls],
  ] as const) {
    for (const request of requests) {
      const caller = new Caller(t, target);
      await authenticate(caller, cluster.secret, target, purpose);
      // A member that does not take what it asked for.
      caller.socket.pause();
      caller.send(request);
      caller.socket.resume();
      await caller.ended;
    }
  }
  await stillServes();
});

test('requests outside a segment, or for one that is not there, are refused by the source itself', async (t) => {
  const { cluster, exposure, target } = await expose(t);
  const caller = new Caller(t, target);
  await authenticate(caller, cluster.secret, target, 'stream');
  for (const [token, offset, bytes, verdict] of [
    [exposure.token, segmentBytes, 1, 2],
    [exposure.token, segmentBytes - 1, 2, 2],
    [exposure.token, Number.MAX_SAFE_INTEGER, 2, 2],
    [randomBytes(16), 0, 1, 1],
  ] as const) {
    caller.send(streamRequest(token, offset, bytes));
    const header = await caller.take(8);
    assert.deepEqual([header.readUInt32LE(0), header.readUInt32LE(4)], [verdict, 0]);
  }
});
