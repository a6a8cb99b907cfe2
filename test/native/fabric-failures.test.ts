import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AbortedError } from '../../src/errors.ts';
import type { FabricPeer } from '../../src/native-bridge/fabric.ts';
import type { Mapping } from '../../src/native-bridge/memory.ts';
import { patience, timeBudget } from '../patience.ts';
import { kinds } from './fabric-kinds.ts';
import {
  assertAtRest,
  contentOf,
  longRanges,
  run,
  type Source,
  segmentBytes,
  TestCluster,
  until,
} from './fabrics.ts';

/** A read of tens of gigabytes, under way. */
async function beginLongRead(
  peer: FabricPeer,
  token: Uint8Array,
  destination: Mapping,
  options: { timeoutMilliseconds?: number; signal?: AbortSignal } = {},
) {
  const progress = new Float64Array(1);
  const read = peer.read(token, longRanges(segmentBytes, 10_000), destination, {
    timeoutMilliseconds: patience,
    ...options,
    progress,
  });
  // Whoever awaits it does so later.
  read.catch(() => {});
  await until(() => progress[0]! > 0);
  return { read, progress };
}

for (const kind of kinds) {
  test(`${kind}: a source that is killed while it is read is lost within a second`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabricOfOneThread(), source.address, { kind });
    const destination = cluster.memory();
    const { read } = await beginLongRead(peer, source.token, destination);
    const queued = peer.read(source.token, run(1), destination, { timeoutMilliseconds: patience });
    queued.catch(() => {});
    await source.program.kill();
    const killed = performance.now();
    await assert.rejects(read, { name: 'PeerLostError', message: /^rank 7 is lost: / });
    const milliseconds = performance.now() - killed;
    assert(milliseconds < timeBudget(1_000), `${milliseconds} ms`);
    await assert.rejects(queued, { name: 'PeerLostError' });
    await assert.rejects(peer.read(source.token, run(1), destination, { timeoutMilliseconds: patience }), {
      name: 'PeerLostError',
    });
    await assertAtRest(destination, segmentBytes);
  });

  test(`${kind}: a cancelled read stops writing, and the peer goes on`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabricOfOneThread(), source.address, { kind });
    const destination = cluster.memory();
    for (let round = 0; round < (kind === 'verbs' ? 3 : 5); round += 1) {
      const controller = new AbortController();
      const { read, progress } = await beginLongRead(peer, source.token, destination, {
        signal: controller.signal,
      });
      const beside = cluster.memory();
      const other = peer.read(source.token, run(segmentBytes), beside, { timeoutMilliseconds: patience });
      controller.abort();
      await assert.rejects(read, { name: 'AbortedError', message: 'a read of rank 7 was cancelled' });
      const counted = progress[0];
      await assertAtRest(destination, segmentBytes);
      assert.equal(progress[0], counted);
      await other;
      assert(beside.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
    }
    const aborted = AbortSignal.abort();
    await assert.rejects(
      peer.read(source.token, run(1), destination, { timeoutMilliseconds: patience, signal: aborted }),
      AbortedError,
    );
  });

  test(`${kind}: a read that takes too long ends at its deadline, and says how far it got`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabricOfOneThread(), source.address, { kind });
    const destination = cluster.memory();
    // Soft-RoCE on an emulated processor takes its time.
    const timeoutMilliseconds = kind === 'verbs' ? 2_000 : 300;
    const began = performance.now();
    const { read } = await beginLongRead(peer, source.token, destination, { timeoutMilliseconds });
    await assert.rejects(read, {
      name: 'DeadlineError',
      message: new RegExp(
        `^a read of rank 7 took longer than ${timeoutMilliseconds} ms; [\\d.]+ [KMG]iB of 78.2 GiB had arrived$`,
      ),
    });
    assert(performance.now() - began < timeoutMilliseconds + 1_500);
    await assertAtRest(destination, segmentBytes);
    await peer.read(source.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
  });

  test(`${kind}: closing the peer, or the fabric, ends what is in flight`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    for (const closed of ['peer', 'fabric'] as const) {
      const fabric = cluster.fabricOfOneThread();
      const peer = await cluster.connect(fabric, source.address, { kind });
      const destination = cluster.memory();
      const { read } = await beginLongRead(peer, source.token, destination);
      if (closed === 'peer') peer.close();
      else fabric.close();
      await assert.rejects(read, { name: 'AbortedError', message: /closed/ });
      await assertAtRest(destination, segmentBytes);
      await assert.rejects(peer.read(source.token, run(1), destination, { timeoutMilliseconds: 1_000 }));
      peer.close();
    }
  });

  test(`${kind}: an exposure closed while it is read never shows what the memory holds later`, async (t) => {
    const cluster = new TestCluster(t);
    const old = contentOf(1, segmentBytes);
    // A card that is refused memory ends its connection.
    const gone =
      kind === 'verbs' ? /no longer exposes the segment|is lost/ : /no longer exposes the segment$/;
    for (let round = 0; round < (kind === 'verbs' ? 2 : 4); round += 1) {
      const source = await cluster.source();
      const peer = await cluster.connect(cluster.fabricOfOneThread(), source.address, { kind });
      const destination = cluster.memory();
      const { read } = await beginLongRead(peer, source.token, destination);
      const beside = Array.from({ length: 40 }, () => cluster.memory(1 << 20));
      source.program.send('withdraw');
      const shorts = await Promise.allSettled(
        beside.map((memory) =>
          peer.read(source.token, run(1 << 20), memory, { timeoutMilliseconds: patience }),
        ),
      );
      for (const [index, short] of shorts.entries()) {
        if (short.status === 'fulfilled') {
          assert(beside[index]!.read(0, 1 << 20).equals(old.subarray(0, 1 << 20)), 'no torn bytes');
        } else {
          assert.match(short.reason.message, gone);
        }
      }
      await assert.rejects(read, gone);
      await assertAtRest(destination, segmentBytes);
      await source.program.kill();
    }
  });
}

async function stopped(source: Source): Promise<void> {
  source.program.signal('SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 50));
}

test('tcp: a source that is stopped is a deadline, and is read again once it goes on', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabricOfOneThread(), source.address, { kind: 'tcp' });
  const destination = cluster.memory();
  const { read } = await beginLongRead(peer, source.token, destination, { timeoutMilliseconds: 1_000 });
  await stopped(source);
  await assert.rejects(read, { name: 'DeadlineError' });
  await assertAtRest(destination, segmentBytes);
  source.program.signal('SIGCONT');
  await peer.read(source.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
  assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
});

test('shm: a source that is stopped is read all the same', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabric(), source.address, { kind: 'shm' });
  const destination = cluster.memory();
  await peer.read(source.token, run(1), destination, { timeoutMilliseconds: patience });
  await stopped(source);
  await peer.read(source.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
  assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
});

test('connecting to a source that is gone, or answers nothing, is an error that names it', async (t) => {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const source = await cluster.source();
  await stopped(source);
  await assert.rejects(
    fabric.connect(source.address, { name: 'rank 3', timeoutMilliseconds: 300, kind: 'tcp' }),
    {
      name: 'DeadlineError',
      message: 'connecting to rank 3 took longer than 300 ms',
    },
  );
  const controller = new AbortController();
  const cancelled = assert.rejects(
    fabric.connect(source.address, {
      name: 'rank 3',
      timeoutMilliseconds: patience,
      signal: controller.signal,
    }),
    AbortedError,
  );
  controller.abort();
  await cancelled;
  await source.program.kill();
  for (const kind of ['shm', 'tcp', undefined] as const) {
    await assert.rejects(
      fabric.connect(source.address, { name: 'rank 3', timeoutMilliseconds: patience, kind }),
      {
        name: 'PeerLostError',
        message: /^cannot connect to rank 3 at /,
      },
    );
  }
});

test('an address that is none is refused, and so is a secret that is too short', async (t) => {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const options = { name: 'rank 3', timeoutMilliseconds: patience };
  await assert.rejects(fabric.connect(new Uint8Array(0), options), {
    name: 'NativeError',
    message: /shorter/,
  });
  await assert.rejects(fabric.connect(Uint8Array.of(9, ...fabric.address.subarray(1)), options), {
    message: 'the address of a fabric has version 9, not 1',
  });
  await assert.rejects(fabric.connect(Uint8Array.of(...fabric.address, 0), options), { message: /longer/ });
  assert.throws(() => cluster.fabric({ secret: new Uint8Array(15) }), {
    message: "a cluster's secret has at least 16 bytes, not 15",
  });
});

test('a closed fabric takes no more work', async (t) => {
  const cluster = new TestCluster(t);
  const fabric = cluster.fabric();
  const segment = cluster.segment(1);
  const exposure = await fabric.expose(segment);
  fabric.close();
  fabric.close();
  await assert.rejects(fabric.expose(segment), { message: 'the fabric is closed' });
  await assert.rejects(fabric.connect(fabric.address, { name: 'rank 3', timeoutMilliseconds: 100 }), {
    message: 'the fabric is closed',
  });
  await exposure.close();
  await exposure.close();
});
