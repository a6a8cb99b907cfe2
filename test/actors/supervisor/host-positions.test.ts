import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HostPositions } from '../../../src/actors/supervisor/host-positions.ts';

const endpoint = 'http://h:1';
const on = (place: { host?: string }, name: string, ranks: number[]) => ({
  name,
  endpoint,
  workers: ranks.map((rank) => ({ rank, ...place })),
});
const here = (name: string, ranks: number[]) => on({}, name, ranks);
const there = (name: string, ranks: number[]) => on({ host: 'node-2' }, name, ranks);
const positionsOf = (positions: HostPositions, ranks: number[]) =>
  ranks.map((rank) => positions.of(rank).position);

test('on one host rank n has position n, whatever the order of instances', () => {
  const positions = new HostPositions();
  positions.assign([here('b', [4, 5, 6, 7]), here('a', [3, 2, 1, 0])]);
  const ranks = [0, 1, 2, 3, 4, 5, 6, 7];
  assert.deepEqual(positionsOf(positions, ranks), ranks);
  assert.deepEqual(positions.of(5), { position: 5, localRank: 5, localRanks: 8 });
});

test('ranks of another host begin at 0, and so do those that join it later', () => {
  const positions = new HostPositions();
  positions.assign([here('a', [0, 1]), there('b', [2, 3])]);
  positions.assign([there('c', [8, 9])]);
  assert.deepEqual(positionsOf(positions, [0, 1, 2, 3, 8, 9]), [0, 1, 0, 1, 2, 3]);
  assert.deepEqual(positions.of(8), { position: 2, localRank: 2, localRanks: 4 });
});

test('the positions of an instance that has left go to the next; those of others stay', () => {
  const positions = new HostPositions();
  positions.assign([there('a', [0, 1]), there('b', [2, 3])]);
  for (const rank of [0, 1]) positions.release(rank);
  assert.deepEqual(positions.of(3), { position: 3, localRank: 1, localRanks: 2 });
  positions.assign([there('c', [20, 21, 22])]);
  assert.deepEqual(positionsOf(positions, [2, 3, 20, 21, 22]), [2, 3, 0, 1, 4]);
});

test('ranks whose devices are chosen stand at these, others at the first that nobody has chosen', () => {
  const positions = new HostPositions();
  const chosen = (name: string, rank: number, device: number) => ({
    name,
    endpoint,
    workers: [{ rank, host: 'node-2', device }],
  });
  // Eight instances of one GPU each, in any order.
  const order = [3, 0, 7, 4, 1, 6, 2, 5];
  for (const [rank, device] of order.entries()) positions.assign([chosen(`${rank}`, rank, device)]);
  assert.deepEqual(positionsOf(positions, [0, 1, 2, 3, 4, 5, 6, 7]), order);
  assert.deepEqual(positions.of(2), { position: 7, localRank: 7, localRanks: 8 });
  for (const rank of [1, 4]) positions.release(rank);
  positions.assign([there('two', [20]), chosen('three', 21, 1), there('four', [22])]);
  assert.deepEqual(positionsOf(positions, [20, 21, 22]), [0, 1, 8]);
});
