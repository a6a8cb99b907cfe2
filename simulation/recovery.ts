import { allArrived } from './all-arrived.ts';
import type { SimulatedCluster } from './cluster.ts';
import type { FaultInjector } from './faults.ts';
import { checkIdle, checkSupervisorIdle } from './invariants.ts';
import type { SeededRandom } from './random.ts';
import type { RandomRequests } from './random-requests.ts';
import type { SimulatedUser } from './user.ts';

/** Long enough for all resources to be released and for a rank to be restarted. */
const quietMilliseconds = 40_000;
/** Long enough for all ranks to be back and for restarted engines to be up. */
const recoveryMilliseconds = 200_000;

/** Long enough for the last question to an engine that was resumed, whether it is. */
const lastQuestionMilliseconds = 12_000;

/** Heals all faults, and checks that the cluster becomes ready on its own and can be updated. */
export async function checkRecovery(
  cluster: SimulatedCluster,
  injector: FaultInjector,
  user: SimulatedUser,
  requests: RandomRequests,
  random: SeededRandom,
): Promise<void> {
  const { clock, trace, engines } = cluster.world;
  await clock.advance(quietMilliseconds);
  checkSupervisorIdle(cluster);
  injector.heal();
  await clock.advance(quietMilliseconds);
  await becomeReady(cluster, user);
  checkIdle(cluster);
  checkWholeResumed(cluster, requests.present);
  while (requests.present.length === 0 || random.chance(0.5)) {
    const joined = await cluster.complete(requests.join());
    if (!joined.ok) trace.violated(`after recovery: ${joined.error.message}`);
  }
  await checkUpdates(cluster, user);
  await clock.advance(lastQuestionMilliseconds);
  const { present } = requests;
  for (const { name, isPaused } of engines) {
    // An instance that was removed while it held parts of several versions stays paused.
    if (isPaused && present.includes(name)) trace.violated(`${name} is left paused`);
  }
  checkIdle(cluster);
}

/** Without an update: whoever has paused an engine, it is resumed unless it is broken. */
function checkWholeResumed(
  { world: { engines, trace }, status }: SimulatedCluster,
  present: readonly string[],
): void {
  for (const { name, isPaused } of engines) {
    const state = status?.instances.find((instance) => instance.name === name)?.state;
    if (isPaused && present.includes(name) && state !== 'broken')
      trace.violated(`${name} is left paused although it is whole`);
  }
}

/** Waits until the cluster is ready: however often a rank has died, it comes back. */
async function becomeReady(cluster: SimulatedCluster, user: SimulatedUser): Promise<void> {
  const { clock, trace } = cluster.world;
  const end = clock.now() + recoveryMilliseconds;
  let ready = false;
  while (!ready && clock.now() < end) {
    const outcome = await cluster.complete(user.awaitReady());
    ready = outcome.ok;
    if (!ready) await clock.advance(1_000);
  }
  if (!ready) trace.violated('the ranks did not come back');
}

/** Updates to two checkpoints, which both must succeed. */
async function checkUpdates(cluster: SimulatedCluster, user: SimulatedUser): Promise<void> {
  const { options, trace } = cluster.world;
  for (const [name, { path }] of [
    ['one', options.checkpoints[0]!],
    ['last', options.checkpoints[1]!],
  ] as const) {
    const registered = await cluster.complete(user.register(name, path));
    if (!registered.ok) trace.violated(`after recovery: ${registered.error.message}`);
    const updated = await cluster.complete(user.update(name));
    if (!updated.ok) trace.violated(`after recovery: ${updated.error.message}`);
    else if (options.reports && !allArrived(updated.value))
      trace.violated('after recovery: what arrived is not proved');
  }
}

/** Nothing is left of a cluster that was stopped. */
export function checkStopped({ world, ranks }: SimulatedCluster): void {
  const { trace, devices, links, communicators } = world;
  if (ranks.size > 0) trace.violated(`${ranks.size} rank processes are left after the cluster stopped`);
  if (links.open > 0) trace.violated(`${links.open} worker links are left after the cluster stopped`);
  if (communicators.members > 0)
    trace.violated(`${communicators.members} communicator members are left after the cluster stopped`);
  for (const { uuid, used } of devices) {
    if (used > 0) trace.violated(`${used} bytes are left allocated on ${uuid} after the cluster stopped`);
  }
}
