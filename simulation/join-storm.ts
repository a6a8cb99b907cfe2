import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import { checkpointAt, type TensorShape } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { checkIdle } from './invariants.ts';
import { type Outcome, resultOf } from './user.ts';

/** Each instance has a host of its own. */
const ranksPerHost = 2;
/** Bytes a millisecond: 100 Gbit/s in each direction. */
const linkRate = 12.5e6;
/** Timers that only look whether something still runs end meanwhile. */
const quietMilliseconds = 1_000;

export interface StormOptions {
  readonly seed: number;
  /** How many instances, each on a host of its own, join in the same moment. */
  readonly joiners: number;
  /** How many serve before, and hold the whole checkpoint. */
  readonly sources: number;
  readonly model: readonly TensorShape[];
  /** All by one update, or each by its own, as if each knew nothing of the others. */
  readonly together: boolean;
}

export interface StormResult {
  /** From the moment in which the joiners come until the last of them serves; a joiner's process takes some of it. */
  readonly milliseconds: number;
  readonly reports: readonly UpdateReport[];
  /** Bytes that went out of the hosts that served before. */
  readonly givenBySources: number;
  readonly events: number;
  readonly violations: readonly string[];
}

/**
 * Many instances join a cluster in the same moment, over hosts that have one network card each; all in virtual time, and
 * without faults. Throws if one of them fails.
 */
export async function joinStorm(options: StormOptions): Promise<StormResult> {
  const { seed, joiners, sources, model, together } = options;
  const hosts = sources + joiners;
  const cluster = new SimulatedCluster({
    seed,
    worldSize: hosts * ranksPerHost,
    ranksPerHost,
    instances: Array.from({ length: hosts }, (_, host) => [ranksPerHost * host, ranksPerHost * host + 1]),
    firstInstances: sources,
    reach: 'host',
    linkRate,
    deviceCapacity: 80e9,
    deviceSlowness: 1,
    checkpoints: [checkpointAt('/models/large', model, false)],
    reports: true,
    pauses: false,
    spareCheckpoints: 0,
    isCalm: true,
  });
  const { clock, trace } = cluster.world;
  try {
    const user = cluster.user();
    const succeeds = async <T>(work: Promise<Outcome<T>>) => resultOf(await cluster.complete(work));
    await succeeds(user.awaitReady());
    await succeeds(user.register('large', '/models/large'));
    // Each has loaded a part, and receives the others' parts.
    await succeeds(user.update('large'));
    const givenBefore = givenBy(cluster, sources);
    const startedAt = clock.now();
    const numbers = Array.from({ length: joiners }, (_, index) => sources + index);
    const joins = numbers.map(async (number) => {
      const instance = cluster.instance(number);
      resultOf(await user.addInstance(instance));
      return together ? null : resultOf(await user.update('large', { instances: [instance.name] }));
    });
    const own = await cluster.complete(Promise.all(joins));
    const reports = together
      ? [await succeeds(user.update('large', { instances: numbers.map((number) => `engine-${number}`) }))]
      : own.flatMap((report) => report ?? []);
    const milliseconds = clock.now() - startedAt;
    await succeeds(user.status());
    await clock.advance(quietMilliseconds);
    checkIdle(cluster);
    const givenBySources = givenBy(cluster, sources) - givenBefore;
    await cluster.stop();
    return { milliseconds, reports, givenBySources, events: trace.events, violations: trace.violations };
  } finally {
    cluster.abandon();
  }
}

/** Bytes that the first so many hosts have given. */
function givenBy({ world: { hosts, fabrics } }: SimulatedCluster, count: number): number {
  return hosts.slice(0, count).reduce((sum, host) => sum + fabrics.givenBy(host), 0);
}
