import assert from 'node:assert/strict';
import { checkpointAt, type TensorShape } from '../../simulation/checkpoint.ts';
import { SimulatedCluster } from '../../simulation/cluster.ts';
import { checkIdle } from '../../simulation/invariants.ts';
import type { Trace } from '../../simulation/trace.ts';
import { type Outcome, resultOf, type SimulatedUser } from '../../simulation/user.ts';
import type { SimulatedWorld, WorldOptions } from '../../simulation/world.ts';
import type { ClusterStatus } from '../../src/actors/protocol/status-values.ts';

/** Sixteen tensors of 4 MiB. */
export const model: readonly TensorShape[] = Array.from({ length: 16 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [2 * 2 ** 20],
}));

export const bucketBytes = 8 * 2 ** 20;
export const checkpoints = ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false));

const usual: WorldOptions = {
  seed: 1,
  worldSize: 4,
  ranksPerHost: 2,
  instances: [
    [0, 1],
    [2, 3],
  ],
  deviceCapacity: 2 ** 30,
  // Slow enough for an update to have a middle: it takes about half a second.
  deviceSlowness: 100,
  checkpoints,
  reports: true,
  pauses: false,
  spareCheckpoints: 2,
};

export interface Stage {
  readonly cluster: SimulatedCluster;
  readonly world: SimulatedWorld;
  readonly user: SimulatedUser;
  /** Lets virtual time pass until it is done, and demands that it succeeded. */
  succeeds<T>(work: Promise<Outcome<T>>): Promise<T>;
  /** Lets virtual time pass until it is done, and demands that it failed like that. */
  fails(work: Promise<Outcome<unknown>>, code: string | RegExp, message: RegExp): Promise<void>;
  status(): Promise<ClusterStatus>;
  /** Lets so many milliseconds of virtual time pass. */
  wait(milliseconds: number): Promise<void>;
  /** Waits for a moment in virtual time; fails if it does not come within a minute. */
  until(what: string, holds: () => boolean): Promise<void>;
  ready(): Promise<void>;
}

/**
 * A cluster whose ranks are ready and hold checkpoint `a`. What comes out must keep the invariants, and in the end
 * nothing may be left of what was taken.
 */
export async function onStage(options: Partial<WorldOptions>, play: Play): Promise<void> {
  const { violations, lines } = await perform(options, play);
  assert.deepEqual(violations, [], lines.join('\n'));
}

/** The same with something broken on purpose, which an invariant has to find. */
export async function onBrokenStage(
  violation: RegExp,
  options: Partial<WorldOptions>,
  play: Play,
): Promise<void> {
  const { violations } = await perform(options, play);
  assert.ok(
    violations.some((found) => violation.test(found)),
    `${violation} was to be found; found was: ${violations.join(', ')}`,
  );
}

type Play = (stage: Stage) => Promise<void>;

async function perform(options: Partial<WorldOptions>, play: Play): Promise<Trace> {
  const cluster = new SimulatedCluster({ ...usual, ...options });
  const { world } = cluster;
  const user = cluster.user();
  const stage: Stage = {
    cluster,
    world,
    user,
    async succeeds(work) {
      return resultOf(await cluster.complete(work));
    },
    async fails(work, code, message) {
      const outcome = await cluster.complete(work);
      assert.ok(!outcome.ok, 'it was expected to fail');
      assert.match(outcome.error.message, message);
      if (typeof code === 'string') assert.equal(outcome.error.code, code);
      else assert.match(outcome.error.code, code);
    },
    status: () => stage.succeeds(user.status()),
    wait: (milliseconds) => world.clock.advance(milliseconds),
    async until(what, holds) {
      assert.ok(await world.clock.advanceUntil(holds, 60_000), `it did not come about that ${what}`);
    },
    async ready() {
      await stage.succeeds(user.awaitReady());
    },
  };
  try {
    await stage.ready();
    await stage.succeeds(user.register('a', '/models/a'));
    await play(stage);
    await world.clock.advance(40_000);
    checkIdle(cluster);
    await cluster.stop();
    assert.equal(world.network.nodes.length, 0, 'all processes have left');
    return world.trace;
  } finally {
    cluster.abandon();
  }
}

/** What every instance is said to serve. */
export function versionsOf({ instances }: ClusterStatus): (string | null)[] {
  return instances.map(({ version }) => (version === null ? null : version.checkpoint));
}
