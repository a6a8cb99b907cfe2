import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../../simulation/clock.ts';
import type { Actor, Context } from '../../../src/actors/kernel/index.ts';
import { makeSystem, Probe, soon, type TestMessage } from './harness.ts';

const restart = {
  onCrash: 'restart',
  restarts: 2,
  withinMilliseconds: 10_000,
  backoffMilliseconds: 100,
  maximumBackoffMilliseconds: 150,
} as const;

test('a handler may throw anything: the asker gets an error and the process lives', async () => {
  const strange = [undefined, null, 'text', 7, Symbol('symbol'), Object.create(null), new Error('error')];
  for (const value of strange) {
    const { system } = makeSystem();
    const actor = system.spawn('actor', () => new Probe('actor', []));
    await assert.rejects(system.ask(actor, { type: 'throw', value }, soon), /actor crashed on throw/);
    await settle();
    await assert.rejects(system.ask(actor, { type: 'echo', value: 1 }, soon), {
      code: 'WEIGHTCAST_ACTOR_STOPPED',
    });
  }
});

test('a handler that rejects after an await crashes its actor like one that throws', async () => {
  const { system, crashes } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  const until = settle().then(() => Promise.reject(new Error('late')));
  await assert.rejects(system.ask(actor, { type: 'wait', until }, soon), /actor crashed on wait: late/);
  await settle();
  assert.deepEqual(crashes, ['actor: late']);
});

test('a restarted actor keeps its ref and its mailbox, and nothing of its old state', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', events), { supervision: restart });
  const crash = system.ask(actor, { type: 'throw', value: new Error('once') }, soon);
  system.tell(actor, { type: 'note', value: 'what waited' });
  await assert.rejects(crash, /once/);
  await clock.advance(200);
  assert.deepEqual(events, ['actor started', 'actor stopping', 'actor started', 'actor got what waited']);
});

test('back-off doubles up to its maximum, with jitter, and one crash too many ends the actor', async () => {
  const events: string[] = [];
  const { system, clock, crashes } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', events), { supervision: restart });
  const crash = () => assert.rejects(system.ask(actor, { type: 'throw', value: new Error('again') }, soon));
  const starts = () => events.filter((event) => event.endsWith('started')).length;
  await crash();
  // Random is 0.5 here, so that three quarters of the back-off are waited.
  await clock.advance(74);
  assert.equal(starts(), 1);
  await clock.advance(2);
  assert.equal(starts(), 2);
  await crash();
  await clock.advance(112);
  assert.equal(starts(), 2);
  await clock.advance(2);
  assert.equal(starts(), 3);
  await crash();
  await clock.advance(60_000);
  assert.equal(starts(), 3);
  assert.deepEqual(crashes, ['actor: again']);
});

test('crashes that lie further apart than the restart window never add up', async () => {
  const { system, clock, crashes } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []), { supervision: restart });
  for (let crash = 0; crash < 6; crash += 1) {
    await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('rare') }, soon));
    await clock.advance(11_000);
  }
  assert.deepEqual(crashes, []);
});

test('a child that escalates crashes its parent, which restarts with new children', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  class Parent extends Probe {
    override started(context: Context<TestMessage>): void {
      super.started(context);
      context.spawn('child', () => new Probe('child', events));
    }
  }
  system.spawn('parent', () => new Parent('parent', events), { supervision: restart });
  await settle();
  const child = system.wellKnown<TestMessage>(system.node, 'parent/child');
  await assert.rejects(system.ask(child, { type: 'throw', value: new Error('child') }, soon));
  await clock.advance(200);
  assert.deepEqual(events, [
    'parent started',
    'child started',
    'child stopping',
    'parent stopping',
    'parent started',
    'child started',
  ]);
});

test('a crash in started is a crash', async () => {
  const { system, crashes } = makeSystem();
  const broken: Actor<TestMessage> = {
    started: () => Promise.reject(new Error('no device')),
    receive: () => {},
  };
  system.spawn('broken', () => broken);
  await settle();
  assert.deepEqual(crashes, ['broken: no device']);
});

test('timers and late results of an old life do not reach the new one', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  let release: (value: string) => void = () => {};
  const late = new Promise<string>((resolve) => {
    release = resolve;
  });
  let lives = 0;
  class Busy extends Probe {
    override started(context: Context<TestMessage>): void {
      lives += 1;
      if (lives > 1) return;
      context.schedule(500, { type: 'note', value: 'an old timer' });
      context.pipe(
        late,
        (value) => ({ type: 'note', value }),
        () => ({ type: 'note', value: 'failed' }),
      );
    }
  }
  const actor = system.spawn('busy', () => new Busy('busy', events), { supervision: restart });
  await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('x') }, soon));
  await clock.advance(200);
  release('an old result');
  await clock.advance(1_000);
  assert.equal(lives, 2);
  assert.deepEqual(events, ['busy stopping']);
});

test('children that crash while their parent restarts do not count as further crashes', async () => {
  const events: string[] = [];
  const { system, clock, crashes } = makeSystem();
  class Parent extends Probe {
    override started(context: Context<TestMessage>): void {
      super.started(context);
      for (const name of ['one', 'two']) context.spawn(name, () => new Probe(name, events));
    }
  }
  const supervision = { ...restart, restarts: 1 };
  const parent = system.spawn('parent', () => new Parent('parent', events), { supervision });
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  const waiting = system.ask(parent, { type: 'wait', until }, soon);
  await settle();
  events.length = 0;
  // The restart waits for the parent's handler, so the second child is still there to crash.
  for (const name of ['one', 'two']) {
    const child = system.wellKnown<TestMessage>(system.node, `parent/${name}`);
    await assert.rejects(system.ask(child, { type: 'throw', value: new Error(name) }, soon));
    await settle();
  }
  release(null);
  await waiting;
  await clock.advance(200);
  assert.deepEqual(crashes, []);
  assert.equal(events.filter((event) => event === 'parent started').length, 1);
  assert.equal(system.census.actors, 3);
});

test('a handler that outlives its life crashes nothing when it fails at last', async () => {
  const { system, clock, crashes } = makeSystem();
  class Parent extends Probe {
    override started(context: Context<TestMessage>): void {
      context.spawn('child', () => new Probe('child', []));
    }
  }
  const supervision = { ...restart, restarts: 1 };
  const parent = system.spawn('parent', () => new Parent('parent', []), { supervision });
  await settle();
  let fail: (error: Error) => void = () => {};
  const until = new Promise((_, reject) => {
    fail = reject;
  });
  const waiting = system.ask(parent, { type: 'wait', until }, { deadlineMilliseconds: 60_000 });
  const failed = assert.rejects(waiting, /late/);
  const child = system.wellKnown<TestMessage>(system.node, 'parent/child');
  await assert.rejects(system.ask(child, { type: 'throw', value: new Error('child') }, soon));
  await clock.advance(6_000);
  fail(new Error('late'));
  await failed;
  await clock.advance(1_000);
  assert.deepEqual(crashes, []);
  assert.equal(await system.ask(parent, { type: 'echo', value: 'next life' }, soon), 'next life');
});

test('an end during a restart waits until the old life has stopped', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  let finish = () => {};
  class Slow extends Probe {
    override async stopping(context: Context<TestMessage>): Promise<void> {
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      await super.stopping(context);
    }
  }
  const actor = system.spawn('actor', () => new Slow('actor', events), { supervision: restart });
  system.watch(actor, () => events.push('down'));
  await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('x') }, soon));
  await settle();
  const stopped = system.stop(1_000);
  await settle();
  assert.deepEqual(events, ['actor started']);
  finish();
  await stopped;
  assert.deepEqual(events, ['actor started', 'actor stopping', 'down']);
});

test('an end during the back-off of a restart ends it at once and leaves no timer', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', events), { supervision: restart });
  await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('x') }, soon));
  await clock.advance(1);
  await system.stop(1_000);
  assert.equal(clock.pending, 0);
  await clock.advance(1_000);
  assert.deepEqual(events, ['actor started', 'actor stopping']);
});

test('an asker whose answer was deferred hears of the crash at once', async () => {
  const { system } = makeSystem();
  class Deferring extends Probe {
    override async receive(message: TestMessage, context: Context<TestMessage>): Promise<void> {
      if (message.type === 'echo') context.deferReply(message);
      else await super.receive(message, context);
    }
  }
  for (const supervision of [restart, { onCrash: 'stop' }] as const) {
    const name = `deferring-${supervision.onCrash}`;
    const actor = system.spawn(name, () => new Deferring(name, []), { supervision });
    const deferred = system.ask(actor, { type: 'echo', value: 1 }, { deadlineMilliseconds: 60_000 });
    await settle();
    system.crash(name, new Error('an injected crash'));
    await assert.rejects(deferred, {
      code: 'WEIGHTCAST_ACTOR_STOPPED',
      message: `${name} crashed: an injected crash`,
    });
  }
});

test('an actor with restarts for ever is started again at the rate of its longest wait', async () => {
  const { system, clock, crashes } = makeSystem();
  const supervision = { ...restart, restarts: Number.POSITIVE_INFINITY };
  const actor = system.spawn('actor', () => new Probe('actor', []), { supervision });
  for (let crash = 0; crash < 100; crash += 1) {
    system.crash('actor', new Error('again'));
    await clock.advance(150);
  }
  assert.equal(await system.ask(actor, { type: 'echo', value: 'alive' }, soon), 'alive');
  assert.deepEqual(crashes, []);
});
