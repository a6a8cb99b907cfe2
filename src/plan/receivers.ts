import { strict as assert } from 'node:assert';
import { UsageError } from '../errors.ts';

/** By NIC, the ranks that use it. The order of the map counts. */
export type Topology = ReadonlyMap<string, readonly number[]>;

/** What is assigned: bytes that a remote rank holds. */
export interface OwnedBytes {
  /** A rank of the remote topology. */
  readonly owner: number;
  readonly bytes: number;
}

export interface Assignment<B> {
  /** A rank of the local topology, the lowest of its NIC. */
  readonly receiver: number;
  readonly bucket: B;
}

/**
 * Which receiver reads which bucket from its owner, in what order, so that the NICs of both sides are busy and none
 * serves two reads at a time. The contract is checkpoint-engine's (`_assign_receiver_ranks` in its ps.py): buckets
 * are grouped by the NIC of their owner, and the groups take turns. There is one receiver for each local NIC, its
 * lowest rank, and no more receivers than sender NICs. The result is a sequence of rounds; in a round each receiver
 * gets at most one bucket and each sender NIC serves at most one.
 *
 * The difference: within a round the receiver with the fewest bytes so far gets the largest bucket. Buckets of equal
 * size are assigned exactly as by checkpoint-engine.
 *
 * Throws UsageError when an owner has no NIC, or when there are buckets and no receiver.
 */
export function assignReceivers<B extends OwnedBytes>(
  buckets: readonly B[],
  localTopology: Topology,
  remoteTopology: Topology,
): Assignment<B>[] {
  if (buckets.length === 0) return [];
  const queues = groupBySenderNic(buckets, remoteTopology);
  const receivers = chooseReceivers(localTopology, queues.size);
  const received = new Map(receivers.map((receiver) => [receiver, 0]));
  const assigned: Assignment<B>[] = [];
  for (const round of rounds(inTurn(queues), receivers.length)) {
    const members = byBytes(receivers.slice(0, round.length), (receiver) => received.get(receiver)!);
    const largestFirst = byBytes(round, ({ bytes }) => -bytes);
    for (const [place, bucket] of largestFirst.entries()) {
      const receiver = members[place]!;
      received.set(receiver, received.get(receiver)! + bucket.bytes);
      assigned.push({ receiver, bucket });
    }
  }
  assert.equal(assigned.length, buckets.length, 'every bucket is assigned once');
  return assigned;
}

function groupBySenderNic<B extends OwnedBytes>(buckets: readonly B[], topology: Topology): Map<string, B[]> {
  const nicOf = new Map([...topology].flatMap(([nic, ranks]) => ranks.map((rank) => [rank, nic] as const)));
  const queues = new Map<string, B[]>();
  for (const bucket of buckets) {
    const nic = nicOf.get(bucket.owner);
    if (nic === undefined) throw new UsageError(`rank ${bucket.owner} owns a bucket and has no NIC`);
    const queue = queues.get(nic);
    if (queue === undefined) queues.set(nic, [bucket]);
    else queue.push(bucket);
  }
  return queues;
}

function chooseReceivers(topology: Topology, senderNics: number): number[] {
  const groups = [...topology.values()].filter((ranks) => ranks.length > 0);
  if (groups.length === 0) throw new UsageError('no rank of this cluster has a NIC to receive through');
  return groups.slice(0, senderNics).map((ranks) => Math.min(...ranks));
}

interface FromNic<B> {
  readonly nic: string;
  readonly bucket: B;
}

/** First the first bucket of every NIC, then the second of every NIC that has one, and so on. */
function inTurn<B>(queues: ReadonlyMap<string, readonly B[]>): FromNic<B>[] {
  const longest = Math.max(...[...queues.values()].map((queue) => queue.length));
  const ordered: FromNic<B>[] = [];
  for (let turn = 0; turn < longest; turn += 1) {
    for (const [nic, queue] of queues) if (turn < queue.length) ordered.push({ nic, bucket: queue[turn]! });
  }
  return ordered;
}

/** Cuts the sequence where a round is full, or where a NIC would serve a second bucket. */
function* rounds<B>(ordered: readonly FromNic<B>[], size: number): Generator<B[]> {
  let round: B[] = [];
  const busySenders = new Set<string>();
  for (const { nic, bucket } of ordered) {
    if (round.length === size || busySenders.has(nic)) {
      yield round;
      round = [];
      busySenders.clear();
    }
    round.push(bucket);
    busySenders.add(nic);
  }
  yield round;
}

/** Ascending; equal ones stay in their order. */
function byBytes<T>(items: readonly T[], bytesOf: (item: T) => number): T[] {
  return [...items].sort((one, other) => bytesOf(one) - bytesOf(other));
}
