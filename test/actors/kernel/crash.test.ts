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

test('a handler may throw anything: the asker hears of it and the process lives', async () => {
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
