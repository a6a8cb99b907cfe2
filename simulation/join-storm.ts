import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import { checkpointAt, type TensorShape } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { checkIdle } from './invariants.ts';
import { type Outcome, resultOf } from './user.ts';

/** One instance per host. */
const ranksPerHost = 2;
/** Bytes per millisecond: 100 Gbit/s in each direction. */
const linkRate = 12.5e6;
/** Long enough for periodic timers to find that nothing runs any more, and end. */
const quietMilliseconds = 1_000;

export interface StormOptions {
  readonly seed: number;
  /** How many instances, each on its own host, join at the same time. */
  readonly joiners: number;
  /** How many instances serve before and hold the whole checkpoint. */
  readonly sources: number;
  readonly model: readonly TensorShape[];
  /** Whether one update includes all joiners, or each joiner gets its own. */
  readonly together: boolean;
}

export interface StormResult {
  /** From when the joiners are added until the last of them serves; includes the start of their processes. */
  readonly milliseconds: number;
  readonly reports: readonly UpdateReport[];
  /** Bytes read from the hosts that served before. */
  readonly servedBySources: number;
  readonly events: number;
  readonly violations: readonly string[];
}

/**
 * Lets many instances join a cluster at the same time, on hosts with one network card each, in virtual time and without
 * faults. Throws if one of them fails.
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
    // Each source has loaded a part, and receives the other parts by this update.
    await succeeds(user.update('large'));
    const servedBefore = servedByFirst(cluster, sources);
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
    const servedBySources = servedByFirst(cluster, sources) - servedBefore;
    await cluster.stop();
    return { milliseconds, reports, servedBySources, events: trace.events, violations: trace.violations };
  } finally {
    cluster.abandon();
  }
}

/** Bytes that others have read from the first `count` hosts. */
function servedByFirst({ world: { hosts, fabrics } }: SimulatedCluster, count: number): number {
  return hosts.slice(0, count).reduce((sum, host) => sum + fabrics.servedBy(host), 0);
}
