import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../../simulation/clock.ts';
import type { Context } from '../../../src/actors/kernel/index.ts';
import { makeSystem, Probe, soon, type TestMessage } from './harness.ts';

/** A parent with three children, each started after the one before. */
class Family extends Probe {
  readonly #events: string[];
  readonly #makeChild: (name: string) => Probe;

  constructor(events: string[], makeChild = (name: string) => new Probe(name, events)) {
    super('parent', events);
    this.#events = events;
    this.#makeChild = makeChild;
  }

  override started(context: Context<TestMessage>): void {
    super.started(context);
    for (const name of ['one', 'two', 'three']) context.spawn(name, () => this.#makeChild(name));
    this.#events.length = 0;
  }
}

test('children end before their parent, the last started first', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  system.spawn('parent', () => new Family(events));
  await settle();
  events.length = 0;
  await system.stop(1_000);
  assert.deepEqual(events, ['three stopping', 'two stopping', 'one stopping', 'parent stopping']);
});

test('a handler that throws while stopping keeps nobody else from ending', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  class Stubborn extends Probe {
    override stopping(context: Context<TestMessage>): void {
      super.stopping(context);
      throw undefined;
    }
  }
  system.spawn('parent', () => new Family(events, (name) => new Stubborn(name, events)));
  await settle();
  events.length = 0;
  await system.stop(1_000);
  assert.deepEqual(events, ['three stopping', 'two stopping', 'one stopping', 'parent stopping']);
});

test('a stopping that never ends is abandoned after its deadline', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  class Endless extends Probe {
    override stopping(): Promise<void> {
      return new Promise(() => {});
    }
  }
  system.spawn('before', () => new Probe('before', events));
  system.spawn('endless', () => new Endless('endless', events));
  await settle();
  events.length = 0;
  const stopped = system.stop(60_000);
  await clock.advance(4_900);
  assert.deepEqual(events, []);
  await clock.advance(200);
  await stopped;
  assert.deepEqual(events, ['before stopping']);
});

test('a stop waits for the handler that is running', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', events));
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  const answer = system.ask(actor, { type: 'wait', until }, soon);
  await settle();
  const stopped = system.stop(1_000);
  await settle();
  assert.deepEqual(events, ['actor started']);
  release(null);
  assert.equal(await answer, 'waited');
  await stopped;
  assert.deepEqual(events, ['actor started', 'actor stopping']);
});

test('system.stop names the actors that do not end in time', async () => {
  const { system, clock } = makeSystem();
  const actor = system.spawn('hanging', () => new Probe('hanging', []));
  system.ask(actor, { type: 'wait', until: new Promise(() => {}) }, soon).catch(() => {});
  await settle();
  const stopped = assert.rejects(system.stop(2_000), /hanging/);
  await clock.advance(2_000);
  await stopped;
});

test('messages left in the mailbox become dead letters, and their askers get an error', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  const first = system.ask(actor, { type: 'wait', until }, soon);
  await settle();
  const left = assert.rejects(system.ask(actor, { type: 'echo', value: 1 }, soon), {
    code: 'WEIGHTCAST_ACTOR_STOPPED',
  });
  const stopped = system.stop(1_000);
  release(null);
  await first;
  await stopped;
  await left;
  assert.equal(system.counters.deadLetters, 1);
});

test('an actor may stop itself from within its handler', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  class Suicidal extends Probe {
    override async receive(message: TestMessage, context: Context<TestMessage>): Promise<void> {
      await context.stop();
      await super.receive(message, context);
    }
  }
  const actor = system.spawn('actor', () => new Suicidal('actor', events));
  assert.equal(await system.ask(actor, { type: 'echo', value: 'bye' }, soon), 'bye');
  await settle();
  assert.deepEqual(events, ['actor started', 'actor stopping']);
});

test('nothing is left behind: no timer is set once the system has stopped', async () => {
  const { system, clock } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  system
    .ask(actor, { type: 'wait', until: new Promise(() => {}) }, { deadlineMilliseconds: 60_000 })
    .catch(() => {});
  await settle();
  const stopped = system.stop(10_000);
  await clock.advance(6_000);
  await stopped;
  assert.equal(clock.pending, 0);
});

test('an actor whose end takes longer may say how long, and its parent waits for it', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  class Slow extends Probe {
    override async stopping(context: Context<TestMessage>): Promise<void> {
      await new Promise<void>((resolve) => void clock.after(20_000, resolve));
      await super.stopping(context);
    }
  }
  class Parent extends Probe {
    override started(context: Context<TestMessage>): void {
      context.spawn('slow', () => new Slow('slow', events), { endingMilliseconds: 30_000 });
    }
  }
  system.spawn('parent', () => new Parent('parent', events));
  await settle();
  events.length = 0;
  const stopped = system.stop(60_000);
  await clock.advance(19_000);
  assert.deepEqual(events, []);
  await clock.advance(2_000);
  await stopped;
  assert.deepEqual(events, ['slow stopping', 'parent stopping']);
});
