import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as z from 'zod';
import { settle } from '../../../simulation/clock.ts';
import { SimulatedNetwork } from '../../../simulation/network.ts';
import type { Down } from '../../../src/actors/kernel/index.ts';
import { makeSystem, Probe, soon, type TestMessage } from './harness.ts';

const accepts = z.object({ type: z.string() }).loose() as never;

test('a watch fires once, with the reason', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  const downs: Down[] = [];
  system.watch(actor, (down) => downs.push(down));
  await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('why') }, soon));
  await settle();
  assert.deepEqual(
    downs.map(({ ref, reason }) => [ref.name, reason]),
    [['actor', 'crashed: why']],
  );
});

test('a watch on an actor that has ended, or never existed, fires at once', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  await assert.rejects(system.ask(actor, { type: 'throw', value: new Error('end') }, soon));
  await settle();
  const reasons: string[] = [];
  system.watch(actor, ({ reason }) => reasons.push(reason));
  system.watch({ node: system.node, name: 'nobody', generation: 99 }, ({ reason }) => reasons.push(reason));
  assert.deepEqual(reasons, ['stopped', 'never existed']);
});

test('an ended watch does not fire', async () => {
  const { system } = makeSystem();
  const actor = system.spawn('actor', () => new Probe('actor', []));
  const unwatch = system.watch(actor, () => assert.fail('the watch was ended'));
  unwatch();
  await system.stop(1_000);
});

/** Two systems that can reach each other, and an actor on the far one. */
async function twoNodes() {
  const network = new SimulatedNetwork();
  const here = makeSystem(network.join('here~1'));
  const there = makeSystem(network.join('there~1'));
  const actor = there.system.spawn('actor', () => new Probe('actor', []), { accepts });
  await settle();
  return { network, here, there, actor };
}

test('the end of an actor fires a watch on another node', async () => {
  const { here, there, actor } = await twoNodes();
  const reasons: string[] = [];
  here.system.watch(actor, ({ reason }) => reasons.push(reason));
  await settle();
  await there.system.stop(1_000);
  await settle();
  assert.deepEqual(reasons, ['the actor system stops']);
});

test('when a node is killed, all watches on it fire and all asks to it fail', async () => {
  const { network, here, there, actor } = await twoNodes();
  const second = there.system.spawn('second', () => new Probe('second', []), { accepts });
  const reasons: string[] = [];
  for (const ref of [actor, second]) here.system.watch(ref, ({ reason }) => reasons.push(reason));
  const asked = assert.rejects(here.system.ask(actor, { type: 'echo', value: 1 }, soon), {
    code: 'WEIGHTCAST_PEER_LOST',
  });
  network.kill('there~1');
  await asked;
  await settle();
  assert.deepEqual(reasons, ['killed', 'killed']);
  here.system.watch(actor, ({ reason }) => reasons.push(reason));
  assert.match(reasons[2]!, /out of reach/);
});

test('a watch from a node that is gone is dropped', async () => {
  const { network, here, there, actor } = await twoNodes();
  here.system.watch(actor, () => assert.fail('this node is gone'));
  await settle();
  network.kill('here~1');
  await settle();
  await there.system.stop(1_000);
  await settle();
});

test('a remote watch on an actor that never existed fires', async () => {
  const { here } = await twoNodes();
  const reasons: string[] = [];
  here.system.watch({ node: 'there~1', name: 'nobody', generation: 99 }, ({ reason }) =>
    reasons.push(reason),
  );
  await settle();
  assert.deepEqual(reasons, ['never existed']);
});

test('an actor that watches gets one message, also across a node', async () => {
  const { here, there, actor } = await twoNodes();
  const events: string[] = [];
  class Watcher extends Probe {
    override started(context: Parameters<Probe['started']>[0]): void {
      const toMessage = ({ reason }: Down): TestMessage => ({ type: 'note', value: reason });
      context.watch(actor, toMessage);
      context.watch(actor, toMessage);
    }
  }
  here.system.spawn('watcher', () => new Watcher('watcher', events));
  await settle();
  await there.system.stop(1_000);
  await settle();
  assert.deepEqual(events, ['watcher got the actor system stops']);
});
