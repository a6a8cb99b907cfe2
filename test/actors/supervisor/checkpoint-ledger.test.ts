import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Registered, Segment } from '../../../src/actors/protocol/checkpoint-values.ts';
import { CheckpointLedger, type SegmentSet } from '../../../src/actors/supervisor/checkpoint-ledger.ts';

const nothing = { segments: [], layouts: [] };

function setOf(name: string, bytes = 100): SegmentSet {
  return [0, 1].map((rank) => ({ path: `/dev/shm/w/${name}-${rank}`, host: 'h', rank, bytes }));
}

function placesOf(...sets: readonly (readonly Segment[])[]): Segment[] {
  return sets.flat().map(({ path, host }) => ({ path, host }));
}

function registered(checkpoint: string, layout: string, segments: readonly Segment[]): Registered {
  const status = { checkpoint, digest: 'd', tensors: 1, bytes: 1, seconds: 0 };
  const held = placesOf(segments).map((place) => ({ ...place, rank: 0 }));
  return { status, layout, manifest: new Uint8Array(), segments: held, copies: [], lost: [], foreign: null };
}

/** As a registration does it. */
function put(shelf: CheckpointLedger, name: string, layout: string, set: SegmentSet) {
  shelf.take(set);
  return shelf.register(registered(name, layout, set), set);
}

test('what is replaced becomes spare, and is used again under its layout', () => {
  const shelf = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  assert.deepEqual(put(shelf, 'a', 'L1', one), nothing);
  assert.deepEqual(put(shelf, 'a', 'L2', other), nothing);
  assert.deepEqual(shelf.spareSets, [one]);
  assert.equal(shelf.spareBytes, 200);
  for (let round = 0; round < 3; round += 1) {
    assert.deepEqual(put(shelf, 'a', 'L1', one), nothing);
    assert.deepEqual(put(shelf, 'a', 'L2', other), nothing);
  }
  assert.equal(shelf.get('a').layout, 'L2');
  assert.ok(shelf.holds({ path: one[0]!.path, host: 'h' }));
  assert.ok(!shelf.holds({ path: one[0]!.path, host: 'other' }));
});

test('a layout goes when nothing is left that has it', () => {
  const shelf = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  put(shelf, 'a', 'L1', one);
  put(shelf, 'a', 'L2', other);
  // Other tensors of the same size in all.
  assert.deepEqual(put(shelf, 'a', 'L3', one), { segments: [], layouts: ['L1'] });
  assert.deepEqual(shelf.releaseSpare(), { segments: placesOf(other), layouts: ['L2'] });
  assert.deepEqual(shelf.unregister('a'), nothing);
  assert.deepEqual(shelf.releaseSpare(), { segments: placesOf(one), layouts: ['L3'] });
  assert.deepEqual(shelf.statuses(), []);
});

test('there is one spare set of the same sizes, the latest, and no more than the limit', () => {
  const shelf = new CheckpointLedger(2);
  const sets = [setOf('a'), setOf('b'), setOf('c', 200), setOf('d', 300)];
  for (const [index, set] of sets.entries()) put(shelf, `n${index}`, `L${index}`, set);
  shelf.unregister('n0');
  assert.deepEqual(shelf.unregister('n1'), { segments: placesOf(sets[0]!), layouts: ['L0'] });
  assert.deepEqual(shelf.unregister('n2'), nothing);
  assert.deepEqual(shelf.spareSets, [sets[2], sets[1]]);
  assert.deepEqual(shelf.unregister('n3'), { segments: placesOf(sets[1]!), layouts: ['L1'] });
  assert.deepEqual(shelf.spareSets, [sets[3], sets[2]]);
});

test('a limit of none keeps nothing', () => {
  const shelf = new CheckpointLedger(0);
  put(shelf, 'a', 'L1', setOf('a'));
  assert.deepEqual(shelf.unregister('a'), { segments: placesOf(setOf('a')), layouts: ['L1'] });
});

test('what somebody reads is neither unregistered nor spare until the last one has ended', () => {
  const shelf = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  put(shelf, 'a', 'L1', one);
  const ends = [shelf.read('a'), shelf.read('a')];
  assert.throws(() => shelf.unregister('a'), { name: 'UsageError', message: /a is being read/ });
  // Replaced all the same: who reads goes on with the old one.
  assert.deepEqual(put(shelf, 'a', 'L2', other), nothing);
  assert.deepEqual(shelf.spareSets, []);
  assert.ok(shelf.holds(one[0]!));
  assert.deepEqual(ends[0]!(), nothing);
  assert.deepEqual(shelf.spareSets, []);
  assert.deepEqual(ends[1]!(), nothing);
  assert.deepEqual(shelf.spareSets, [one]);
});

test('what another cluster was told of is never written over: it goes with its checkpoint', () => {
  const shelf = new CheckpointLedger(2);
  const [one, other, third] = [setOf('one'), setOf('other'), setOf('third')];
  put(shelf, 'a', 'L1', one);
  assert.equal(shelf.export('a').layout, 'L1');
  assert.deepEqual(put(shelf, 'a', 'L2', other), { segments: placesOf(one), layouts: ['L1'] });
  assert.deepEqual(shelf.spareSets, []);
  // What comes after it is as spare as ever.
  assert.deepEqual(put(shelf, 'a', 'L3', third), nothing);
  assert.deepEqual(shelf.spareSets, [other]);
  assert.throws(() => shelf.export('b'), { name: 'UsageError', message: /no checkpoint b/ });
});

test('what other hosts have received of a checkpoint goes with it, when nobody reads it any more', () => {
  const shelf = new CheckpointLedger(2);
  const copies = [{ slice: 0, path: '/dev/shm/w/mirror-7-0', host: 'far', rank: 9 }];
  const [one, other] = [setOf('one'), setOf('other')];
  put(shelf, 'a', 'L1', one);
  const end = shelf.read('a');
  shelf.addCopies('a', copies);
  assert.deepEqual(shelf.get('a').copies, copies);
  assert.deepEqual(put(shelf, 'a', 'L2', other), nothing);
  assert.deepEqual(end(), { segments: placesOf(copies), layouts: [] });
  assert.deepEqual([shelf.spareSets, shelf.get('a').copies], [[one], []]);
});

test('a file that was adopted goes with the last checkpoint that is in it', () => {
  const shelf = new CheckpointLedger(2);
  const file = [{ path: '/dev/shm/model.safetensors', host: 'h' }];
  const set = setOf('one');
  shelf.register(registered('a', 'L1', file), null);
  shelf.take(set);
  shelf.register(registered('b', 'L2', [...file, ...set]), set);
  assert.deepEqual(shelf.unregister('a'), { segments: [], layouts: ['L1'] });
  assert.deepEqual(shelf.unregister('b'), { segments: file, layouts: [] });
  assert.deepEqual(shelf.spareSets, [set], 'and is not spare');
  // The same files with other weights.
  shelf.register(registered('c', 'L1', file), null);
  assert.deepEqual(shelf.register(registered('c', 'L1', file), null), nothing);
});

test('a set that was taken goes back as it was, or is gone', () => {
  const shelf = new CheckpointLedger(2);
  const set = setOf('one');
  put(shelf, 'a', 'L1', set);
  shelf.unregister('a');
  shelf.take(set);
  assert.ok(!shelf.isSpare(set));
  assert.deepEqual(shelf.putBack(set), nothing);
  assert.deepEqual(shelf.spareSets, [set]);
  shelf.take(set);
  assert.deepEqual(shelf.releaseSpare(), nothing);
  assert.deepEqual(shelf.discard(set), { segments: placesOf(set), layouts: ['L1'] });
  assert.throws(() => shelf.discard(set));
  assert.equal(shelf.takenSets, 0);
});

test('the number of checkpoints and of sets being filled is limited', () => {
  const shelf = new CheckpointLedger(2);
  for (let number = 0; number < 16; number += 1) {
    shelf.checkRoom(`n${number}`);
    put(shelf, `n${number}`, 'L', setOf(`n${number}`));
  }
  shelf.checkRoom('n3');
  assert.throws(() => shelf.checkRoom('more'), {
    name: 'UsageError',
    message: /16 checkpoints .* no room for more/,
  });
  assert.throws(() => {
    for (let number = 0; number < 100; number += 1) shelf.take(setOf(`t${number}`));
  }, /8 checkpoints are being loaded/);
});

test('sets whose host has lost its memory are filled no more', () => {
  const shelf = new CheckpointLedger(2);
  const [held, spare, elsewhere] = [setOf('held'), setOf('spare', 200), setOf('elsewhere', 300)];
  const away = elsewhere.map((segment) => ({ ...segment, host: 'other' }));
  for (const [name, set] of Object.entries({ held, spare, away })) put(shelf, name, name, set);
  shelf.unregister('spare');
  shelf.unregister('away');
  assert.deepEqual(shelf.memoryLost('h'), { segments: placesOf(spare), layouts: ['spare'] });
  assert.deepEqual(shelf.spareSets, [away]);
  assert.deepEqual(shelf.get('held').lost, placesOf(held));
  // It may lie on other hosts too.
  assert.equal(shelf.get('held').layout, 'held');
  assert.deepEqual(shelf.unregister('held'), { segments: placesOf(held), layouts: ['held'] });
});
