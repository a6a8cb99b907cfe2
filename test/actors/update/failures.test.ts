import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failures } from '../../../src/actors/update/failures.ts';
import {
  AbortedError,
  DeadlineError,
  EngineError,
  PeerLostError,
  type WeightcastError,
  WorkerLinkError,
} from '../../../src/errors.ts';

const one = { name: 'one', ranks: [0, 1] };
const other = { name: 'other', ranks: [2, 3] };

function blamed(note: (failures: Failures<typeof one>) => void): [string, string][] {
  const failures = new Failures<typeof one>();
  note(failures);
  return [...failures.blamed([one, other])].map(([{ name }, error]: [{ name: string }, WeightcastError]) => [
    name,
    error.message,
  ]);
}

test('what other ranks noticed of a dead one blames nobody else', () => {
  const found = blamed((failures) => {
    failures.ofRank(2, new PeerLostError('member 0 of the collective is gone'));
    failures.ofRank(3, new AbortedError('the collective was aborted'));
    failures.ofEngine(other, new EngineError('its rank aborted the exchange'));
    failures.rankLost(0, new PeerLostError('rank 0 died'));
  });
  assert.deepEqual(found, [['one', 'rank 0 died']]);
});

test("a worker's failure counts, and not the echo of it in engines", () => {
  const found = blamed((failures) => {
    failures.ofEngine(other, new EngineError('echo'));
    failures.ofEngine(one, new EngineError('500: shape mismatch'));
    failures.ofRank(1, new WorkerLinkError('shape mismatch'));
  });
  assert.deepEqual(found, [['one', 'shape mismatch']]);
});

test('an engine that refuses the call is to blame if no rank is', () => {
  const found = blamed((failures) => {
    failures.ofEngine(one, new EngineError('404'));
    failures.ofEngine(other, new AbortedError('404'));
  });
  assert.deepEqual(found, [['one', '404']]);
});

test('an engine that repeats that a rank of another instance aborted the broadcast is not to blame', () => {
  const found = blamed((failures) => {
    failures.ofRank(2, new AbortedError('broadcast 26 on rank 2: aborted by rank 0'));
    failures.ofEngine(other, new EngineError('500: the rank aborted the update: aborted by rank 0'));
    failures.ofEngine(one, new EngineError('other side closed'));
  });
  assert.deepEqual(found, [['one', 'other side closed']]);
});

test('a rank that does not release what it took is to blame, with what else is known of it', () => {
  const found = blamed((failures) => {
    failures.unresponsive(0, new DeadlineError('rank 0 did not answer abort'));
    failures.ofEngine(one, new DeadlineError('the engine did not answer'));
    failures.ofEngine(other, new DeadlineError('nor did this one'));
  });
  assert.deepEqual(found, [['one', 'the engine did not answer']]);
});

test('if all waited in vain, none is spared; if all were aborted, none is blamed', () => {
  const late = new DeadlineError('a broadcast waited for a member');
  const all = blamed((failures) => {
    failures.ofRank(0, late);
    failures.ofRank(2, late);
    failures.ofEngine(other, new EngineError('echo'));
  });
  assert.deepEqual(all, [
    ['one', late.message],
    ['other', late.message],
  ]);
  assert.deepEqual(
    blamed((failures) => failures.ofRank(0, new AbortedError('the cluster is stopping'))),
    [],
  );
});
