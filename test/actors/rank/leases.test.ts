import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Leases } from '../../../src/actors/rank/leases.ts';
import type { SegmentStore } from '../../../src/checkpoint/segment-store.ts';
import { NativeError } from '../../../src/errors.ts';
import type { Exposure, Fabric } from '../../../src/native-bridge/fabric.ts';

/** Leases on segments that are only names; `released` and `closed` list what was released and no longer exposed. */
function fixture(unexposable?: string) {
  const released: string[] = [];
  const closed: string[] = [];
  const expose = async (path: string): Promise<Exposure> => {
    if (path === unexposable) throw new NativeError(`cannot register ${path}`);
    return { token: Buffer.from(path), readers: 0, close: async () => void closed.push(path) };
  };
  const segments = {
    attach: (path: string) => path,
    forget: async (paths: readonly string[]) => void released.push(...paths),
  } as unknown as SegmentStore;
  const leases = new Leases(segments, () => ({ expose }) as unknown as Fabric);
  return { leases, released, closed };
}

test('a leased segment is released, and no longer exposed, when its last lease is returned', async () => {
  const { leases, released, closed } = fixture();
  await leases.lease(1, ['a', 'b']);
  await leases.lease(2, ['b']);
  assert.deepEqual(
    ['a', 'b', 'c'].map((path) => leases.isLeased(path)),
    [true, true, false],
  );
  await leases.release(['a', 'b', 'c']);
  assert.deepEqual([released, closed], [['c'], []]);
  await leases.returnLease(1);
  assert.deepEqual([released, closed], [['c', 'a'], ['a']]);
  assert.deepEqual([leases.isLeased('a'), leases.isLeased('b')], [false, true]);
  await leases.returnLease(2);
  assert.deepEqual(
    [released, closed],
    [
      ['c', 'a', 'b'],
      ['a', 'b'],
    ],
  );
});

test('an epoch that fails to lease one segment has a lease on none', async () => {
  const { leases } = fixture('bad');
  await assert.rejects(leases.lease(1, ['good', 'bad']), /cannot register bad/);
  assert.equal(leases.isLeased('good'), false);
});
