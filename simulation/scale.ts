import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import { checkpointAt } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { checkIdle } from './invariants.ts';
import { type Outcome, resultOf } from './user.ts';

/** Every tensor fills one bucket. */
const tensorBytes = 32 * 2 ** 20;
/** Larger clusters have larger instances, not more of them. */
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
 * Runs one update of a cluster of any size, without faults; throws if anything fails. Calls `onPhase` at the end of each
 * phase, so that the caller can measure its real time.
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
    instances: divideEvenly(ranks, Math.min(ranks, mostInstances)),
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

function divideEvenly(ranks: number, instances: number): number[][] {
  const divided: number[][] = Array.from({ length: instances }, () => []);
  for (let rank = 0; rank < ranks; rank += 1) divided[Math.floor((rank * instances) / ranks)]!.push(rank);
  return divided;
}

async function succeeds<T>(cluster: SimulatedCluster, work: Promise<Outcome<T>>): Promise<T> {
  return resultOf(await cluster.complete(work));
}
