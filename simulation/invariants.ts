import type { Envelope, SystemCensus } from '../src/actors/kernel/index.ts';
import type { ClusterStatus } from '../src/actors/protocol/status-values.ts';
import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import type { CheckpointLedger } from '../src/actors/supervisor/checkpoint-ledger.ts';
import { decodeManifest } from '../src/checkpoint/manifest.ts';
import { MOST_LINK_SLOTS, MOST_STAGING_SLOTS } from '../src/plan/plan.ts';
import type { SimulatedProcess } from './process.ts';
import type { SimulatedRankProcess } from './rank-process.ts';
import type { Trace } from './trace.ts';
import type { SimulatedUser } from './user.ts';
import type { SimulatedWorld } from './world.ts';

/** What the checks read of a simulated cluster. */
export interface ClusterView {
  readonly world: SimulatedWorld;
  readonly supervisor: SimulatedProcess;
  readonly ranks: ReadonlyMap<number, SimulatedRankProcess>;
  readonly users: readonly SimulatedUser[];
  readonly shelf: CheckpointLedger;
  readonly status: ClusterStatus | null;
}

/** An instance reports a version only if all its workers acknowledged every bucket of it in one epoch. */
export function checkReportedVersions(world: SimulatedWorld, envelope: Envelope): void {
  if (envelope.kind !== 'reply') return;
  const body = (envelope.body ?? {}) as Partial<ClusterStatus>;
  if (body.spareBytes === undefined) return;
  for (const { name, version } of body.instances ?? []) {
    if (version !== null) checkVersion(world, name, `${version.checkpoint}@${version.digest}`);
  }
}

/** What an update that was requested at `since` says of each instance is what its engine holds. */
export function checkOutcomes(
  world: SimulatedWorld,
  { ranks, instances, checkpoint, digest }: UpdateReport,
  since: number,
): void {
  let updated = 0;
  for (const { name, outcome, paused, proofs, error } of instances) {
    const engine = world.engines.find((candidate) => candidate.name === name)!;
    if (outcome === 'updated') {
      updated += engine.deviceCount;
      checkVersion(world, name, `${checkpoint}@${digest}`);
    }
    if (outcome === 'unchanged' && engine.touchedAt >= since)
      world.trace.violated(`${name} is reported as unchanged, but was touched`);
    if (proofs.arrived === 'holds' && engine.isCorrupt)
      world.trace.violated(`the bytes of ${name} are reported to have arrived, but it holds others`);
    if (proofs.answering === 'holds' && (engine.isCorrupt || engine.isMisloaded))
      world.trace.violated(`${name} is reported to answer as it should, but cannot`);
    if (engine.isMisloaded && (proofs.installed === 'holds' || proofs.installed === 'consistent'))
      world.trace.violated(`${name} is reported to hold what others do, but its model holds something else`);
    if ((outcome !== 'updated' || paused) && error === null)
      world.trace.violated(`${name} is reported as ${outcome} without an error`);
  }
  if (updated !== ranks) world.trace.violated(`${ranks} ranks are reported as updated, but ${updated} were`);
}

/** Whether the answer to an update says of an instance that it is paused. */
export function saysPaused(answer: Envelope, name: string): boolean {
  const says = (error: string | undefined) =>
    ['is broken and stays paused', 'is still paused', 'may still pause'].some((what) =>
      error?.includes(`instance ${name} ${what}`),
    );
  if (answer.kind === 'failure') return says(answer.error.message);
  if (answer.kind !== 'reply') return false;
  const report = (answer.body as UpdateReport).instances.find((one) => one.name === name);
  return report?.paused === true && says(report.error?.message);
}

/**
 * An engine that an update has paused is resumed when it has ended, unless its weights may be broken or it did not resume:
 * then the answer names it.
 */
export function checkResumed(world: SimulatedWorld, paused: ReadonlySet<string>, answer: Envelope): void {
  for (const engine of world.engines) {
    if (!paused.has(engine.name) || !(engine.isPaused || engine.isPausing) || !engine.isUp) continue;
    if (saysPaused(answer, engine.name)) continue;
    const said = answer.kind === 'failure' ? answer.error.message : 'it succeeded';
    world.trace.violated(`${engine.name} was left paused by an update that does not say so: ${said}`);
  }
}

/** An update installs what was last registered under the requested name. */
export function checkUpdatedVersion(
  { options, trace }: SimulatedWorld,
  name: string,
  file: string,
  { checkpoint, digest }: Pick<UpdateReport, 'checkpoint' | 'digest'>,
): void {
  const requested = `${name}@${options.checkpoints.find(({ path }) => path === file)?.digest}`;
  if (`${checkpoint}@${digest}` === requested) return;
  trace.violated(`an update to ${requested} installed ${checkpoint}@${digest}`);
}

function checkVersion(world: SimulatedWorld, name: string, version: string): void {
  const engine = world.engines.find((candidate) => candidate.name === name)!;
  if (engine.acknowledged === version) return;
  world.trace.violated(`${name} is reported with ${version}, but acknowledged ${engine.acknowledged}`);
}

/**
 * What must hold when no job runs: all resources are released, and no table holds more entries than the size of the
 * cluster explains.
 */
export function checkIdle(cluster: ClusterView): void {
  const { world, ranks, users, shelf } = cluster;
  const { devices, links, communicators, engines, fabrics, trace } = world;
  checkSupervisorIdle(cluster);
  const expect = (what: string, found: number, most: number) => {
    if (found > most) trace.violated(`${what}: ${found}, expected at most ${most} when idle`);
  };
  for (const { uuid, used } of devices) expect(`bytes allocated on ${uuid}`, used, 0);
  expect('worker links bound', links.open, 0);
  expect('members of communicators', communicators.members, ranks.size);
  for (const { name, workers } of engines) {
    expect(`workers of ${name} in an exchange`, workers.filter(({ isBusy }) => isBusy).length, 0);
  }
  expect('reads in flight', fabrics.links.flows, 0);
  for (const { name, place, peers, exposed } of fabrics.all) {
    expect(`peers connected to ${name}`, peers, 0);
    for (const path of exposed) {
      if (!shelf.holds({ path, host: place.host.name }))
        trace.violated(`${name} still exposes ${path}, which is not registered any more`);
    }
  }
  for (const { process } of ranks.values()) {
    // The rank itself, and one for each slot.
    const actors = 1 + MOST_STAGING_SLOTS + MOST_LINK_SLOTS;
    if (process !== null) expectAtMost(trace, process, { ...none, actors, watches: 1 });
  }
  for (const { process, writer } of users) {
    const most = writer === null ? none : { ...none, actors: 1, watches: 1 };
    if (process.isAlive) expectAtMost(trace, process, most);
  }
  expect('sets of segments being filled', shelf.takenSets, 0);
  checkCheckpoints(cluster);
  checkLeftSegments(cluster);
}

/** Host memory holds what was registered, whatever has died meanwhile, unless all ranks of the host have ended. */
function checkCheckpoints({ world: { hosts, trace }, shelf }: ClusterView): void {
  const hostOf = new Map(hosts.map((host) => [host.name, host]));
  for (const { checkpoint } of shelf.statuses()) {
    const manifest = decodeManifest(shelf.get(checkpoint).manifest);
    for (const [row, name] of manifest.names.entries()) {
      const { host, path } = manifest.segments[manifest.segmentOf[row]!]!;
      if (hostOf.get(host)!.isAbandoned(path)) continue;
      const found = hostOf.get(host)!.digest(path, manifest.offsets[row]!, manifest.bytes[row]!);
      if (found !== manifest.digests[row])
        trace.violated(`${name} of ${checkpoint} differs from what was registered`);
    }
  }
}

/** Hosts have no segments but those of registered checkpoints and spare ones. */
function checkLeftSegments({ world, ranks, shelf }: ClusterView): void {
  const occupied = new Set([...ranks.keys()].map((rank) => world.hostOf(rank)));
  for (const host of world.hosts) {
    // On a host without ranks, segments are removed when the next rank starts or the cluster stops.
    if (!occupied.has(host)) continue;
    if (host.documentCount > 0) world.trace.violated(`documents are left on ${host.name}`);
    for (const path of host.segments) {
      if (!shelf.holds({ path, host: host.name })) world.trace.violated(`${path} is left on ${host.name}`);
    }
  }
}

/** The part of {@link checkIdle} that holds in whatever state engines and devices are. */
export function checkSupervisorIdle({ world, supervisor, ranks, users, status }: ClusterView): void {
  const { trace, engines, devices, joined } = world;
  // Another supervisor may have instances whose removal was not answered.
  const instances = Math.max(status?.instances.length ?? engines.length, joined.size);
  if (!supervisor.isAlive) return;
  const running = [...ranks.values()].filter(({ process }) => process !== null).length;
  expectAtMost(trace, supervisor, {
    ...none,
    // The supervisor itself, the planner, the swarm, and the bridges.
    actors: 3 + instances,
    watches: running + users.filter(({ process, writer }) => process.isAlive && writer !== null).length,
    // Ranks that wait for their restart, and looks at engines that may still pause.
    timers: devices.length - running + engines.filter(({ mayPauseLate }) => mayPauseLate).length,
  });
}

const none = { actors: 0, queued: 0, asks: 0, watches: 0, timers: 0 };

function expectAtMost(
  trace: Trace,
  { system, node, timers }: SimulatedProcess,
  most: SystemCensus & { readonly timers: number },
): void {
  for (const [what, count] of Object.entries({ ...system.census, timers })) {
    const limit = most[what as keyof typeof most];
    if (count > limit) trace.violated(`${node} holds ${count} ${what}, expected at most ${limit} when idle`);
  }
}
