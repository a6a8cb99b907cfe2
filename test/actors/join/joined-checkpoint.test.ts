import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JoinedCheckpoint } from '../../../src/actors/join/joined-checkpoint.ts';
import type { FabricSource } from '../../../src/actors/protocol/join-values.ts';

/** Two slices of one piece each: piece 0 is slice 0, piece 1 is slice 1. */
const sliceBytes = Float64Array.of(1, 1);

function source(rank: number, life = 0, slices = [0, 1]): FabricSource {
  return {
    rank,
    address: Uint8Array.of(rank, life),
    secret: null,
    slices: slices.map((slice) => ({ slice, token: Uint8Array.of(rank), offset: 0 })),
  };
}

/** Rank 9 receives both slices. */
function joining(...sources: readonly FabricSource[]): JoinedCheckpoint {
  const joined = new JoinedCheckpoint(sliceBytes);
  for (const each of sources) joined.addSource(each, true);
  joined.addSource(source(9), false);
  joined.addReceiver(9, Uint32Array.of(0, 1));
  return joined;
}

const readsOf = (joined: JoinedCheckpoint, rank = 9) =>
  (joined.next(rank)?.reads ?? []).map(({ piece, source: from }) => [piece, from]);

test('a receiver backs off from a source after a failed read; other receivers go on reading from it', () => {
  const joined = joining(source(1));
  joined.addSource(source(8), false);
  joined.addReceiver(8, Uint32Array.of(0, 1));
  assert.deepEqual(readsOf(joined), [
    [0, 1],
    [1, 1],
  ]);
  assert.equal(joined.failed(9, { piece: 0, source: 1, reason: 'reset' }), 500);
  assert.equal(joined.failed(9, { piece: 1, source: 1, reason: 'reset' }), null, 'it backs off already');
  assert.equal(joined.next(9), null);
  assert.deepEqual(
    readsOf(joined, 8).map(([, from]) => from),
    [1, 1],
  );
  joined.retrySource(9, 1);
  assert.deepEqual(
    readsOf(joined).map(([, from]) => from),
    [1, 1],
  );
  assert.equal(joined.failed(9, { piece: 0, source: 1, reason: 'reset' }), 1_000, 'twice as long');
});

test('a receiver waits for sources that it backs off from, but not for ever', () => {
  const joined = joining(source(1));
  joined.next(9);
  for (const piece of [0, 1]) joined.failed(9, { piece, source: 1, reason: 'connection reset' });
  assert.equal(joined.starvationError(9, 1_000), null);
  assert.equal(joined.starvationError(9, 4_900), null);
  assert.match(
    joined.starvationError(9, 5_000)!.message,
    /^no source is left for slice \d of the checkpoint \(last error: rank 1: connection reset\)$/,
  );
});

test('a receiver waits for a source that is expected back, and not for one that is gone for good', () => {
  const joined = joining(source(1), source(2));
  joined.removeSource(1, 'SIGKILL', true);
  joined.removeSource(2, 'instance b was removed', false);
  assert.equal(joined.starvationError(9, 0), null);
  assert.equal(joined.starvationError(9, 59_000), null);
  joined.addSource(source(1, 1), true);
  assert.equal(joined.starvationError(9, 70_000), null);
  assert.deepEqual(
    readsOf(joined).map(([, from]) => from),
    [1, 1],
  );
  joined.removeSource(1, 'instance a was removed', false);
  assert.match(joined.starvationError(9, 71_000)!.message, /rank 1: instance a was removed/);
});

test('a source that releases some slices is still read from for the others', () => {
  const joined = joining(source(1));
  joined.next(9);
  joined.reduceSource(1, [1]);
  assert.equal(joined.starvationError(9, 0)?.name, 'PeerLostError');
  joined.arrived(9, 0);
  joined.addSource(source(2, 0, [1]), true);
  assert.deepEqual(readsOf(joined), [[1, 2]]);
  joined.arrived(9, 1);
  assert.equal(joined.next(9)?.isDone, true);
});

test('a piece counts as arrived even if its source was removed while it was read', () => {
  const joined = joining(source(1));
  joined.next(9);
  joined.removeSource(1, 'SIGKILL', false);
  joined.arrived(9, 0);
  joined.arrived(9, 1);
  assert.equal(joined.next(9)?.isDone, true);
});
