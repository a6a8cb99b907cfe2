import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { NativeError, OverloadedError } from '../../src/errors.ts';
import { listRdmaPorts, rdmaOptionsOf } from '../../src/native-bridge/fabric.ts';
import { patience } from '../patience.ts';
import { kinds } from './fabric-kinds.ts';
import { contentOf, run, segmentBytes, TestCluster } from './fabrics.ts';

const options = { timeoutMilliseconds: patience };

/** Ranges that do not overlap in the destination, of all sizes from none to megabytes, in any order. */
function randomRanges(): number[][] {
  const ranges: number[][] = [];
  for (let at = randomInt(100); at < segmentBytes; at += randomInt(4_000)) {
    const most = 2 ** randomInt(1, 22);
    const bytes = Math.min(randomInt(most), segmentBytes - at);
    ranges.push([randomInt(segmentBytes - bytes + 1), at, bytes]);
    at += bytes;
  }
  return ranges.sort(() => randomInt(2) - 0.5);
}

for (const kind of kinds) {
  test(`${kind}: random ranges arrive bit for bit, and nothing beside them changes`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabric(), source.address, { kind });
    assert.equal(peer.kind, kind);
    const content = contentOf(1, segmentBytes);
    for (let round = 0; round < 5; round += 1) {
      const destination = cluster.segment(2);
      const expected = contentOf(2, segmentBytes);
      const ranges = randomRanges();
      for (const [from, to, bytes] of ranges) content.copy(expected, to, from, from! + bytes!);
      const progress = new Float64Array(1);
      const { startedAt, endedAt } = await peer.read(
        source.token,
        Float64Array.from(ranges.flat()),
        destination,
        { ...options, progress },
      );
      assert(startedAt <= endedAt);
      assert.equal(
        progress[0],
        ranges.reduce((sum, [, , bytes]) => sum + bytes!, 0),
      );
      assert(destination.read(0, segmentBytes).equals(expected));
    }
  });

  test(`${kind}: many reads at a time, of several peers, each get their own bytes`, async (t) => {
    const cluster = new TestCluster(t);
    const reader = cluster.fabric({ streams: 3 });
    const source = cluster.fabric({ threads: 2 });
    const exposures = await Promise.all(
      [1, 2, 3].map((seed) => source.expose(cluster.segment(seed, 1 << 20))),
    );
    const peers = await Promise.all([0, 1].map(() => cluster.connect(reader, source.address, { kind })));
    const destination = cluster.memory(60 * (1 << 20));
    const reads = Array.from({ length: 60 }, (_, index) =>
      peers[index % 2]!.read(
        exposures[index % 3]!.token,
        Float64Array.of(0, index << 20, 1 << 20),
        destination,
        options,
      ),
    );
    await Promise.all(reads);
    for (let index = 0; index < 60; index += 1) {
      assert(
        destination.read(index << 20, 1 << 20).equals(contentOf((index % 3) + 1, 1 << 20)),
        `read ${index}`,
      );
    }
    assert.deepEqual(
      exposures.map((exposure) => exposure.readers),
      [2, 2, 2],
    );
  });

  test(`${kind}: a source whose event loop is busy is read all the same`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabric(), source.address, { kind });
    source.program.send('block');
    assert.equal(await source.program.message(), 'blocking');
    const began = performance.now();
    const destination = cluster.memory();
    await peer.read(source.token, run(segmentBytes), destination, options);
    assert(performance.now() - began < 1_900, 'while the event loop of the source was blocked');
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
  });

  test(`${kind}: what lies outside either side is refused with its numbers, and disturbs no other read`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabric(), source.address, { kind });
    const destination = cluster.memory();
    const good = peer.read(source.token, run(segmentBytes), destination, options);
    const outside = Float64Array.of(segmentBytes - 1, 0, 2);
    await assert.rejects(peer.read(source.token, outside, destination, options), {
      name: 'NativeError',
      message: `offset ${segmentBytes - 1} with 2 bytes lies outside a segment of ${segmentBytes} bytes of rank 7`,
    });
    await assert.rejects(
      peer.read(source.token, Float64Array.of(2 ** 52, 0, 2), destination, options),
      NativeError,
    );
    await assert.rejects(
      peer.read(source.token, Float64Array.of(0, segmentBytes, 1), destination, options),
      /lies outside \/dev\/shm/,
    );
    await assert.rejects(
      peer.read(new Uint8Array(16), run(1), destination, options),
      /rank 7 no longer exposes the segment/,
    );
    await assert.rejects(
      peer.read(new Uint8Array(3), run(1), destination, options),
      /token has 16 bytes, not 3/,
    );
    await assert.rejects(peer.read(source.token, new Float64Array(4), destination, options), /groups of 3/);
    await good;
    await peer.read(source.token, new Float64Array(0), destination, options);
    await peer.read(source.token, run(0), destination, options);
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
  });
}

test('a pair of processes on one host takes shared memory by itself', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  assert.equal((await cluster.connect(cluster.fabric(), source.address)).kind, 'shm');
});

test('a read into the file that it comes from is refused', async (t) => {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const segment = cluster.segment(1);
  const { token } = await fabric.expose(segment);
  const peer = await cluster.connect(fabric, fabric.address);
  await assert.rejects(peer.read(token, run(1), segment, options), /goes into the file that it comes from/);
});

test('a segment whose name is gone, or another file has taken, cannot be exposed', async (t) => {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const segment = cluster.segment(1);
  segment.unlink();
  await assert.rejects(fabric.expose(segment), {
    name: 'NativeError',
    message: `cannot expose ${segment.path}: No such file or directory`,
  });
});

test('readers are counted while they are connected', async (t) => {
  const cluster = new TestCluster(t);
  const [source, reader] = [cluster.fabric(), cluster.fabric()];
  const exposure = await source.expose(cluster.segment(1));
  const peer = await cluster.connect(reader, source.address);
  assert.equal(exposure.readers, 0);
  await peer.read(exposure.token, run(1), cluster.memory(), options);
  assert.equal(exposure.readers, 1);
  peer.close();
  const deadline = performance.now() + patience;
  while (exposure.readers > 0 && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(exposure.readers, 0);
});

test('more reads at a time than a peer takes are refused at once, and those before them are done', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabric(), source.address, { kind: 'tcp' });
  const destination = cluster.memory();
  await peer.read(source.token, run(1), destination, options);
  // So that none of them is done before the last is given.
  source.program.signal('SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 200));
  const reads = Array.from({ length: 1_500 }, (_, index) =>
    peer.read(source.token, Float64Array.of(0, 4_096 * index, 4_096), destination, options),
  );
  const refused = await Promise.allSettled(reads.slice(1_024));
  for (const read of refused) assert(read.status === 'rejected' && read.reason instanceof OverloadedError);
  source.program.signal('SIGCONT');
  await Promise.all(reads.slice(0, 1_024));
});

test('without RDMA a list of devices is an error that names the variable, and no list is none', (t) => {
  if (listRdmaPorts().ports.length > 0) return t.skip('this host has RDMA devices');
  assert.deepEqual(rdmaOptionsOf({}, { gpu: null, localRank: 0, localRanks: 8 }).rdmaPorts, []);
  const position = { gpu: null, localRank: 3, localRanks: 8 };
  assert.throws(() => rdmaOptionsOf({ WEIGHTCAST_RDMA_DEVICES: 'mlx5_0' }, position), {
    name: 'UsageError',
    message:
      /^WEIGHTCAST_RDMA_DEVICES=mlx5_0 names no RDMA device of this host \(found: none\); .*libibverbs/,
  });
  const cluster = new TestCluster(t);
  assert.throws(() => cluster.fabric({ rdmaPorts: [{ device: 'mlx5_0', port: 1 }] }), {
    name: 'NativeError',
    message: /^there is no RDMA/,
  });
});
