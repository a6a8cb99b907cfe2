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
async function check(answer: (instances: InstanceRegistry, options: AskOptions) => Promise<unknown>) {
  const instances = new InstanceRegistry();
  instances.add(instance, bridge);
  update(instances);
  const ask = (_to: unknown, _question: unknown, options: AskOptions) => answer(instances, options);
  const context = { clock: { now: () => 0 }, log: { debug: () => {} }, ask };
  const checks = new EngineChecks(instances, () => false);
  await checks.run(context as unknown as Context<SupervisorInbox>);
  return instances;
}

test('an engine that was started again is known to be another one, until it is updated', async () => {
  const instances = await check(async () => started);
  const isOther = () => instances.targets(['a'])[0]!.hasOtherEngine;
  assert.deepEqual([instances.status()[0]!.state, isOther()], ['unknown', true]);
  update(instances);
  assert.deepEqual([instances.status()[0]!.state, isOther()], ['serving', false]);
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
