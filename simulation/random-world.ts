import { checkpointAt, randomModel } from './checkpoint.ts';
import type { SeededRandom } from './random.ts';
import type { WorldOptions } from './world.ts';

/** A small random cluster: ranks, hosts, instances, devices, link rates and three checkpoints. */
export function randomWorld(seed: number, random: SeededRandom): WorldOptions {
  const worldSize = random.pick([1, 2, 2, 3, 4, 4, 6, 8]);
  const instances: number[][] = [];
  for (let rank = 0; rank < worldSize; rank += 1) {
    if (instances.length === 0 || random.chance(0.4)) instances.push([]);
    instances.at(-1)!.push(rank);
  }
  const largestBytes = random.pick([2 ** 20, 2 ** 24, 2 ** 26]);
  const tensors = random.whole(2, 24);
  const inSharedMemory = random.chance(0.2);
  const [model, other] = [
    randomModel(random, tensors, largestBytes),
    randomModel(random, tensors, largestBytes),
  ];
  return {
    seed,
    worldSize,
    ranksPerHost: random.pick([1, 2, 8]),
    instances,
    firstInstances: random.whole(1, instances.length),
    reach: random.pick(['host', 'cluster']),
    nicsPerHost: random.pick([1, 2]),
    // From an update that is over at once to one whose reads take seconds.
    linkRate: random.pick([50e6, 1e6, 1e5]),
    // From just enough for two slots to plenty.
    deviceCapacity: Math.ceil(largestBytes * random.pick([2.5, 3.2, 4, 20])) + 2 ** 16,
    deviceSlowness: random.pick([1, 1, 10, 300]),
    checkpoints: [
      checkpointAt('/models/a', model, inSharedMemory),
      checkpointAt('/models/b', model, inSharedMemory),
      checkpointAt('/models/c', other, false),
    ],
    reports: random.chance(0.8),
    keepsParts: random.chance(0.5),
    pauses: random.chance(0.5),
    spareCheckpoints: random.pick([0, 1, 2]),
  };
}
