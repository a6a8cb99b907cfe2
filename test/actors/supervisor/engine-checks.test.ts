import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ActorRef, AskOptions, Context } from '../../../src/actors/kernel/index.ts';
import type { BridgeMessage } from '../../../src/actors/protocol/bridge.ts';
import type { Instance } from '../../../src/actors/protocol/instance.ts';
import { EngineChecks } from '../../../src/actors/supervisor/engine-checks.ts';
import type { SupervisorInbox } from '../../../src/actors/supervisor/inbox.ts';
import { InstanceRegistry } from '../../../src/actors/supervisor/instance-registry.ts';

const instance: Instance = { name: 'a', endpoint: 'http://engine', workers: [{ rank: 0 }] };
const bridge = { node: 'supervisor~1', name: 'bridge', generation: 1 } as ActorRef<BridgeMessage>;
const version = { checkpoint: 'one', digest: '0'.repeat(64) };
const started = { version: null, held: 'nothing' };

function update(instances: InstanceRegistry): void {
  instances.touched(['a'], 1);
  instances.ended('a', 'updated', version as never);
}

/** Checks an instance that serves. `answer`: of its bridge. */
async function check(
  answer: (instances: InstanceRegistry, options: AskOptions) => Promise<unknown>,
  times: readonly number[] = [0],
) {
  const instances = new InstanceRegistry();
  instances.add(instance, bridge);
  update(instances);
  instances.labelled('a', 'before');
  const ask = (_to: unknown, _question: unknown, options: AskOptions) => answer(instances, options);
  const checks = new EngineChecks(instances, () => false);
  for (const now of times) {
    const context = { clock: { now: () => now }, log: { debug: () => {} }, ask };
    await checks.run(context as unknown as Context<SupervisorInbox>);
  }
  return instances;
}

test('an engine that was started again is known to be another one, until it is updated', async () => {
  const instances = await check(async () => started);
  const isOther = () => instances.targets(['a'])[0]!.hasOtherEngine;
  assert.deepEqual([instances.status()[0]!.state, isOther()], ['unknown', true]);
  update(instances);
  assert.deepEqual([instances.status()[0]!.state, isOther()], ['serving', false]);
});

test('an engine that was not told its version is known by the name it had, until it says another', async () => {
  for (const [label, state] of [
    ['before', 'serving'],
    ['theirs', 'unknown'],
  ] as const) {
    const instances = await check(async () => ({ version: label, held: 'unknown' }));
    assert.equal(instances.status()[0]!.state, state, label);
  }
});

test('what an engine said before an update that has ended meanwhile says nothing of the same version given again', async () => {
  const instances = await check(async (held) => {
    update(held);
    return started;
  });
  assert.equal(instances.status()[0]!.state, 'serving');
});

test('an engine has one second in all to say what it holds: who asks for the status has fifteen', async () => {
  const instances = await check(async (_instances, { deadlineMilliseconds }) => {
    assert(deadlineMilliseconds <= 1_000);
    throw new Error('the deadline has passed');
  });
  assert.equal(instances.status()[0]!.state, 'serving');
});

test('however often the status is asked for, an engine, which answers between two steps, is asked every five seconds', async () => {
  let asked = 0;
  const answer = async () => {
    asked += 1;
    return { version: null, held: 'unknown' };
  };
  await check(answer, [0, 1_500, 3_000, 4_500, 6_000, 7_500]);
  assert.equal(asked, 2);
});
