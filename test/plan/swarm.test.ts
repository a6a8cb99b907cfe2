import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { READS_AT_A_TIME, Swarm } from '../../src/plan/swarm.ts';
import { checkProperty } from '../check-property.ts';

const pieces = 256;
const all = Array.from({ length: pieces }, (_, piece) => piece);

interface Flow {
  readonly receiver: number;
  readonly piece: number;
  readonly source: number;
  left: number;
}

/**
 * Hosts 0 and 1 hold everything, the others join at once. A link carries one piece per unit of time in each direction,
 * shared evenly by what goes over it. Returns how long the joins took, and how many pieces each host gave.
 */
function join(joiners: number, onTime: (swarm: Swarm, now: number) => readonly number[] = () => []) {
  const swarm = new Swarm(pieces);
  for (const source of [0, 1]) swarm.addSource(source, all);
  const hosts = Array.from({ length: joiners }, (_, number) => number + 2);
  for (const host of hosts) swarm.addSource(host, []);
  for (const host of hosts) swarm.addReceiver(host, all);
  const given = new Map<number, number>();
  const got = new Map(hosts.map((host) => [host, new Set<number>()]));
  const flows: Flow[] = [];
  let now = 0;
  while (!hosts.every((host) => swarm.isDone(host))) {
    for (const lost of onTime(swarm, now)) removeFlows(flows, ({ source }) => source === lost);
    for (const receiver of hosts) {
      for (const read of swarm.next(receiver)) flows.push({ ...read, receiver, left: 1 });
    }
    assert.ok(flows.length > 0, 'someone is always reading');
    const rates = ratesOf(flows);
    const step = Math.min(...flows.map(({ left }, index) => left / rates[index]!));
    now += step;
    for (const [index, flow] of flows.entries()) flow.left -= step * rates[index]!;
    for (const { receiver, piece, source } of removeFlows(flows, ({ left }) => left < 1e-9)) {
      assert.ok(!got.get(receiver)!.has(piece), 'nothing is read twice');
      got.get(receiver)!.add(piece);
      given.set(source, (given.get(source) ?? 0) + 1);
      swarm.arrived(receiver, piece);
    }
  }
  for (const host of hosts) assert.equal(got.get(host)!.size, pieces);
  return { duration: now, given };
}

/** Max-min fair shares, which is what flows over shared links come to: the tightest link is shared first. */
function ratesOf(flows: readonly Flow[]): number[] {
  const rates = flows.map(() => 0);
  const links = new Map<string, { left: number; flows: Set<number> }>();
  for (const [index, { source, receiver }] of flows.entries()) {
    for (const link of [`out ${source}`, `in ${receiver}`]) {
      if (!links.has(link)) links.set(link, { left: 1, flows: new Set() });
      links.get(link)!.flows.add(index);
    }
  }
  while (links.size > 0) {
    const share = ({ left, flows: sharing }: { left: number; flows: Set<number> }) => left / sharing.size;
    const [name, tightest] = [...links].reduce((one, other) =>
      share(other[1]) < share(one[1]) ? other : one,
    );
    const rate = share(tightest);
    links.delete(name);
    for (const index of tightest.flows) {
      rates[index] = rate;
      for (const [other, link] of links) {
        if (!link.flows.delete(index)) continue;
        link.left -= rate;
        if (link.flows.size === 0) links.delete(other);
      }
    }
  }
  return rates;
}

function removeFlows(flows: Flow[], gone: (flow: Flow) => boolean): Flow[] {
  const removed = flows.filter(gone);
  for (const flow of removed) flows.splice(flows.indexOf(flow), 1);
  return removed;
}

test('eight that join at once take at most 1.5 times as long as one, sixty-four at most 2.5 times', () => {
  const one = join(1).duration;
  assert.ok(one <= pieces * 1.01, `one is limited by its own link: ${one}`);
  assert.ok(join(8).duration <= 1.5 * one, `${join(8).duration} against ${one}`);
  assert.ok(join(64).duration <= 2.5 * one, `${join(64).duration} against ${one}`);
});

test('the sources give little more than one copy each, the joiners give the rest', () => {
  const { given } = join(16);
  assert.ok(given.get(0)! + given.get(1)! <= 5 * pieces, `${given.get(0)} and ${given.get(1)} of ${pieces}`);
});

test('one that joins alone gets its pieces in the order in which it wants them', () => {
  const orders = fc.shuffledSubarray(all, { minLength: pieces });
  const property = fc.property(orders, (wanted) => {
    const swarm = new Swarm(pieces);
    swarm.addSource(0, all);
    swarm.addSource(5, []);
    swarm.addReceiver(5, wanted);
    const order: number[] = [];
    while (!swarm.isDone(5)) {
      for (const { piece } of swarm.next(5)) {
        order.push(piece);
        swarm.arrived(5, piece);
      }
    }
    assert.deepEqual(order, wanted);
  });
  checkProperty(property, 20);
});

test('a source serves only so many reads at a time, whoever asks', () => {
  const swarm = new Swarm(pieces);
  swarm.addSource(0, all);
  for (const host of [1, 2, 3]) swarm.addSource(host, []);
  for (const host of [1, 2, 3]) swarm.addReceiver(host, all);
  const first = [1, 2, 3].flatMap((host) => swarm.next(host).map((read) => ({ host, ...read })));
  assert.equal(first.length, READS_AT_A_TIME);
  swarm.arrived(first[0]!.host, first[0]!.piece);
  assert.equal(swarm.next(3).filter(({ source }) => source === 0).length, 1);
});

test('a read that fails, and what was being read from a source that is gone, is missing again', () => {
  const swarm = new Swarm(4);
  swarm.addSource(0, [0, 1, 2, 3]);
  swarm.addSource(1, [0, 1, 2, 3]);
  swarm.addSource(2, []);
  swarm.addReceiver(2, [0, 1, 2, 3]);
  const reads = swarm.next(2);
  assert.deepEqual(new Set(reads.map(({ source }) => source)), new Set([0, 1]));
  swarm.removeSource(0);
  const again = swarm.next(2);
  assert.deepEqual(
    again.map(({ piece }) => piece).sort(),
    reads
      .filter(({ source }) => source === 0)
      .map(({ piece }) => piece)
      .sort(),
  );
  assert.ok(again.every(({ source }) => source === 1));
  swarm.failed(2, again[0]!.piece);
  assert.deepEqual(swarm.next(2), [{ piece: again[0]!.piece, source: 1 }]);
  assert.equal(swarm.unobtainable(2), null);
  swarm.removeSource(1);
  assert.notEqual(swarm.unobtainable(2), null, 'nobody holds it any more');
});

test('sources that die on the way are made up for by whoever holds their pieces', () => {
  const { duration } = join(8, (swarm, now) => {
    if (now < 100) return [];
    swarm.removeSource(0);
    return [0];
  });
  assert.ok(duration <= 2 * pieces, `${duration}`);
});

test('sources that hold different parts are each read for what they hold', () => {
  const swarm = new Swarm(8);
  swarm.addSource(0, [0, 1, 2, 3]);
  swarm.addSource(1, [4, 5, 6, 7]);
  swarm.addSource(9, []);
  swarm.addReceiver(9, [0, 1, 2, 3, 4, 5, 6, 7]);
  const from = new Map<number, number>();
  while (!swarm.isDone(9)) {
    for (const { piece, source } of swarm.next(9)) {
      from.set(piece, source);
      swarm.arrived(9, piece);
    }
  }
  assert.deepEqual(
    all.slice(0, 8).map((piece) => from.get(piece)),
    [0, 0, 0, 0, 1, 1, 1, 1],
  );
});
