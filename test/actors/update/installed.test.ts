import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Installs } from '../../../src/actors/supervisor/install-ledger.ts';
import { type HeldByWorker, proveInstalled, type References } from '../../../src/actors/update/installed.ts';
import { type Held, placeKey } from '../../../src/plan/live-weights.ts';

const form = 'bfloat16[4](1)';

/** What a worker holds: tensors by name. */
function held(tensors: Record<string, number>, place: Held['place'] = { which: 'target' }): Held {
  const names = Object.keys(tensors).map((name) => `${name} ${form}`);
  const digests = BigUint64Array.from(Object.values(tensors), BigInt);
  return { place, layout: names.join(), digests, names };
}

function worker(instance: string, one: Held, rank = 0): HeldByWorker {
  return { instance, rank, held: one, coverage: 'complete' };
}

const alone: References = { earlier: () => null, baseline: null };
const right = held({ 'a.weight': 1, 'a:packed': 2 });
const wrong = held({ 'a.weight': 1, 'a:packed': 3 });

function proved(workers: readonly HeldByWorker[], references: Partial<References> = {}) {
  const { proofs, failures } = proveInstalled(workers, { ...alone, ...references });
  const errors = [...failures].map(([name, { message }]) => [name, message.replace(/^instance \w+: /, '')]);
  return { proofs: Object.fromEntries(proofs), failures: Object.fromEntries(errors) };
}

test('replicas that hold the same are consistent; one that nobody compares with anything is not', () => {
  const two = [worker('a', right), worker('b', right, 1)];
  assert.deepEqual(proved(two).proofs, { a: 'consistent', b: 'consistent' });
  assert.deepEqual(proved([worker('a', right)]).proofs, { a: 'unknown' });
  // Ranks of one instance that hold different parts have nothing in common.
  const parts = [worker('a', right), worker('a', held({ 'a.weight': 5 }, { tp: '1 of 2' }), 1)];
  assert.deepEqual(proved(parts).proofs, { a: 'unknown' });
  const uncovered = two.map((one) => ({ ...one, coverage: 'unknown' as const }));
  assert.deepEqual(proved(uncovered).proofs, { a: 'unknown', b: 'unknown' });
});

test('the one of three that holds something else fails, by its tensors; of two, both do', () => {
  const three = [worker('a', right), worker('b', wrong, 1), worker('c', right, 2)];
  const fault = 'the engine worker of rank 1 holds other weights than rank 0 of a: a:packed';
  assert.deepEqual(proved(three), {
    proofs: { a: 'consistent', c: 'consistent' },
    failures: { b: fault },
  });
  const { proofs, failures } = proved(three.slice(0, 2));
  assert.deepEqual(proofs, {});
  assert.deepEqual(Object.keys(failures), ['a', 'b']);
});

test('what an earlier update to the same version has left decides, if there is one', () => {
  const earlier = (key: string) => (key === placeKey(right.place) ? right : null);
  assert.deepEqual(proved([worker('a', right)], { earlier }).proofs, { a: 'consistent' });
  const { failures } = proved([worker('a', wrong), worker('b', wrong, 1)], { earlier });
  assert.match(failures.a!, /than after an earlier update to the same version: a:packed$/);
  assert.match(failures.b!, /rank 1 .* a:packed$/);
});

test('an engine that holds what the baseline has is right, whatever the files lack; others fail', () => {
  const baseline = [{ ...right, names: [...right.names], place: { ...right.place }, differing: [] }];
  const uncovered = { ...worker('a', right), coverage: 'unknown' as const };
  assert.deepEqual(proved([uncovered], { baseline }).proofs, { a: 'holds' });
  // Also where all replicas are wrong alike.
  const { proofs, failures } = proved([worker('a', wrong), worker('b', wrong, 1)], { baseline });
  assert.deepEqual(proofs, {});
  assert.match(failures.b!, /rank 1 holds other weights than the baseline: a:packed$/);
  const differing = [`a:packed ${form}`];
  assert.deepEqual(proved([worker('a', wrong)], { baseline: [{ ...baseline[0]!, differing }] }).proofs, {
    a: 'holds',
  });
});

test('a baseline of other engines is refused, with what is different about them', () => {
  const place = { which: 'target', device: 'H100' };
  const baseline = [{ ...held({ 'a.weight': 1 }, place), names: [`a.weight ${form}`], place, differing: [] }];
  const other = held({ 'a.weight': 1 }, { which: 'target', device: 'H200' });
  assert.deepEqual(proved([worker('a', other, 4)], { baseline }).failures, {
    a: 'the baseline has nothing of engines like that of rank 4 (device H200, not H100)',
  });
  // Nobody who has one of the target model alone is kept from updating its draft model.
  const draft = held({ 'b.weight': 1 }, { which: 'draft', device: 'H100' });
  const ofDraft = { ...worker('a', draft, 4), coverage: 'unknown' as const };
  const target = worker('a', held({ 'a.weight': 1 }, place), 4);
  assert.deepEqual(proved([target, ofDraft], { baseline }), { proofs: { a: 'unknown' }, failures: {} });
});

test('parameters that only one of two has differ; what a layer makes when it is first used does not', () => {
  const more = held({ 'a.weight': 1, 'a:packed': 2, 'a:lazy': 9 });
  assert.deepEqual(proved([worker('a', right), worker('b', more, 1)]).proofs, {
    a: 'consistent',
    b: 'consistent',
  });
  const another = held({ 'a.weight': 1, 'a:packed': 2, 'b.weight': 3 });
  const { failures } = proved([worker('a', right), worker('b', another, 1)]);
  assert.match(failures.a!, /: b\.weight$/);
});

test('installs are remembered by version and place, the oldest are forgotten, and names are kept once', () => {
  const installs = new Installs(2_000);
  const key = placeKey(right.place);
  installs.note('v1', right, true);
  assert.deepEqual(installs.earlier('v1', key)?.digests, right.digests);
  assert.equal(installs.earlier('v2', key), null);
  assert.deepEqual([...installs.layouts().keys()], [right.layout]);
  for (let version = 0; version < 100; version += 1) installs.note(`later ${version}`, right, true);
  assert.equal(installs.earlier('v1', key), null);
  assert.notEqual(installs.earlier('later 99', key), null);
  for (let layer = 0; layer < 50; layer += 1) {
    installs.note('v3', held({ [`${layer}.${'x'.repeat(50)}`]: 1 }), true);
  }
  assert.ok(installs.layouts().size < 20);
});

test('an install that nobody has confirmed does not outlive one that differs', () => {
  const installs = new Installs();
  const key = placeKey(right.place);
  installs.note('v1', right, false);
  installs.doubt('v1', key);
  assert.equal(installs.earlier('v1', key), null);
  installs.note('v1', right, false);
  installs.note('v1', right, true);
  installs.doubt('v1', key);
  assert.notEqual(installs.earlier('v1', key), null);
});
