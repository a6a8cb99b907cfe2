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

/** Registers a checkpoint in a set, as a registration does. */
function put(ledger: CheckpointLedger, name: string, layout: string, set: SegmentSet) {
  ledger.take(set);
  return ledger.register(registered(name, layout, set), set);
}

test('the set of a replaced checkpoint becomes spare and is reused', () => {
  const ledger = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  assert.deepEqual(put(ledger, 'a', 'L1', one), nothing);
  assert.deepEqual(put(ledger, 'a', 'L2', other), nothing);
  assert.deepEqual(ledger.spareSets, [one]);
  assert.equal(ledger.spareBytes, 200);
  for (let round = 0; round < 3; round += 1) {
    assert.deepEqual(put(ledger, 'a', 'L1', one), nothing);
    assert.deepEqual(put(ledger, 'a', 'L2', other), nothing);
  }
  assert.equal(ledger.get('a').layout, 'L2');
  assert.ok(ledger.holds({ path: one[0]!.path, host: 'h' }));
  assert.ok(!ledger.holds({ path: one[0]!.path, host: 'other' }));
});

test('a layout is released with the last set that has it', () => {
  const ledger = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  put(ledger, 'a', 'L1', one);
  put(ledger, 'a', 'L2', other);
  // Other tensors of the same size in all.
  assert.deepEqual(put(ledger, 'a', 'L3', one), { segments: [], layouts: ['L1'] });
  assert.deepEqual(ledger.releaseSpare(), { segments: placesOf(other), layouts: ['L2'] });
  assert.deepEqual(ledger.unregister('a'), nothing);
  assert.deepEqual(ledger.releaseSpare(), { segments: placesOf(one), layouts: ['L3'] });
  assert.deepEqual(ledger.statuses(), []);
});

test('keeps the latest spare set of the same sizes, and at most the limit', () => {
  const ledger = new CheckpointLedger(2);
  const sets = [setOf('a'), setOf('b'), setOf('c', 200), setOf('d', 300)];
  for (const [index, set] of sets.entries()) put(ledger, `n${index}`, `L${index}`, set);
  ledger.unregister('n0');
  assert.deepEqual(ledger.unregister('n1'), { segments: placesOf(sets[0]!), layouts: ['L0'] });
  assert.deepEqual(ledger.unregister('n2'), nothing);
  assert.deepEqual(ledger.spareSets, [sets[2], sets[1]]);
  assert.deepEqual(ledger.unregister('n3'), { segments: placesOf(sets[1]!), layouts: ['L1'] });
  assert.deepEqual(ledger.spareSets, [sets[3], sets[2]]);
});

test('with a limit of 0 nothing is spare', () => {
  const ledger = new CheckpointLedger(0);
  put(ledger, 'a', 'L1', setOf('a'));
  assert.deepEqual(ledger.unregister('a'), { segments: placesOf(setOf('a')), layouts: ['L1'] });
});

test('a checkpoint that is read cannot be unregistered, and its set is not spare before the last reader ends', () => {
  const ledger = new CheckpointLedger(2);
  const [one, other] = [setOf('one'), setOf('other')];
  put(ledger, 'a', 'L1', one);
  const ends = [ledger.read('a'), ledger.read('a')];
  assert.throws(() => ledger.unregister('a'), { name: 'BusyError', message: /a is being read/ });
  // It can be replaced: its readers keep the old one.
  assert.deepEqual(put(ledger, 'a', 'L2', other), nothing);
  assert.deepEqual(ledger.spareSets, []);
  assert.ok(ledger.holds(one[0]!));
  assert.deepEqual(ends[0]!(), nothing);
  assert.deepEqual(ledger.spareSets, []);
  assert.deepEqual(ends[1]!(), nothing);
  assert.deepEqual(ledger.spareSets, [one]);
});

test('the set of an exported checkpoint is released with it, and never reused', () => {
  const ledger = new CheckpointLedger(2);
  const [one, other, third] = [setOf('one'), setOf('other'), setOf('third')];
  put(ledger, 'a', 'L1', one);
  assert.equal(ledger.export('a').layout, 'L1');
  assert.deepEqual(put(ledger, 'a', 'L2', other), { segments: placesOf(one), layouts: ['L1'] });
  assert.deepEqual(ledger.spareSets, []);
  // The set of the checkpoint that replaced it is spare as usual.
  assert.deepEqual(put(ledger, 'a', 'L3', third), nothing);
  assert.deepEqual(ledger.spareSets, [other]);
  assert.throws(() => ledger.export('b'), { name: 'UsageError', message: /no checkpoint b/ });
});

test('copies on other hosts are released with their checkpoint, after its last reader', () => {
  const ledger = new CheckpointLedger(2);
  const copies = [{ slice: 0, path: '/dev/shm/w/mirror-7-0', host: 'far', rank: 9 }];
  const [one, other] = [setOf('one'), setOf('other')];
  put(ledger, 'a', 'L1', one);
  const end = ledger.read('a');
  ledger.addCopies('a', copies);
  assert.deepEqual(ledger.get('a').copies, copies);
  assert.deepEqual(put(ledger, 'a', 'L2', other), nothing);
  assert.deepEqual(end(), { segments: placesOf(copies), layouts: [] });
  assert.deepEqual([ledger.spareSets, ledger.get('a').copies], [[one], []]);
});

test('a file used in place is released with the last checkpoint that uses it', () => {
  const ledger = new CheckpointLedger(2);
  const file = [{ path: '/dev/shm/model.safetensors', host: 'h' }];
  const set = setOf('one');
  ledger.register(registered('a', 'L1', file), null);
  ledger.take(set);
  ledger.register(registered('b', 'L2', [...file, ...set]), set);
  assert.deepEqual(ledger.unregister('a'), { segments: [], layouts: ['L1'] });
  assert.deepEqual(ledger.unregister('b'), { segments: file, layouts: [] });
  assert.deepEqual(ledger.spareSets, [set], 'the file is not spare');
  // The same file with other weights.
  ledger.register(registered('c', 'L1', file), null);
  assert.deepEqual(ledger.register(registered('c', 'L1', file), null), nothing);
});

test('a set that was taken is put back or discarded', () => {
  const ledger = new CheckpointLedger(2);
  const set = setOf('one');
  put(ledger, 'a', 'L1', set);
  ledger.unregister('a');
  ledger.take(set);
  assert.ok(!ledger.isSpare(set));
  assert.deepEqual(ledger.putBack(set), nothing);
  assert.deepEqual(ledger.spareSets, [set]);
  ledger.take(set);
  assert.deepEqual(ledger.releaseSpare(), nothing);
  assert.deepEqual(ledger.discard(set), { segments: placesOf(set), layouts: ['L1'] });
  assert.throws(() => ledger.discard(set));
  assert.equal(ledger.takenSets, 0);
});

test('limits the checkpoints, and the sets being filled', () => {
  const ledger = new CheckpointLedger(2);
  for (let number = 0; number < 16; number += 1) {
    ledger.checkRoom(`n${number}`);
    put(ledger, `n${number}`, 'L', setOf(`n${number}`));
  }
  ledger.checkRoom('n3');
  assert.throws(() => ledger.checkRoom('more'), {
    name: 'UsageError',
    message: /16 checkpoints are registered, the maximum; .* before more/,
  });
  assert.throws(() => {
    for (let number = 0; number < 100; number += 1) ledger.take(setOf(`t${number}`));
  }, /8 checkpoints are being loaded/);
});

test('sets of a host that lost its memory are not reused', () => {
  const ledger = new CheckpointLedger(2);
  const [held, spare, elsewhere] = [setOf('held'), setOf('spare', 200), setOf('elsewhere', 300)];
  const away = elsewhere.map((segment) => ({ ...segment, host: 'other' }));
  for (const [name, set] of Object.entries({ held, spare, away })) put(ledger, name, name, set);
  ledger.unregister('spare');
  ledger.unregister('away');
  assert.deepEqual(ledger.memoryLost('h'), { segments: placesOf(spare), layouts: ['spare'] });
  assert.deepEqual(ledger.spareSets, [away]);
  assert.deepEqual(ledger.get('held').lost, placesOf(held));
  // Other hosts may have parts of it.
  assert.equal(ledger.get('held').layout, 'held');
  assert.deepEqual(ledger.unregister('held'), { segments: placesOf(held), layouts: ['held'] });
});
