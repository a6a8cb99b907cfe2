import type { UpdateReport } from '../src/actors/protocol/values.ts';
import { checkpointAt } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { checkIdle } from './invariants.ts';
import { type Outcome, resultOf } from './user.ts';

/** One bucket each. */
const tensorBytes = 32 * 2 ** 20;
/** As many as a supervisor can take: with more it has more than 32 children. */
const mostInstances = 16;
const ranksPerHost = 8;

/** Timers that only look whether something still runs end meanwhile. */
const quietMilliseconds = 1_000;

export type Phase = 'start' | 'register' | 'update' | 'stop';

export interface ScaleResult {
  readonly report: UpdateReport;
  readonly violations: readonly string[];
  readonly events: number;
}

/**
 * One update of a cluster of any size, without faults; throws if anything fails. `onPhase` is called at the end of each
 * phase, for those who want to know how long it took.
 */
export async function updateAtScale(
  ranks: number,
  buckets: number,
  onPhase: (phase: Phase) => void = () => {},
): Promise<ScaleResult> {
  const model = Array.from({ length: buckets }, (_, layer) => {
    return { name: `layers.${layer}.weight`, dtype: 'BF16', shape: [tensorBytes / 2] };
  });
  const cluster = new SimulatedCluster({
    seed: 1,
    worldSize: ranks,
    ranksPerHost,
    instances: divided(ranks, Math.min(ranks, mostInstances)),
    deviceCapacity: 8 * tensorBytes,
    deviceSlowness: 1,
    checkpoints: [checkpointAt('/models/large', model, false)],
    reports: true,
    pauses: false,
    spareCheckpoints: 2,
  });
  const { trace, clock } = cluster.world;
  try {
    const user = cluster.user();
    await succeeds(cluster, user.awaitReady());
    onPhase('start');
    await succeeds(cluster, user.register('large', '/models/large'));
    onPhase('register');
    const report = await succeeds(cluster, user.update('large', { bucketBytes: tensorBytes }));
    onPhase('update');
    await succeeds(cluster, user.status());
    await clock.advance(quietMilliseconds);
    checkIdle(cluster);
    await cluster.stop();
    onPhase('stop');
    return { report, violations: trace.violations, events: trace.events };
  } finally {
    cluster.abandon();
  }
}

function divided(ranks: number, instances: number): number[][] {
  const divided: number[][] = Array.from({ length: instances }, () => []);
  for (let rank = 0; rank < ranks; rank += 1) divided[Math.floor((rank * instances) / ranks)]!.push(rank);
  return divided;
}

async function succeeds<T>(cluster: SimulatedCluster, work: Promise<Outcome<T>>): Promise<T> {
  return resultOf(await cluster.complete(work));
}
