import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkManifestSize, MOST_NAME_CHARACTERS, MOST_TENSORS } from '../../src/checkpoint/manifest-size.ts';
import { CheckpointError } from '../../src/errors.ts';

test('a checkpoint with too many tensors, or too long names, is refused by name', () => {
  const named = (length: number, name: string) => new Array<string>(length).fill(name);
  checkManifestSize('policy', named(MOST_TENSORS, 'w'));
  assert.throws(() => checkManifestSize('policy', named(MOST_TENSORS + 1, 'w')), CheckpointError);
  assert.throws(
    () => checkManifestSize('policy', named(MOST_TENSORS + 1, 'w')),
    /policy.* has 2000001 tensors; at most 2000000 can be registered/,
  );
  const long = 'w'.repeat(1_000);
  checkManifestSize('policy', named(MOST_NAME_CHARACTERS / 1_024, long));
  assert.throws(
    () => checkManifestSize('policy', named(MOST_NAME_CHARACTERS / 512, long)),
    /policy.*characters/,
  );
});
