import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UpdateContext } from '../../../src/actors/update/context.ts';

function emptyUpdate(): UpdateContext {
  const spec = { ranks: [], targets: [] };
  return new UpdateContext({} as never, spec as never, new AbortController().signal);
}

test('an epoch that is aborted to plan again is no failure: the deadline of the update still holds', async () => {
  const update = emptyUpdate();
  await update.abort(1, 'planning again after memory pressure');
  assert.equal(update.isReleasing, false);
});

test('an update that has failed only releases what it took, whatever its deadline', async () => {
  const update = emptyUpdate();
  await update.fail(1, 'a rank died');
  assert.equal(update.isReleasing, true);
});
