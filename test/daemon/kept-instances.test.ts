/** Instances of a daemon without a cluster. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { InstanceOptions } from '../../src/actors/protocol/instance-options.ts';
import type { Cluster } from '../../src/cluster/cluster.ts';
import { EngineList } from '../../src/daemon/access.ts';
import type { ClusterKeeper } from '../../src/daemon/cluster-keeper.ts';
import type { EngineWatch } from '../../src/daemon/engine-watch.ts';
import { EventHub } from '../../src/daemon/event-hub.ts';
import { KeptInstances } from '../../src/daemon/kept-instances.ts';
import { UsageError } from '../../src/errors.ts';

/** With a cluster that notes what it is asked, and does it when `go` is called. */
function makeKept() {
  const said: string[] = [];
  const added: InstanceOptions[] = [];
  const there = new Set<string>();
  const waiting: (() => void)[] = [];
  const asked = async (what: string) => {
    said.push(what);
    await new Promise<void>((resolve) => waiting.push(resolve));
  };
  const cluster = {
    addInstance: async (options: InstanceOptions) => {
      const { name } = options;
      added.push(options);
      await asked(`add ${name}`);
      if (there.has(name)) throw new UsageError(`the cluster has ${name} already`);
      there.add(name);
      return { instances: [{ name, ranks: [0], state: 'serving', version: null }] };
    },
    removeInstance: async (name: string) => {
      await asked(`remove ${name}`);
      if (!there.delete(name)) throw new UsageError(`the cluster has no ${name}`);
    },
  } as unknown as Cluster;
  const keeper = { use: (work: (cluster: Cluster) => unknown) => work(cluster) } as ClusterKeeper;
  const watch = { check: async () => null, forget: () => {} } as unknown as EngineWatch;
  const kept = new KeptInstances(keeper, new EngineList([]), new EventHub(), watch);
  const go = async () => {
    await new Promise(setImmediate);
    for (const wake of waiting.splice(0)) wake();
    await new Promise(setImmediate);
  };
  const instance = { name: 'a', endpoint: 'http://127.0.0.1:8000', ranks: [0] };
  return { kept, said, added, go, instance };
}

test('of two who add one instance at once both have added it, or the second is told that it is another one', async () => {
  const { kept, said, go, instance } = makeKept();
  const added = [kept.add(instance), kept.add(instance)];
  await assert.rejects(kept.add({ ...instance, ranks: [1] }), { code: 'WEIGHTCAST_USAGE' });
  assert.throws(() => kept.check('a'), { code: 'WEIGHTCAST_BUSY' });
  await assert.rejects(kept.remove('a'), { code: 'WEIGHTCAST_BUSY' });
  await go();
  await Promise.all(added);
  kept.check('a');
  assert.deepEqual(said, ['add a']);
});

test('of two engines that are added at once without ranks each gets devices of its own', async () => {
  const { kept, added, go, instance } = makeKept();
  const { ranks: _, ...engine } = instance;
  const two = { ...engine, workerCount: 2 };
  const all = [
    kept.add(two),
    kept.add({ ...two, name: 'b', endpoint: 'http://127.0.0.1:8001' }),
    // A second trainer with the same engine.
    kept.add(two),
  ];
  await assert.rejects(kept.add({ ...two, workerCount: 3 }), { code: 'WEIGHTCAST_USAGE' });
  await assert.rejects(kept.add({ ...two, name: 'c', ranks: [7] }), /worker_count stands in place of ranks/);
  await go();
  await Promise.all(all);
  const workers = added.map(({ name, workers: [group] = [] }) => [name, group?.ranks, group?.devices]);
  assert.deepEqual(workers, [
    ['a', [0, 1], [0, 1]],
    ['b', [2, 3], [2, 3]],
  ]);
});

test('of two who remove one instance at once both have removed it; one that is added meanwhile stays', async () => {
  const { kept, said, go, instance } = makeKept();
  const first = kept.add(instance);
  await go();
  await first;
  const removed = [kept.remove('a'), kept.remove('a')];
  const again = kept.add(instance);
  await go();
  await Promise.all(removed);
  await go();
  await again;
  assert.deepEqual(said, ['add a', 'remove a', 'add a']);
  assert.deepEqual(kept.names, ['a']);
});
