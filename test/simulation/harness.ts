import assert from 'node:assert/strict';
import { checkpointAt, type TensorShape } from '../../simulation/checkpoint.ts';
import { SimulatedCluster } from '../../simulation/cluster.ts';
import { checkIdle } from '../../simulation/invariants.ts';
import type { Trace } from '../../simulation/trace.ts';
import { type Outcome, resultOf, type SimulatedUser } from '../../simulation/user.ts';
import type { SimulatedWorld, WorldOptions } from '../../simulation/world.ts';
import type { ClusterStatus } from '../../src/actors/protocol/status-values.ts';
import type { UpdateReport } from '../../src/actors/protocol/update-values.ts';

/** Sixteen tensors of 4 MiB. */
export const model: readonly TensorShape[] = Array.from({ length: 16 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [2 * 2 ** 20],
}));

export const bucketBytes = 8 * 2 ** 20;
export const checkpoints = ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false));

const defaultOptions: WorldOptions = {
  seed: 1,
  worldSize: 4,
  ranksPerHost: 2,
  instances: [
    [0, 1],
    [2, 3],
  ],
  deviceCapacity: 2 ** 30,
  // Slow enough for tests to act during an update, which takes about half a second.
  deviceSlowness: 100,
  checkpoints,
  reports: true,
  pauses: false,
  spareCheckpoints: 2,
};

export interface Fixture {
  readonly cluster: SimulatedCluster;
  readonly world: SimulatedWorld;
  readonly user: SimulatedUser;
  /** Lets virtual time pass until `work` is done, and asserts that it succeeded. */
  succeeds<T>(work: Promise<Outcome<T>>): Promise<T>;
  /** Lets virtual time pass until `work` is done, and asserts that it failed with that code and message. */
  fails(work: Promise<Outcome<unknown>>, code: string | RegExp, message: RegExp): Promise<void>;
  /**
   * Lets virtual time pass until an update is done, and asserts that it failed for that instance, with that code and message,
   * and for no other.
   */
  spares(
    update: Promise<Outcome<UpdateReport>>,
    name: string,
    code: string | RegExp,
    message: RegExp,
  ): Promise<UpdateReport>;
  status(): Promise<ClusterStatus>;
  /** Lets virtual time pass. */
  wait(milliseconds: number): Promise<void>;
  /** Lets virtual time pass until `holds` does; fails after a minute. `what` completes "timed out waiting until". */
  until(what: string, holds: () => boolean): Promise<void>;
  ready(): Promise<void>;
}

/**
 * Runs a test on a cluster whose ranks are ready and hold checkpoint `a`. Afterwards no invariant may be violated, and
 * all resources must be released.
 */
export async function withCluster(options: Partial<WorldOptions>, test: Test): Promise<void> {
  const { violations, lines } = await runTest(options, test);
  assert.deepEqual(violations, [], lines.join('\n'));
}

/** Like {@link withCluster}, for a test that breaks something on purpose: asserts that an invariant detects it. */
export async function expectViolation(
  violation: RegExp,
  options: Partial<WorldOptions>,
  test: Test,
): Promise<void> {
  const { violations } = await runTest(options, test);
  assert.ok(
    violations.some((found) => violation.test(found)),
    `expected a violation like ${violation}, got: ${violations.join(', ')}`,
  );
}

type Test = (fixture: Fixture) => Promise<void>;

async function runTest(options: Partial<WorldOptions>, test: Test): Promise<Trace> {
  const cluster = new SimulatedCluster({ ...defaultOptions, ...options });
  const { world } = cluster;
  const user = cluster.user();
  const fixture: Fixture = {
    cluster,
    world,
    user,
    async succeeds(work) {
      return resultOf(await cluster.complete(work));
    },
    async fails(work, code, message) {
      const outcome = await cluster.complete(work);
      assert.ok(!outcome.ok, 'it should have failed');
      assert.match(outcome.error.message, message);
      if (typeof code === 'string') assert.equal(outcome.error.code, code);
      else assert.match(outcome.error.code, code);
    },
    async spares(update, name, code, message) {
      const report = resultOf(await cluster.complete(update));
      const failed = report.instances.filter(({ error }) => error !== null);
      assert.deepEqual(
        failed.map((one) => one.name),
        [name],
      );
      const { error } = failed[0]!;
      assert.match(error!.message, message);
      assert.match(error!.code, typeof code === 'string' ? new RegExp(`^${code}$`) : code);
      const others = report.instances.filter((one) => one.name !== name);
      assert.ok(others.every(({ outcome, paused }) => outcome === 'updated' && !paused));
      return report;
    },
    status: () => fixture.succeeds(user.status()),
    wait: (milliseconds) => world.clock.advance(milliseconds),
    async until(what, holds) {
      assert.ok(await world.clock.advanceUntil(holds, 60_000), `timed out waiting until ${what}`);
    },
    async ready() {
      await fixture.succeeds(user.awaitReady());
    },
  };
  try {
    await fixture.ready();
    await fixture.succeeds(user.register('a', '/models/a'));
    await test(fixture);
    await world.clock.advance(40_000);
    checkIdle(cluster);
    await cluster.stop();
    assert.equal(world.network.nodes.length, 0, 'all processes have ended');
    return world.trace;
  } finally {
    cluster.abandon();
  }
}

/** The checkpoint that each instance serves, according to the status. */
export function versionsOf({ instances }: ClusterStatus): (string | null)[] {
  return instances.map(({ version }) => (version === null ? null : version.checkpoint));
}

/** Kills the supervisor, and resolves when another one says that the cluster is ready. */
export async function replaceSupervisor({ cluster, user, until, ready }: Fixture): Promise<void> {
  const { supervisor } = cluster;
  cluster.killSupervisor();
  await until('another supervisor runs', () => cluster.supervisor !== supervisor);
  await until('it can be asked', () =>
    cluster.world.network.isSession(user.process.node, cluster.supervisor.node),
  );
  await ready();
}
