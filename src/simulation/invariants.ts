import type { Envelope, SystemCensus } from '../actors/kernel/index.ts';
import type { ClusterStatus, UpdateReport } from '../actors/messages.ts';
import { decodeManifest } from '../checkpoint/manifest.ts';
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
  for (const { name, isSpoiled } of world.engines) {
    checkVersion(world, name, `${body.checkpoint}@${body.digest}`);
    if (body.verified && isSpoiled)
      world.trace.violated(`${name} is reported as verified, but holds other bytes`);
  }
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
  const { devices, links, communicators, engines, hosts, trace } = world;
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
  for (const { process } of ranks.values()) {
    if (process !== null) expectAtMost(trace, process, { ...none, actors: 5, watches: 1 });
  }
  for (const { process, writer } of users) {
    const most = writer === null ? none : { ...none, actors: 1, watches: 1 };
    if (process.isAlive) expectAtMost(trace, process, most);
  }
  expect('sets of segments being filled', shelf.takenSets, 0);
  checkCheckpoints(cluster);
  for (const { name, segments } of hosts) {
    for (const path of segments) {
      if (!shelf.holds({ path, host: name })) trace.violated(`${path} is left on ${name}`);
    }
  }
}

/** Whatever has died meanwhile, host memory holds what was registered. */
function checkCheckpoints({ world: { hosts, trace }, shelf }: SimulatedCluster): void {
  const hostOf = new Map(hosts.map((host) => [host.name, host]));
  for (const { checkpoint } of shelf.statuses()) {
    const manifest = decodeManifest(shelf.get(checkpoint).manifest);
    for (const [row, name] of manifest.names.entries()) {
      const { host, path } = manifest.segments[manifest.segmentOf[row]!]!;
      const found = hostOf.get(host)!.digest(path, manifest.offsets[row]!, manifest.bytes[row]!);
      if (found !== manifest.digests[row])
        trace.violated(`${name} of ${checkpoint} is not as it was registered`);
    }
  }
}

/** The part of {@link checkIdle} that holds whatever state engines and devices are in. */
export function checkSupervisorIdle({ world, supervisor, ranks, users }: SimulatedCluster): void {
  const { trace, engines, devices } = world;
  const running = [...ranks.values()].filter(({ process }) => process !== null).length;
  expectAtMost(trace, supervisor, {
    ...none,
    // Itself, the planner, the swarm, the group of bridges, and these.
    actors: 4 + engines.length,
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
