import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommunicatorRegistry } from '../../../src/actors/update/communicators.ts';

const readyRank = (rank: number, host: string, deviceUuid: string) => ({
  rank,
  ref: null as never,
  host,
  deviceUuid,
  directory: '/shm',
  directoryId: '1',
  nics: [],
  collectiveScope: 'host' as const,
  pid: 1,
  epochs: { first: 0, last: 0, loaded: 0 },
});
const apart = [readyRank(0, 'a', 'GPU-1'), readyRank(1, 'b', 'GPU-2')];
const id = Uint8Array.of(1, 2, 3);
const created = { id, leastBucketBytes: 512 };

test('a new communicator is requested with its number of hosts, and whether ranks share a device', () => {
  const group = new CommunicatorRegistry().of(apart);
  assert.deepEqual(group.missing(apart), { number: 1, hosts: 2, sharesDevices: false });
  const together = [readyRank(0, 'a', 'GPU-1'), readyRank(1, 'a', 'GPU-1')];
  assert.deepEqual(group.missing(together), { number: 1, hosts: 1, sharesDevices: true });
});

test('a communicator is reused by the next update', () => {
  const group = new CommunicatorRegistry().of(apart);
  group.hold(created);
  assert.deepEqual(group.offer(), { number: 1, id });
  assert.equal(group.missing(apart), null);
  assert.equal(group.leastBucketBytes, 512);
  assert.deepEqual(group.offer(), { number: 1, id });
});

test('after a failed update its number is not reused, unless it was never offered', () => {
  const group = new CommunicatorRegistry().of(apart);
  group.hold(created);
  group.invalidate();
  assert.equal(group.missing(apart), null);
  group.offer();
  group.invalidate();
  assert.equal(group.missing(apart)?.number, 2);
});

test('the loss of a rank drops the communicator, also one that was never offered', () => {
  const group = new CommunicatorRegistry().of(apart);
  group.hold(created);
  group.drop();
  assert.equal(group.missing(apart)?.number, 2);
});

test('each group of ranks has a communicator with its own number', () => {
  const registry = new CommunicatorRegistry();
  const alone = [readyRank(2, 'a', 'GPU-3'), readyRank(3, 'a', 'GPU-4')];
  const [one, other] = [registry.of(apart), registry.of(alone)];
  one.hold(created);
  other.hold(created);
  assert.notEqual(one.offer()?.number, other.offer()?.number);
  registry.rankLost(2);
  assert.equal(registry.of(apart).missing(apart), null, 'the loss of rank 2 does not affect ranks 0 and 1');
  assert.equal(registry.of(alone).missing(alone)?.number, 3);
});

test('a communicator is dropped when one of its ranks is offered another', () => {
  const registry = new CommunicatorRegistry();
  const all = registry.of(apart);
  all.hold(created);
  all.offer();
  const others = [apart[0]!, readyRank(2, 'c', 'GPU-3')];
  registry.of(others).hold(created);
  assert.equal(all.missing(apart), null, 'the other one was not offered yet');
  registry.of(others).offer();
  assert.equal(all.missing(apart)?.number, 3);
  assert.equal(registry.of(others).missing(others), null);
});
