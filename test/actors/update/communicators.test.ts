import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommunicatorKeepers } from '../../../src/actors/update/communicators.ts';

const member = (rank: number, host: string, deviceUuid: string) => ({
  rank,
  ref: null as never,
  host,
  deviceUuid,
  directory: '/shm',
  directoryId: '1',
  nics: [],
  collectiveScope: 'host' as const,
  pid: 1,
});
const apart = [member(0, 'a', 'GPU-1'), member(1, 'b', 'GPU-2')];
const id = Uint8Array.of(1, 2, 3);
const created = { id, leastBucketBytes: 512 };

test('a rank is told how many hosts there are and whether ranks share a device', () => {
  const keeper = new CommunicatorKeepers().of(apart);
  assert.deepEqual(keeper.missing(apart), { number: 1, hosts: 2, sharesDevices: false });
  const together = [member(0, 'a', 'GPU-1'), member(1, 'a', 'GPU-1')];
  assert.deepEqual(keeper.missing(together), { number: 1, hosts: 1, sharesDevices: true });
});

test('a communicator is used from update to update', () => {
  const keeper = new CommunicatorKeepers().of(apart);
  keeper.hold(created);
  assert.deepEqual(keeper.offer(), { number: 1, id });
  assert.equal(keeper.missing(apart), null);
  keeper.hold(null);
  assert.equal(keeper.leastBucketBytes, 512);
  assert.deepEqual(keeper.offer(), { number: 1, id });
});

test('after a failed update its number is never used again, unless nobody was told to open it', () => {
  const keeper = new CommunicatorKeepers().of(apart);
  keeper.hold(created);
  keeper.invalidate();
  assert.equal(keeper.missing(apart), null);
  keeper.offer();
  keeper.invalidate();
  assert.equal(keeper.missing(apart)?.number, 2);
});

test('when a rank is gone, so is the communicator, also one that nobody was told to open', () => {
  const keeper = new CommunicatorKeepers().of(apart);
  keeper.hold(created);
  keeper.lose();
  assert.equal(keeper.missing(apart)?.number, 2);
});

test('a rank that was asked for a communicator and made none is an error of its own', () => {
  assert.throws(() => new CommunicatorKeepers().of(apart).hold(null), { name: 'ProtocolError' });
});

test('each set of ranks has its own communicator, with a number of its own', () => {
  const keepers = new CommunicatorKeepers();
  const alone = [member(2, 'a', 'GPU-3'), member(3, 'a', 'GPU-4')];
  const [one, other] = [keepers.of(apart), keepers.of(alone)];
  one.hold(created);
  other.hold(created);
  assert.notEqual(one.offer()?.number, other.offer()?.number);
  keepers.lose(2);
  assert.equal(keepers.of(apart).missing(apart), null, 'the loss of rank 2 is nothing to ranks 0 and 1');
  assert.equal(keepers.of(alone).missing(alone)?.number, 3);
});

test('a rank that joins another communicator leaves the one that it was in', () => {
  const keepers = new CommunicatorKeepers();
  const all = keepers.of(apart);
  all.hold(created);
  all.offer();
  const others = [apart[0]!, member(2, 'c', 'GPU-3')];
  keepers.of(others).hold(created);
  assert.equal(all.missing(apart), null, 'nobody was told to join the other yet');
  keepers.of(others).offer();
  assert.equal(all.missing(apart)?.number, 3);
  assert.equal(keepers.of(others).missing(others), null);
});
