import type { Envelope, SystemCensus } from '../src/actors/kernel/index.ts';
import type { ClusterStatus } from '../src/actors/protocol/status-values.ts';
import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import { decodeManifest } from '../src/checkpoint/manifest.ts';
import { MOST_LINK_SLOTS, MOST_STAGING_SLOTS } from '../src/plan/plan.ts';
import type { SimulatedCluster } from './cluster.ts';
import type { SimulatedProcess } from './process.ts';
import type { Trace } from './trace.ts';
import type { SimulatedWorld } from './world.ts';

/** An instance never reports a version unless all its workers acknowledged every bucket of it in one epoch. */
export function checkReports(world: SimulatedWorld, envelope: Envelope): void {
  if (envelope.kind !== 'reply') return;
  const body = envelope.body as Partial<ClusterStatus & UpdateReport> | undefined;
  for (const { name, version } of body?.instances ?? []) {
    if (version !== null) checkVersion(world, name, `${version.checkpoint}@${version.digest}`);
  }
  if (body?.timelines === undefined) return;
  const updated = world.engines.filter((engine) => engine.wasUpdatedIn(body.epoch!));
  const ranks = updated.reduce((sum, { deviceCount }) => sum + deviceCount, 0);
  if (ranks !== body.ranks)
    world.trace.violated(`${body.ranks} ranks are reported as updated, and ${ranks} were`);
  for (const { name, isSpoiled } of updated) {
    checkVersion(world, name, `${body.checkpoint}@${body.digest}`);
    if (body.verified && isSpoiled)
      world.trace.violated(`${name} is reported as verified, but holds other bytes`);
  }
}

/** An update brings what was last registered by the name that was asked for. */
export function checkAsked(
  { options, trace }: SimulatedWorld,
  name: string,
  file: string,
  { checkpoint, digest }: Pick<UpdateReport, 'checkpoint' | 'digest'>,
): void {
  const wanted = `${name}@${options.checkpoints.find(({ path }) => path === file)?.digest}`;
  if (`${checkpoint}@${digest}` === wanted) return;
  trace.violated(`an update to ${wanted} brought ${checkpoint}@${digest}`);
}

function checkVersion(world: SimulatedWorld, name: string, version: string): void {
  const engine = world.engines.find((candidate) => candidate.name === name)!;
  if (engine.acknowledged === version) return;
  world.trace.violated(`${name} is reported with ${version}, but acknowledged ${engine.acknowledged}`);
}

/**
 * What has to hold when nothing runs: all that was taken is given back, and no table holds more than the cluster's
 * size accounts for.
 */
export function checkIdle(cluster: SimulatedCluster): void {
  const { world, ranks, users, shelf } = cluster;
  const { devices, links, communicators, engines, fabrics, hosts, trace } = world;
  checkSupervisorIdle(cluster);
  const expect = (what: string, found: number, most: number) => {
    if (found > most) trace.violated(`${what}: ${found}, at most ${most} expected when nothing runs`);
  };
  for (const { uuid, used } of devices) expect(`bytes allocated on ${uuid}`, used, 0);
  expect('worker links bound', links.open, 0);
  expect('members of communicators', communicators.members, ranks.size);
  for (const { name, workers } of engines) {
    expect(`workers of ${name} in an exchange`, workers.filter(({ isBusy }) => isBusy).length, 0);
  }
  expect('reads under way', fabrics.links.flows, 0);
  for (const { identity, peers, exposed } of fabrics.all) {
    expect(`peers that ${identity.name} is connected to`, peers, 0);
    for (const path of exposed) {
      if (!shelf.holds({ path, host: identity.place.host.name }))
        trace.violated(`${identity.name} lets peers read ${path}, which is no more`);
    }
  }
  for (const { process } of ranks.values()) {
    // Itself, and one for each slot.
    const actors = 1 + MOST_STAGING_SLOTS + MOST_LINK_SLOTS;
    if (process !== null) expectAtMost(trace, process, { ...none, actors, watches: 1 });
  }
  for (const { process, writer } of users) {
    const most = writer === null ? none : { ...none, actors: 1, watches: 1 };
    if (process.isAlive) expectAtMost(trace, process, most);
  }
  expect('sets of segments being filled', shelf.takenSets, 0);
  checkCheckpoints(cluster);
  const occupied = new Set([...ranks.keys()].map((rank) => world.hostOf(rank)));
  for (const host of hosts) {
    // Without a rank nobody there removes anything before the next one comes, or the cluster ends.
    if (!occupied.has(host)) continue;
    for (const path of host.segments) {
      if (!shelf.holds({ path, host: host.name })) trace.violated(`${path} is left on ${host.name}`);
    }
  }
}

/** Whatever has died meanwhile, host memory holds what was registered, unless all ranks there have left. */
function checkCheckpoints({ world: { hosts, trace }, shelf }: SimulatedCluster): void {
  const hostOf = new Map(hosts.map((host) => [host.name, host]));
  for (const { checkpoint } of shelf.statuses()) {
    const manifest = decodeManifest(shelf.get(checkpoint).manifest);
    for (const [row, name] of manifest.names.entries()) {
      const { host, path } = manifest.segments[manifest.segmentOf[row]!]!;
      if (hostOf.get(host)!.isAbandoned(path)) continue;
      const found = hostOf.get(host)!.digest(path, manifest.offsets[row]!, manifest.bytes[row]!);
      if (found !== manifest.digests[row])
        trace.violated(`${name} of ${checkpoint} is not as it was registered`);
    }
  }
}

/** The part of {@link checkIdle} that holds whatever state engines and devices are in. */
export function checkSupervisorIdle({ world, supervisor, ranks, users, status }: SimulatedCluster): void {
  const { trace, engines, devices } = world;
  const instances = status?.instances.length ?? engines.length;
  const running = [...ranks.values()].filter(({ process }) => process !== null).length;
  expectAtMost(trace, supervisor, {
    ...none,
    // Itself, the planner, the swarm, and the bridges.
    actors: 3 + instances,
    watches: running + users.filter(({ process, writer }) => process.isAlive && writer !== null).length,
    // Ranks that are to be started again.
    timers: devices.length - running,
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
    if (count > limit) trace.violated(`${node} holds ${count} ${what}, at most ${limit} when nothing runs`);
  }
}
