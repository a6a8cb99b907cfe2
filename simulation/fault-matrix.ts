import { checkpointAt } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { checkIdle } from './invariants.ts';
import type { Outcome, SimulatedUser } from './user.ts';
import type { WorldOptions } from './world.ts';

/** What a fault hits, what it does, and why that is impossible at some moments. */
export interface Fault {
  readonly who: string;
  readonly how: string;
  /** Moments at which it cannot harm: why. */
  readonly impossible: Partial<Record<Moment, string>>;
  inject(cluster: SimulatedCluster): void;
  /** Ends what does not pass on its own. */
  heal?(cluster: SimulatedCluster): void;
}

/** When a fault happens. Each but the first is within a request. */
export const moments = ['idle', 'registration', 'planning', 'pausing', 'streaming', 'joining'] as const;
export type Moment = (typeof moments)[number];

/** What became of one cell of the matrix. Times are virtual milliseconds from the fault on. */
export interface CellResult {
  readonly who: string;
  readonly how: string;
  readonly when: Moment;
  /** Until the request that was under way was answered, or a status was asked for and given. Null: never. */
  readonly answered: number | null;
  /** What the answer was: `succeeded`, or the code of its error and what became of the instances. */
  readonly answer: string;
  /** Until an update that is tried again and again has brought all instances to one version. Null: never. */
  readonly recovered: number | null;
  /** Registered checkpoints that are gone. */
  readonly lost: number;
  /** Invariants that were violated, leaks among them. */
  readonly violations: readonly string[];
}

/** Sixteen tensors of 4 MiB, and as many of others. */
const model = Array.from({ length: 16 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [2 * 2 ** 20],
}));
const options: WorldOptions = {
  seed: 1,
  worldSize: 6,
  ranksPerHost: 2,
  instances: [[0], [1], [2, 3], [4, 5]],
  // The last one joins.
  firstInstances: 3,
  reach: 'host',
  deviceCapacity: 2 ** 30,
  // Slow enough for a fault to hit every step.
  deviceSlowness: 100,
  linkRate: 1e5,
  checkpoints: ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false)),
  reports: true,
  pauses: true,
  isCalm: true,
  spareCheckpoints: 2,
};
const bucketBytes = 8 * 2 ** 20;
const timeoutMilliseconds = 20_000;
/** Longer than any deadline of a request. */
const unboundedMilliseconds = 120_000;
const againMilliseconds = 250;
const quietMilliseconds = 60_000;

/** Runs one cell on a cluster of its own, which holds checkpoint `a` in all of its instances. */
export async function runCell(fault: Fault, when: Moment): Promise<CellResult> {
  const cluster = new SimulatedCluster(options);
  const { clock, trace } = cluster.world;
  const user = cluster.user();
  const { who, how } = fault;
  try {
    await prepared(cluster, user, when);
    const before = (await cluster.complete(user.status())) as Ok<ReturnType<SimulatedUser['status']>>;
    const request = begin(cluster, user, when);
    await clock.advanceUntil(() => hasCome(cluster, when), 10_000);
    const at = clock.now();
    fault.inject(cluster);
    const outcome = await settled(cluster, request ?? user.status());
    const answered = outcome === null ? null : clock.now() - at;
    fault.heal?.(cluster);
    const recovered = await recovery(cluster, user, at);
    const after = await cluster.complete(user.status());
    const names = after.ok ? after.value.checkpoints.map(({ checkpoint }) => checkpoint) : [];
    const lost = before.value.checkpoints.filter(({ checkpoint }) => !names.includes(checkpoint)).length;
    await clock.advance(quietMilliseconds);
    checkIdle(cluster);
    await cluster.stop();
    const answer = answerOf(outcome);
    return { who, how, when, answered, answer, recovered, lost, violations: trace.violations };
  } finally {
    cluster.abandon();
  }
}

type Ok<P> = Extract<Awaited<P>, { readonly ok: true }>;

async function prepared(cluster: SimulatedCluster, user: SimulatedUser, when: Moment): Promise<void> {
  const steps = [
    () => user.awaitReady(),
    () => user.register('a', '/models/a'),
    () => user.update('a'),
    ...(when === 'joining' ? [() => user.addInstance(cluster.instance(3))] : []),
  ];
  for (const step of steps) {
    const done = await cluster.complete(step() as Promise<Outcome<unknown>>);
    if (!done.ok) throw done.error;
  }
}

/** The request during which the fault happens; null if none runs. */
function begin(
  cluster: SimulatedCluster,
  user: SimulatedUser,
  when: Moment,
): Promise<Outcome<unknown>> | null {
  if (when === 'idle') return null;
  if (when === 'registration') return user.register('b', '/models/b');
  const instances = when === 'joining' ? { instances: [cluster.instance(3).name] } : {};
  return user.update('a', { bucketBytes, timeoutMilliseconds, ...instances });
}

function hasCome({ world, supervisor }: SimulatedCluster, when: Moment): boolean {
  const [first] = world.engines;
  switch (when) {
    case 'idle':
      return true;
    case 'registration':
    case 'planning':
      return supervisor.system.census.asks > 0;
    case 'pausing':
      return first!.isPaused || first!.isPausing;
    case 'streaming':
      return world.engines.slice(0, 3).every(({ isBroken }) => isBroken);
    case 'joining':
      return world.hosts.some((host) => world.fabrics.servedBy(host) > 40e6);
  }
}

/** Null if it is never answered. */
async function settled(
  { world }: SimulatedCluster,
  work: Promise<Outcome<unknown>>,
): Promise<Outcome<unknown> | null> {
  const found: Outcome<unknown>[] = [];
  void work.then((outcome) => found.push(outcome));
  await world.clock.advanceUntil(() => found.length > 0, unboundedMilliseconds);
  return found[0] ?? null;
}

/** Milliseconds since `at` when an update has updated all instances; null if none does. */
async function recovery(cluster: SimulatedCluster, user: SimulatedUser, at: number): Promise<number | null> {
  const { clock } = cluster.world;
  const end = clock.now() + unboundedMilliseconds;
  while (clock.now() < end) {
    const updated = await cluster.complete(user.update('a', { timeoutMilliseconds, atomic: true }));
    if (updated.ok) return clock.now() - at;
    await clock.advance(againMilliseconds);
  }
  return null;
}

function answerOf(outcome: Outcome<unknown> | null): string {
  if (outcome === null) return 'none';
  if (!outcome.ok) return outcome.error.code.replace('WEIGHTCAST_', '');
  const { instances } = outcome.value as { readonly instances?: readonly { readonly outcome?: string }[] };
  const failed = (instances ?? []).filter((one) => one.outcome !== undefined && one.outcome !== 'updated');
  if (failed.length === 0) return 'succeeded';
  const broken = failed.filter((one) => one.outcome === 'broken').length;
  return `${instances!.length - failed.length} updated, ${broken} broken, ${failed.length - broken} unchanged`;
}
