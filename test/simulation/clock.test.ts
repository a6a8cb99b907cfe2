import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SimulatedClock } from '../../simulation/clock.ts';
import { SeededRandom } from '../../simulation/random.ts';
import { settle, turns } from '../../simulation/turns.ts';
import { type Actor, ActorSystem, type Context } from '../../src/actors/kernel/index.ts';
import { forSeeds } from '../plan/seeded-random.ts';

interface Timer {
  readonly name: number;
  readonly at: number;
  cancelled: boolean;
}

test('timers fire by due time, then in the order in which they were set, and never when cancelled', async () => {
  for (let seed = 1; seed <= 50; seed += 1) {
    const random = new SeededRandom(seed);
    const clock = new SimulatedClock();
    const timers: (Timer & { cancel: () => void })[] = [];
    const fired: number[] = [];
    for (let name = 0; name < 3_000; name += 1) {
      const at = random.whole(0, 50);
      timers.push({ name, at, cancelled: false, cancel: clock.after(at, () => fired.push(name)) });
      if (!random.chance(0.7)) continue;
      const victim = random.pick(timers);
      victim.cancel();
      victim.cancelled = true;
    }
    const live = timers.filter(({ cancelled }) => !cancelled);
    assert.equal(clock.pending, live.length);
    await clock.advance(50);
    const expected = live.sort((a, b) => a.at - b.at || a.name - b.name).map(({ name }) => name);
    assert.deepEqual(fired, expected);
    assert.equal(clock.pending, 0);
  }
});

test('a timer set by another timer fires within the same advance, at its own time', async () => {
  const clock = new SimulatedClock();
  const times: number[] = [];
  clock.after(10, () => clock.after(5, () => times.push(clock.now())));
  await clock.advance(14);
  assert.deepEqual(times, []);
  await clock.advance(1);
  assert.deepEqual(times, [15]);
});

test('advanceUntil stops as soon as the condition holds', async () => {
  const clock = new SimulatedClock();
  let count = 0;
  for (const at of [1, 2, 3]) {
    clock.after(at, () => {
      count += 1;
    });
  }
  assert.equal(await clock.advanceUntil(() => count === 2, 10), true);
  assert.equal(clock.now(), 2);
  assert.equal(await clock.advanceUntil(() => count === 7, 10), false);
  assert.equal(clock.now(), 12);
});

/** Passes a decreasing number on until it is 0. Every message is a turn; every third one also awaits. */
class Relay implements Actor<number> {
  next: ((value: number) => void) | null = null;
  ended = 0;

  async receive(value: number, _context: Context<number>): Promise<void> {
    if (value % 3 === 0) await Promise.resolve();
    if (value === 0) this.ended += 1;
    else this.next!(value - 1);
  }
}

test('settle waits for a whole chain of turns, however long', async () => {
  const silent = { debug() {}, info() {}, warn() {}, error() {} };
  const clock = new SimulatedClock();
  const system = ActorSystem.create({ clock, random: new SeededRandom(1), log: silent, turns });
  const relays = [new Relay(), new Relay()];
  const refs = relays.map((relay, number) => system.spawn(`relay-${number}`, () => relay));
  for (const [number, relay] of relays.entries()) {
    relay.next = (value) => system.tell(refs[1 - number]!, value);
  }
  for (const length of [10, 1_000, 20_000]) {
    system.tell(refs[0]!, length);
    await settle();
    assert.equal(relays[0]!.ended + relays[1]!.ended, 1, `after ${length} turns`);
    for (const relay of relays) relay.ended = 0;
  }
  await system.stop(1_000);
  assert.equal(turns.due, 0);
});

test('a stream depends on seed and name only, not on what was drawn elsewhere', () => {
  forSeeds(20, (random) => {
    const seed = random.whole(0, 1_000_000);
    const [one, other] = [new SeededRandom(seed), new SeededRandom(seed)];
    other.next();
    assert.equal(one.stream('a').next(), other.stream('a').next());
    assert.notEqual(one.stream('a').next(), one.stream('b').next());
  });
});
