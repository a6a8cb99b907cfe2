import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { settle } from '../../../simulation/clock.ts';
import type { Context } from '../../../src/actors/kernel/index.ts';
import { Mailbox } from '../../../src/actors/kernel/mailbox.ts';
import { makeSystem, Probe, soon, type TestMessage } from './harness.ts';

/** An actor that is busy until told otherwise, with a mailbox of three. */
async function busyActor(whenFull: 'reject' | 'drop-oldest') {
  const events: string[] = [];
  const { system } = makeSystem();
  const actor = system.spawn('busy', () => new Probe('busy', events), {
    mailbox: { limit: 3, whenFull },
    isSignal: (message) => message.type === 'note' && message.value === 'signal',
  });
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  system.ask(actor, { type: 'wait', until }, soon).catch(() => {});
  await settle();
  events.length = 0;
  return { system, actor, events, release };
}

test('a full mailbox refuses: an ask fails, a tell is counted', async () => {
  const { system, actor, events, release } = await busyActor('reject');
  for (const value of [1, 2, 3, 4]) system.tell(actor, { type: 'note', value });
  await assert.rejects(system.ask(actor, { type: 'echo', value: 5 }, soon), {
    code: 'WEIGHTCAST_OVERLOADED',
  });
  release(null);
  await settle();
  assert.deepEqual(events, ['busy got 1', 'busy got 2', 'busy got 3']);
  assert.equal(system.counters.refusedByMailbox, 2);
});

test('with drop-oldest the newest messages are kept', async () => {
  const { system, actor, events, release } = await busyActor('drop-oldest');
  for (const value of [1, 2, 3, 4, 5]) system.tell(actor, { type: 'note', value });
  release(null);
  await settle();
  assert.deepEqual(events, ['busy got 3', 'busy got 4', 'busy got 5']);
  assert.equal(system.counters.refusedByMailbox, 2);
});

test('a signal passes a full mailbox and overtakes what waits', async () => {
  const { system, actor, events, release } = await busyActor('reject');
  for (const value of [1, 2, 3]) system.tell(actor, { type: 'note', value });
  system.tell(actor, { type: 'note', value: 'signal' });
  release(null);
  await settle();
  assert.deepEqual(events, ['busy got signal', 'busy got 1', 'busy got 2', 'busy got 3']);
});

test('what an actor has caused itself enters a full mailbox in its turn: timers, watches, piped work, its children', async () => {
  const events: string[] = [];
  const { system, clock } = makeSystem();
  const other = system.spawn('other', () => new Probe('other', []));
  let context!: Context<TestMessage>;
  const note = (value: unknown) => ({ type: 'note', value }) as const;
  class Busy extends Probe {
    override started(given: Context<TestMessage>): void {
      context = given;
      given.watch(other, () => note('watch'));
      given.spawn<TestMessage>('child', () => ({ receive: () => given.tell(given.self, note('child')) }));
    }
  }
  const actor = system.spawn('busy', () => new Busy('busy', events), {
    mailbox: { limit: 1, whenFull: 'reject' },
  });
  let release: (value: unknown) => void = () => {};
  const until = new Promise((resolve) => {
    release = resolve;
  });
  system.ask(actor, { type: 'wait', until }, soon).catch(() => {});
  await settle();
  for (const value of ['others', 'refused']) system.tell(actor, note(value));
  context.schedule(5, note('timer'));
  context.pipe(
    Promise.resolve(),
    () => note('work'),
    () => note('failed'),
  );
  system.tell(system.wellKnown<TestMessage>(system.node, 'busy/child'), note('anything'));
  system.tell(other, { type: 'throw', value: new Error('x') } as never);
  await clock.advance(10);
  release(null);
  await settle();
  assert.deepEqual(events.toSorted(), [
    'busy got child',
    'busy got others',
    'busy got timer',
    'busy got watch',
    'busy got work',
  ]);
  assert.equal(system.counters.refusedByMailbox, 1);
});

test('signals are bounded too, but for those that the actor has caused itself', () => {
  const mailbox = new Mailbox<number>({ limit: 1, whenFull: 'reject' });
  let accepted = 0;
  while (mailbox.pushSignal(accepted).accepted) accepted += 1;
  assert.equal(accepted, 1_024);
  for (let watch = 0; watch < 4_096; watch += 1) assert.ok(mailbox.pushSignal(watch, true).accepted);
});

test('with drop-oldest no message is dropped that the actor has caused itself', () => {
  const mailbox = new Mailbox<string>({ limit: 2, whenFull: 'drop-oldest' });
  mailbox.push('own', true);
  for (const item of ['one', 'two', 'three']) mailbox.push(item);
  assert.deepEqual(mailbox.drain(), ['own', 'three']);
  mailbox.push('own', true);
  mailbox.push('own', true);
  assert.deepEqual(mailbox.push('other'), { accepted: false });
});

test('a mailbox keeps order and count over many messages', () => {
  const mailbox = new Mailbox<number>({ limit: 100_000, whenFull: 'reject' });
  let next = 0;
  for (let value = 0; value < 50_000; value += 1) {
    mailbox.push(value);
    if (value % 3 === 0) assert.equal(mailbox.shift(), next++);
  }
  assert.equal(mailbox.size, 50_000 - next);
  while (mailbox.size > 0) assert.equal(mailbox.shift(), next++);
  assert.equal(next, 50_000);
});

test('a mailbox keeps nothing of the messages that were taken out of it', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const mailbox = new Mailbox<object>({ limit: 1_000, whenFull: 'reject' });
  const taken: WeakRef<object>[] = [];
  mailbox.push({ stays: true });
  for (let count = 0; count < 100; count += 1) {
    mailbox.push({ count });
    taken.push(new WeakRef(mailbox.shift()!));
  }
  // A weak reference that was made keeps its object until the job ends.
  await settle();
  collect();
  assert.equal(mailbox.size, 1, 'the last one waits');
  assert.deepEqual(
    taken.filter((one) => one.deref() !== undefined),
    [],
  );
});
