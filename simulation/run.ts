import { SimulatedCluster } from './cluster.ts';
import type { FaultKind } from './faults.ts';
import type { Forger } from './forger.ts';
import { SeededRandom } from './random.ts';
import { randomWorld } from './random-world.ts';
import { Scenario } from './scenario.ts';

export interface RunOptions {
  readonly seed: number;
  /** Which faults may happen. Default: all. */
  readonly faults?: readonly FaultKind[];
  /** Whether instances leave, possibly while others receive from them. Default: true. */
  readonly leaving?: boolean;
  /** Sends ranks messages of past epochs at regular times. They must not change anything else in the run. */
  readonly forge?: { readonly everyMilliseconds: number; readonly times: number };
  /** How many events to keep as text. */
  readonly keepTrace?: number;
}

export interface RunResult {
  readonly seed: number;
  readonly violations: readonly string[];
  /** Digest of all events; the same for the same seed. */
  readonly digest: string;
  /** The last events. */
  readonly trace: readonly string[];
  readonly events: number;
  readonly faults: number;
  /** Number of forged messages that were refused. */
  readonly refused: number;
  /** Number of the user's requests that succeeded. */
  readonly succeeded: number;
  /** Number of those that failed, and their error codes. */
  readonly failed: number;
  readonly reasons: readonly string[];
  readonly virtualMilliseconds: number;
}

/** One run of a random cluster, with a user that works with it and faults at random moments. All follows from the seed. */
export async function run(options: RunOptions): Promise<RunResult> {
  const { seed, keepTrace, forge, faults, leaving } = options;
  const random = new SeededRandom(seed);
  const world = randomWorld(seed, random.stream('world'));
  const cluster = new SimulatedCluster({ ...world, ...(keepTrace !== undefined && { keepTrace }) });
  const scenario = new Scenario(cluster, random.stream('scenario'), { faults, leaving });
  const { trace, clock } = cluster.world;
  if (forge !== undefined) forgeRepeatedly(cluster, scenario.forger, forge);
  try {
    await scenario.run();
  } catch (error) {
    trace.violated((error as Error).stack ?? String(error));
  } finally {
    cluster.abandon();
  }
  return {
    seed,
    violations: trace.violations,
    digest: trace.digest,
    trace: trace.lines,
    events: trace.events,
    faults: scenario.faults,
    refused: scenario.forger.refused,
    succeeded: scenario.succeeded,
    failed: scenario.reasons.length,
    reasons: scenario.reasons,
    virtualMilliseconds: clock.now(),
  };
}

function forgeRepeatedly(
  { world }: SimulatedCluster,
  forger: Forger,
  { everyMilliseconds, times }: NonNullable<RunOptions['forge']>,
): void {
  const random = world.random.stream('forged');
  for (let time = 1; time <= times; time += 1)
    world.clock.after(time * everyMilliseconds, () => forger.forge(random));
}
