import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UsageError } from '../../src/errors.ts';
import { assignReceivers, type OwnedBytes, type Topology } from '../../src/plan/receivers.ts';
import { checkProperty } from '../check-property.ts';

/** `count` NICs of `ranksEach` ranks, numbered through. */
function topology(count: number, ranksEach = 1): Topology {
  return new Map(
    Array.from({ length: count }, (_, nic) => [
      `rdma${nic}`,
      Array.from({ length: ranksEach }, (_, place) => nic * ranksEach + place),
    ]),
  );
}

const bucketsOf = (count: number, bytes = (_number: number) => 1) =>
  Array.from({ length: count }, (_, number) => ({ owner: number % 8, bytes: bytes(number), number }));

/** For each bucket number, who receives it. */
function receiversOf(buckets: ReturnType<typeof bucketsOf>, local: Topology, remote: Topology): number[] {
  const receivers: number[] = [];
  for (const { receiver, bucket } of assignReceivers(buckets, local, remote))
    receivers[bucket.number] = receiver;
  return receivers;
}

// The cases that checkpoint-engine tests its own assignment with.
test('as many NICs on both sides: each rank receives from its like', () => {
  const expected = bucketsOf(80).map(({ number }) => number % 8);
  assert.deepEqual(receiversOf(bucketsOf(80), topology(8), topology(8)), expected);
});

test('fewer sender NICs: no more receivers than they are', () => {
  for (const count of [80, 13]) {
    const expected = bucketsOf(count).map(({ number }) => Math.floor(number / 2) % 4);
    assert.deepEqual(receiversOf(bucketsOf(count), topology(8), topology(4, 2)), expected);
  }
});

test('fewer local NICs: one receiver for each, its lowest rank', () => {
  const two = bucketsOf(80).map(({ number }) => (number % 2) * 4);
  assert.deepEqual(receiversOf(bucketsOf(80), topology(2, 4), topology(8)), two);
  const four = bucketsOf(13).map(({ number }) => (number % 4) * 2);
  assert.deepEqual(receiversOf(bucketsOf(13), topology(4, 2), topology(8)), four);
});

test('NICs that do not come out even: a round ends where a sender NIC would serve twice', () => {
  const expected = [0, 1, 1, 2, 2, 0, 0, 1, 2, 2, 0, 0, 1];
  assert.deepEqual(receiversOf(bucketsOf(13), topology(3), topology(4, 2)), expected);
});

test('in a round the receiver with fewest bytes gets the largest bucket, and nobody ends far behind', () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 400, maxLength: 400, size: 'max' });
  checkProperty(
    fc.property(sizes, (bytes) => {
      const received = [0, 0, 0, 0];
      const buckets = bucketsOf(400, (number) => bytes[number]!);
      for (const { receiver, bucket } of assignReceivers(buckets, topology(4), topology(4, 2))) {
        received[receiver]! += bucket.bytes;
      }
      assert.ok(Math.max(...received) - Math.min(...received) <= 1_000, `${received}`);
    }),
  );
});

const topologies = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 3 }))
  .map(([nics, ranksEach]) => topology(nics, ranksEach));
const bucketLists = fc.array(fc.record({ owner: fc.nat(), bytes: fc.nat(100) }), {
  minLength: 1,
  maxLength: 60,
  size: 'max',
});

test('whatever the topology: every bucket once, rounds that keep every NIC to one read', () => {
  checkProperty(
    fc.property(topologies, topologies, bucketLists, (local, remote, list) => {
      const owners = [...remote.values()].flat();
      const buckets: OwnedBytes[] = list.map(({ owner, bytes }) => ({
        owner: owners[owner % owners.length]!,
        bytes,
      }));
      const dealt = assignReceivers(buckets, local, remote);
      assert.deepEqual(new Set(dealt.map(({ bucket }) => bucket)), new Set(buckets));
      assert.equal(dealt.length, buckets.length);
      const lowest = new Set([...local.values()].map((ranks) => Math.min(...ranks)));
      assert.ok(dealt.every(({ receiver }) => lowest.has(receiver)));
      assert.ok(longestQueue(dealt) <= roundsNeeded(buckets, local, remote));
    }),
    300,
  );
});

/** Rounds that the receivers take: the most buckets that one of them gets. */
function longestQueue(dealt: readonly { receiver: number }[]): number {
  const counts = new Map<number, number>();
  for (const { receiver } of dealt) counts.set(receiver, (counts.get(receiver) ?? 0) + 1);
  return Math.max(...counts.values());
}

/** Rounds of a plain deal: in turn over sender NICs, cut where full or where a NIC comes twice. */
function roundsNeeded(buckets: readonly OwnedBytes[], local: Topology, remote: Topology): number {
  const queues = [...remote.values()]
    .map((ranks) => buckets.filter(({ owner }) => ranks.includes(owner)))
    .filter((queue) => queue.length > 0)
    .sort((one, other) => buckets.indexOf(one[0]!) - buckets.indexOf(other[0]!));
  const size = Math.min(local.size, queues.length);
  let rounds = 1;
  let inRound = new Set<number>();
  for (let turn = 0; turn < buckets.length; turn += 1) {
    for (const [nic, queue] of queues.entries()) {
      if (turn >= queue.length) continue;
      if (inRound.size === size || inRound.has(nic)) {
        rounds += 1;
        inRound = new Set();
      }
      inRound.add(nic);
    }
  }
  return rounds;
}

test('no buckets need no receivers; an owner without a NIC and a side without NICs are named', () => {
  assert.deepEqual(assignReceivers([], new Map(), new Map()), []);
  assert.throws(
    () => assignReceivers(bucketsOf(9), topology(1), topology(4)),
    (error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, /rank 4 owns a bucket and has no NIC/);
      return true;
    },
  );
  assert.throws(() => assignReceivers(bucketsOf(1), new Map(), topology(8)), UsageError);
});
