import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ReadReport, Receiver, type ReceiverOptions } from '../../../src/actors/join/receiver.ts';
import type { FabricSource, NextReads } from '../../../src/actors/protocol/join-values.ts';
import { PeerLostError } from '../../../src/errors.ts';
import { eventually } from '../../eventually.ts';

const bytes = 1_024;
/** One tensor in each of two slices, and a bucket for both. */
const manifest = {
  segments: [{ path: 'mirror-0' }, { path: 'mirror-1' }],
  segmentOf: Uint32Array.of(0, 1),
  offsets: Float64Array.of(0, 0),
  bytes: Float64Array.of(bytes, bytes),
};
const plan = {
  owners: Uint32Array.of(0),
  tensorStarts: Uint32Array.of(0, 2),
  tensorOrder: Uint32Array.of(0, 1),
  tensorOffsets: Float64Array.of(0, bytes),
};
const mirrors = [0, 1].map((slice) => ({ slice, path: `mirror-${slice}`, bytes }));

function source(rank: number): FabricSource {
  const slices = [0, 1].map((slice) => ({ slice, token: Uint8Array.of(slice), offset: 0 }));
  return { rank, address: Uint8Array.of(rank), secret: null, slices };
}

/** A receiver of both slices. Reads from rank 1 hang, those from others succeed. */
async function receiving() {
  const asked: { report: ReadReport; answer(next: Partial<NextReads>): void; refuse(error: Error): void }[] =
    [];
  const swarm = {
    join: async () => {},
    next: (report: ReadReport) =>
      new Promise<NextReads>((resolve, reject) => {
        const answer = (next: Partial<NextReads>) =>
          resolve({ reads: [], sources: [], isDone: false, ...next });
        asked.push({ report, answer, refuse: reject });
      }),
    leave: () => {},
  };
  const peer = (rank: number) => ({
    kind: 'tcp',
    whyNotRdma: null,
    read: (...[, , , { signal }]: [unknown, unknown, unknown, { signal: AbortSignal }]) =>
      new Promise((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason), { once: true });
        if (rank !== 1) resolve({ startedAt: 0, endedAt: 1 });
      }),
    close: () => {},
  });
  const receiver = await Receiver.open({
    order: { swarm: 's', ref: {} as never, sliceBytes: Float64Array.of(bytes, bytes), mirrors },
    rank: 9,
    plan,
    manifest,
    segments: { create: async () => {}, attach: () => ({}) },
    leases: { expose: async () => ({}), release: async () => {} },
    fabric: () => ({ connect: async ([rank]: Uint8Array) => peer(rank!) }),
    swarm,
    onTcp: () => {},
  } as unknown as ReceiverOptions);
  receiver.start();
  await eventually('it asks', () => asked.length === 1);
  return { receiver, asked };
}

test('a receiver whose reads all hang is told to read from another source', async () => {
  const { receiver, asked } = await receiving();
  const fromFirst = [0, 1].map((piece) => ({ piece, source: 1 }));
  asked[0]!.answer({ reads: fromFirst, sources: [source(1)] });
  await eventually('it asks again, though nothing has ended', () => asked.length === 2);
  const fromSecond = [0, 1].map((piece) => ({ piece, source: 2 }));
  asked[1]!.answer({ reads: fromSecond, sources: [source(2)] });
  await receiver.arrival(0);
  await eventually('both are reported', () => {
    return (
      asked
        .flatMap(({ report }) => report.arrived)
        .toSorted()
        .join() === '0,1'
    );
  });
  assert.deepEqual(
    asked.flatMap(({ report }) => report.failed),
    [],
  );
  for (const { refuse } of asked.slice(0, -1)) refuse(new PeerLostError('asked again'));
  asked.at(-1)!.answer({ isDone: true });
  await receiver.complete(false);
  // Those that hang end with it.
  await receiver.close();
  assert.equal(receiver.receivedBytes, 2 * bytes);
});

test('what the swarm refuses ends a receiver, unless it has asked again since', async () => {
  const { receiver, asked } = await receiving();
  asked[0]!.answer({ reads: [{ piece: 0, source: 2 }], sources: [source(2)] });
  await eventually('it reports what has arrived', () =>
    asked.some(({ report }) => report.arrived.length > 0),
  );
  asked[1]!.refuse(new PeerLostError('asked again'));
  await new Promise((resolve) => setImmediate(resolve));
  asked.at(-1)!.refuse(new PeerLostError('no source is left'));
  await assert.rejects(receiver.complete(false), { name: 'PeerLostError', message: 'no source is left' });
  await receiver.discard('it is over');
});
