import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ActorRef } from '../../../src/actors/kernel/index.ts';
import type { BridgeMessage } from '../../../src/actors/protocol/bridge.ts';
import type { Instance } from '../../../src/actors/protocol/instance.ts';
import type { RememberedInstance } from '../../../src/actors/protocol/remembered-values.ts';
import { InstanceRegistry } from '../../../src/actors/supervisor/instance-registry.ts';

const options: Instance = { name: 'a', endpoint: 'http://engine', workers: [{ rank: 0 }] };
const bridge = { node: 'supervisor~1', name: 'bridge', generation: 1 } as ActorRef<BridgeMessage>;
const version = { checkpoint: 'one', digest: '0'.repeat(64) };

/** A registry with instance `a`, and what its supervisor remembers of it; `left` by the supervisor before. */
function registry(left: readonly RememberedInstance[] = []) {
  const lives = { remembered: [] as RememberedInstance[] };
  const instances = new InstanceRegistry((remembered) => {
    lives.remembered = remembered;
    return null;
  });
  const undecided = instances.recall(left);
  instances.add(options, bridge);
  return { instances, undecided, lives };
}

/** Its supervisor died when epoch 7 had begun to change it. */
function amidAnUpdate() {
  const { instances, lives } = registry();
  instances.touched(['a'], 3);
  instances.ended('a', 'updated', { ...version, layout: '' } as never);
  instances.paused('a', true);
  instances.touched(['a'], 7);
  return lives.remembered;
}

test('an instance that nothing has reached holds what it held, though two supervisors died before that was known', () => {
  const second = registry(amidAnUpdate());
  assert.equal(second.instances.status()[0]!.state, 'broken');
  const third = registry(second.lives.remembered);
  const touched = third.undecided.get('a')!;
  assert.equal(touched.epoch, 7);
  assert(!third.instances.isLeftPaused('a'));
  third.instances.decide('a', touched, false);
  assert.deepEqual(third.instances.status()[0]!.version, version);
  assert(third.instances.isLeftPaused('a'));
  assert.deepEqual(registry(third.lives.remembered).undecided, new Map());
});

test('an instance that an update has taken over meanwhile is not what it was before', () => {
  const { instances, undecided } = registry(amidAnUpdate());
  instances.touched(['a'], 9);
  instances.ended('a', 'broken', { ...version, layout: '' } as never);
  instances.decide('a', undecided.get('a')!, false);
  assert.equal(instances.status()[0]!.state, 'broken');
  assert(!instances.mayServe('a'));
});

test('an instance that was changed stays broken, for later supervisors too', () => {
  const { instances, undecided, lives } = registry(amidAnUpdate());
  instances.decide('a', undecided.get('a')!, true);
  assert.equal(instances.status()[0]!.state, 'broken');
  assert.deepEqual(registry(lives.remembered).undecided, new Map());
});
