import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { settle } from '../../../simulation/clock.ts';
import type { Context, Reply } from '../../../src/actors/kernel/index.ts';
import { contextOf, makeSystem, Probe, soon, type TestMessage } from './harness.ts';

test('an ask ends at its deadline, and a late answer changes nothing', async () => {
  const { system, clock } = makeSystem();
  const actor = system.spawn('slow', () => new Probe('slow', []));
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  const answer = assert.rejects(system.ask(actor, { type: 'wait', until }, soon), {
    code: 'WEIGHTCAST_DEADLINE',
  });
  await clock.advance(1_000);
  await answer;
  release(null);
  await settle();
  assert.equal(await system.ask(actor, { type: 'echo', value: 'well' }, soon), 'well');
});

test('an ask can be cancelled', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('slow', () => new Probe('slow', []));
  const abort = new AbortController();
  const options = { ...soon, signal: abort.signal };
  const answer = system.ask(actor, { type: 'wait', until: new Promise(() => {}) }, options);
  abort.abort(new Error('no longer needed'));
  await assert.rejects(answer, { code: 'WEIGHTCAST_ABORTED', message: /no longer needed/ });
  await assert.rejects(system.ask(actor, { type: 'echo', value: 1 }, options), {
    code: 'WEIGHTCAST_ABORTED',
  });
});

test('an ask listens to the signals that may cancel it until it is answered, and no longer', async () => {
  const { system } = makeSystem();
  const callee = system.spawn('callee', () => new Probe('callee', []));
  const caller = await contextOf(system, 'caller');
  const { signal } = new AbortController();
  const listeners = () => [caller.signal, signal].map((one) => getEventListeners(one, 'abort').length);
  const asks = Array.from({ length: 50 }, (_, value) =>
    caller.ask(callee, { type: 'echo', value }, { ...soon, signal }),
  );
  assert.deepEqual(listeners(), [1, 1]);
  await Promise.all(asks);
  assert.deepEqual(listeners(), [0, 0]);
});

test('one signal cancels all asks that were given it, and no others', async () => {
  const { system, clock } = makeSystem();
  const callee = system.spawn('slow', () => new Probe('slow', []));
  const caller = await contextOf(system, 'caller');
  const abort = new AbortController();
  const forever = { type: 'wait', until: new Promise(() => {}) } as const;
  const cancelled = Array.from({ length: 20 }, () =>
    assert.rejects(caller.ask(callee, forever, { ...soon, signal: abort.signal }), {
      code: 'WEIGHTCAST_ABORTED',
      message: /enough/,
    }),
  );
  const other = assert.rejects(caller.ask(callee, forever, soon), { code: 'WEIGHTCAST_DEADLINE' });
  abort.abort(new Error('enough'));
  await Promise.all(cancelled);
  assert.equal(system.census.asks, 1);
  await clock.advance(1_000);
  await other;
});

test('an ask of an actor ends with that actor', async () => {
  const { system } = makeSystem();
  const callee = system.spawn('slow', () => new Probe('slow', []));
  const caller = await contextOf(system, 'caller');
  const { signal } = new AbortController();
  const answer = caller.ask(callee, { type: 'wait', until: new Promise(() => {}) }, { ...soon, signal });
  const refused = assert.rejects(answer, { code: 'WEIGHTCAST_ABORTED', message: /caller: stopped/ });
  await caller.stop();
  await refused;
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});

test('a handler that gives no answer fails the ask at once', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('forgetful', () => new Probe('forgetful', []));
  await assert.rejects(system.ask(actor, { type: 'ignore' }, soon), /forgetful gave no answer to ignore/);
});

test('a deferred answer may come later, and only once', async () => {
  const { system } = makeSystem();
  let kept: Reply<unknown> | null = null;
  class Deferring extends Probe {
    override async receive(message: TestMessage, context: Context<TestMessage>): Promise<void> {
      if (message.type === 'echo') kept = context.deferReply(message);
    }
  }
  const actor = system.spawn('deferring', () => new Deferring('deferring', []));
  const answer = system.ask(actor, { type: 'echo', value: 1 }, soon);
  await settle();
  kept!.succeed('first');
  kept!.succeed('second');
  assert.equal(await answer, 'first');
});

test('answers reach their askers when many ask at once', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('echo', () => new Probe('echo', []));
  const values = Array.from({ length: 1_000 }, (_, index) => index);
  const answers = await Promise.all(values.map((value) => system.ask(actor, { type: 'echo', value }, soon)));
  assert.deepEqual(answers, values);
});

test('a ref to an ended actor does not reach the next one of that name', async () => {
  const { system } = makeSystem();
  const old = system.spawn('name', () => new Probe('old', []));
  await assert.rejects(system.ask(old, { type: 'throw', value: new Error('end') }, soon));
  await settle();
  const events: string[] = [];
  const next = system.spawn('name', () => new Probe('next', events));
  system.tell(old, { type: 'note', value: 'for the old one' });
  await assert.rejects(system.ask(old, { type: 'echo', value: 1 }, soon), {
    code: 'WEIGHTCAST_ACTOR_STOPPED',
  });
  assert.equal(await system.ask(next, { type: 'echo', value: 2 }, soon), 2);
  assert.deepEqual(events, ['next started']);
  assert.equal(system.counters.deadLetters, 2);
});

test('a message is handled whatever the moment within a turn of its receiver in which it arrives', async () => {
  const events: string[] = [];
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', events));
  for (let ticks = 0; ticks < 30; ticks += 1) {
    let moment: Promise<unknown> = system.ask(actor, { type: 'echo', value: ticks }, soon);
    for (let tick = 0; tick < ticks; tick += 1) moment = moment.then(() => {});
    await moment;
    system.tell(actor, { type: 'note', value: ticks });
    await settle();
    assert.equal(events.at(-1), `actor got ${ticks}`);
  }
});
