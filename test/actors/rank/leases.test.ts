import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Leases } from '../../../src/actors/rank/leases.ts';
import type { SegmentStore } from '../../../src/checkpoint/segment-store.ts';
import { NativeError } from '../../../src/errors.ts';
import type { Exposure, Fabric } from '../../../src/native-bridge/fabric.ts';

/** Leases on segments that are only names; `forgotten` and `closed` tell what became of them. */
function fixture(unexposable?: string) {
  const forgotten: string[] = [];
  const closed: string[] = [];
  const expose = async (path: string): Promise<Exposure> => {
    if (path === unexposable) throw new NativeError(`cannot register ${path}`);
    return { token: Buffer.from(path), readers: 0, close: async () => void closed.push(path) };
  };
  const segments = {
    attach: (path: string) => path,
    forget: async (paths: readonly string[]) => void forgotten.push(...paths),
  } as unknown as SegmentStore;
  const leases = new Leases(segments, () => ({ expose }) as unknown as Fabric);
  return { leases, forgotten, closed };
}

test('what is forgotten under lease goes when the last lease is returned, and is no longer exposed then', async () => {
  const { leases, forgotten, closed } = fixture();
  await leases.lend(1, ['a', 'b']);
  await leases.lend(2, ['b']);
  assert.deepEqual(
    ['a', 'b', 'c'].map((path) => leases.isLent(path)),
    [true, true, false],
  );
  await leases.forget(['a', 'b', 'c']);
  assert.deepEqual([forgotten, closed], [['c'], []]);
  await leases.release(1);
  assert.deepEqual([forgotten, closed], [['c', 'a'], ['a']]);
  assert.deepEqual([leases.isLent('a'), leases.isLent('b')], [false, true]);
  await leases.release(2);
  assert.deepEqual(
    [forgotten, closed],
    [
      ['c', 'a', 'b'],
      ['a', 'b'],
    ],
  );
});

test('an epoch that could not be lent all of it has nothing under lease', async () => {
  const { leases } = fixture('bad');
  await assert.rejects(leases.lend(1, ['good', 'bad']), /cannot register bad/);
  assert.equal(leases.isLent('good'), false);
});
