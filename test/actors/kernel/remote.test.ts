import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as z from 'zod';
import { settle } from '../../../simulation/clock.ts';
import { SimulatedNetwork } from '../../../simulation/network.ts';
import type { Context } from '../../../src/actors/kernel/index.ts';
import { makeSystem, Probe, soon, type TestMessage } from './harness.ts';

const accepts = z.discriminatedUnion('type', [
  z.object({ type: z.literal('echo'), value: z.number() }),
  z.object({ type: z.literal('note'), value: z.string() }),
]) as unknown as z.ZodType<TestMessage>;

async function twoNodes() {
  const network = new SimulatedNetwork();
  const transport = network.join('here~1');
  const here = makeSystem(transport).system;
  const otherTransport = network.join('there~1');
  const there = makeSystem(otherTransport).system;
  const events: string[] = [];
  const actor = there.spawn('actor', () => new Probe('actor', events), { accepts });
  const closed = there.spawn('closed', () => new Probe('closed', events));
  await settle();
  events.length = 0;
  return { transport, otherTransport, here, there, actor, closed, events };
}

test('local and remote refs look the same', async () => {
  const { here, there, actor } = await twoNodes();
  assert.equal(await here.ask(actor, { type: 'echo', value: 1 }, soon), 1);
  assert.equal(await there.ask(actor, { type: 'echo', value: 2 }, soon), 2);
  assert.equal(
    await here.ask(here.wellKnown<TestMessage>('there~1', 'actor'), { type: 'echo', value: 3 }, soon),
    3,
  );
});

test('a message from another process that has the wrong form is refused with the field at fault', async () => {
  const { here, there, actor, events } = await twoNodes();
  await assert.rejects(here.ask(actor, { type: 'echo', value: 'text' }, soon), {
    code: 'WEIGHTCAST_PROTOCOL',
    message: /actor refuses echo: value: .*number/,
  });
  here.tell(actor, { type: 'note', value: 7 });
  await settle();
  assert.deepEqual(events, []);
  assert.equal(there.counters.invalidMessages, 2);
});

test('an actor that declares nothing takes nothing from other processes', async () => {
  const { here, closed } = await twoNodes();
  await assert.rejects(
    here.ask(closed, { type: 'echo', value: 1 }, soon),
    /takes no messages from other processes/,
  );
});

test('a message to a node out of reach fails at once', async () => {
  const { here } = await twoNodes();
  const ref = here.wellKnown<TestMessage>('nowhere~1', 'actor');
  await assert.rejects(here.ask(ref, { type: 'echo', value: 1 }, soon), { code: 'WEIGHTCAST_PEER_LOST' });
  here.tell(ref, { type: 'note', value: 'lost' });
  assert.equal(here.counters.deadLetters, 1);
});

test('a peer whose queue is full fails the ask', async () => {
  const { transport, here, actor } = await twoNodes();
  transport.queueLimit = 2;
  const asks = [1, 2, 3].map((value) => here.ask(actor, { type: 'echo', value }, soon));
  const outcomes = await Promise.allSettled(asks);
  assert.deepEqual(
    outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : outcome.reason.code)),
    [1, 2, 'WEIGHTCAST_OVERLOADED'],
  );
});

test('an answer that does not fit a message fails the ask at once', async () => {
  const { here, there, otherTransport } = await twoNodes();
  otherTransport.messageLimit = 1_000;
  class Verbose extends Probe {
    override async receive(message: TestMessage, context: Context<TestMessage>): Promise<void> {
      if (message.type === 'echo') context.reply(message, new Uint8Array(1_001));
    }
  }
  const verbose = there.spawn('verbose', () => new Verbose('verbose', []), { accepts });
  await assert.rejects(here.ask(verbose, { type: 'echo', value: 1 }, soon), {
    code: 'WEIGHTCAST_PROTOCOL',
    message: /a message of \d+ bytes .* exceeds/,
  });
});

test('an error keeps its class across processes', async () => {
  const { here, there } = await twoNodes();
  const ref = { node: 'there~1', name: 'gone', generation: 5 };
  await assert.rejects(here.ask(ref, { type: 'echo' } as never, soon), { name: 'ActorStoppedError' });
  assert.equal(there.counters.deadLetters, 1);
});

test('an answer from a node that was not asked is dropped', async () => {
  const { transport, here, actor } = await twoNodes();
  const answer = here.ask(actor, { type: 'echo', value: 1 }, soon);
  transport.arrive('impostor~1', { kind: 'reply', id: 1, body: 'forged' });
  assert.equal(await answer, 1);
  assert.equal(here.counters.lateAnswers, 1);
});

test('messages of one sender arrive in order', async () => {
  const { here, actor, events } = await twoNodes();
  for (let value = 0; value < 100; value += 1) here.tell(actor, { type: 'note', value: String(value) });
  // Answered after all that was sent before it.
  await here.ask(actor, { type: 'echo', value: 0 }, soon);
  assert.deepEqual(
    events,
    Array.from({ length: 100 }, (_, value) => `actor got ${value}`),
  );
});
