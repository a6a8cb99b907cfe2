import { setImmediate } from 'node:timers/promises';
import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask } from '../actors/protocol/ask.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { Instance, Worker } from '../actors/protocol/instance.ts';
import type { RankMessage } from '../actors/protocol/rank.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import type { HostPosition } from '../actors/supervisor/host-positions.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../actors/supervisor/inbox.ts';
import type { LaunchedRank, SupervisorPorts } from '../actors/supervisor/ports.ts';
import { SupervisorActor } from '../actors/supervisor/supervisor.ts';
import { LastOpened, openCheckpoint } from '../checkpoint/source.ts';
import { createEngineClient, linkOf } from '../engines/engine-options.ts';
import { asFailure, toWire, UsageError } from '../errors.ts';
import { Faults } from '../faults/faults.ts';
import { supervisorPortsWithFaults } from '../faults/ports.ts';
import { withMessageFaults } from '../faults/transport.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import type { Logger } from '../ports.ts';
import { spokeKeys } from '../transport/curve.ts';
import { HubTransport } from '../transport/hub.ts';
import { limitsOf } from '../transport/limits.ts';
import { nodeName } from '../transport/node-name.ts';
import { startProcess } from './child-process.ts';
import { asSignal, Children } from './children.ts';
import {
  parseConfiguration,
  type RankConfiguration,
  type SupervisorConfiguration,
  type SupervisorReport,
  supervisorConfiguration,
} from './configuration.ts';
import { gpuOf } from './devices.ts';
import { takeLifeline } from './lifeline.ts';
import { type StopTimes, stopTimes } from './stop-times.ts';
import { supervisorMemory } from './supervisor-memory.ts';
import { Survivor } from './survivor.ts';

/** The supervisor's process: the hub of the cluster's messages, and the parent of its rank processes. */

function createPorts(
  configuration: SupervisorConfiguration,
  hub: HubTransport,
  children: Children,
  system: () => ActorSystem,
  log: Logger,
): SupervisorPorts {
  const launch: Launch = { configuration, hub, children, system };
  const lastOpened = new LastOpened();
  return {
    launchRank: (worker, instance, position) => launchRank(launch, worker, instance, position),
    openCheckpoint: (source) => openCheckpoint(source, lastOpened),
    breathe: () => setImmediate(),
    engineClient: (instance) => createEngineClient(instance, systemClock, log),
    noteInstance: (instance) => tell({ kind: 'instance', instance }),
    segmentName: (set) => `checkpoint-${set}-`,
    memory: supervisorMemory(configuration.host.directory, configuration.incarnation, log),
  };
}

/** What launching ranks needs. */
interface Launch {
  readonly configuration: SupervisorConfiguration;
  readonly hub: HubTransport;
  readonly children: Children;
  readonly system: () => ActorSystem;
}

/** Starts a rank's process, or takes over one that has outlived the supervisor which started it. */
function launchRank(
  { configuration, hub, children, system }: Launch,
  { rank, host: hostName, device: chosen }: Worker,
  instance: Instance,
  { position, localRank, localRanks }: HostPosition,
): LaunchedRank {
  const { node: hubNode, keys, fabricSecret } = configuration;
  const { startTimeoutMilliseconds, stopTimeoutMilliseconds, orphanTimeoutMilliseconds } = configuration;
  const { host, endpoint, launcher, isElsewhere, hint } = placeOf(rank, hostName, configuration, hub);
  const link = linkOf(instance);
  const device = chosen === undefined ? {} : { device: chosen };
  const gpu = gpuOf(host.devices, chosen, { rank, entry: isElsewhere ? position : rank, position });
  const role = JSON.stringify({ device, gpu, link, host, launcher });
  const survivor = children.survivor(rank, role);
  const node = survivor?.node ?? nodeName(`rank-${rank}`);
  const order: RankConfiguration = {
    ...device,
    rank,
    node,
    endpoint,
    hubNode,
    keys: spokeKeys(keys),
    host,
    gpu,
    localRank,
    localRanks,
    fabricSecret,
    link,
    startTimeoutMilliseconds,
    stopTimeoutMilliseconds,
    orphanTimeoutMilliseconds,
  };
  const tellToEnd = () => system().tell(system().wellKnown<RankMessage>(node, 'rank'), { type: 'end' });
  const entry = launcher.length > 0 ? './rank-guard' : './rank-process';
  const child = survivor
    ? new Survivor(survivor, launcher.length > 0 ? tellToEnd : undefined)
    : startProcess(entry, import.meta.url, order, undefined, launcher);
  children.add(child, { rank, node, name: `rank ${rank} on host ${host.name} (process ${child.pid})`, role });
  const exited = child.exited.then(asSignal);
  exited.then((reason) => hub.declareLost(node, reason));
  const { grace } = stopTimes(stopTimeoutMilliseconds);
  const stop = (graceMilliseconds = grace) => children.stop(child, graceMilliseconds);
  return { exited, stop, isSurvivor: survivor !== null, hint };
}

/** The host of a rank, and how it reaches the supervisor from there. Throws `UsageError`. */
function placeOf(
  rank: number,
  hostName: string | undefined,
  { host, hosts }: SupervisorConfiguration,
  hub: HubTransport,
) {
  if (hostName === undefined)
    return { host, endpoint: hub.endpoint, launcher: [], isElsewhere: false, hint: undefined };
  const options = hosts[hostName];
  if (options === undefined)
    throw new UsageError(`rank ${rank} is on host ${hostName}, which the option hosts does not have`);
  const { launcher, fabricAddresses = [] } = options;
  // Indices are of the GPUs of the host that the cluster was started on.
  const { devices = host.devices.kind === 'cuda' ? { kind: 'cuda' as const } : host.devices } = options;
  return {
    host: { ...host, name: hostName, directory: `${host.directory}-${hostName}`, fabricAddresses, devices },
    endpoint: launcher.length > 0 ? (hub.remoteEndpoint ?? hub.endpoint) : hub.endpoint,
    launcher,
    isElsewhere: true,
    hint:
      launcher.length > 0 && hub.remoteEndpoint === null
        ? `host ${hostName} may not reach ${hub.endpoint}: without the option listen only this machine does`
        : undefined,
  };
}

/** Resolves with the names of the processes that it had to kill. */
async function main(): Promise<readonly string[]> {
  const lifeline = await takeLifeline();
  const configuration = parseConfiguration(supervisorConfiguration, lifeline.configuration);
  const faults = Faults.of(process.env, 'supervisor');
  const log = createLog('supervisor');
  const directory = new SharedDirectory(configuration.host.directory);
  const { node, endpoint, remoteEndpoint, keys, ownerNode: patientWith } = configuration;
  const clock = systemClock;
  const limits = limitsOf(process.env);
  const hub = await HubTransport.bind({
    node,
    endpoint,
    remoteEndpoint,
    patientWith,
    keys,
    clock,
    log,
    limits,
  });
  let failed: (error: unknown) => void = () => {};
  const failure = new Promise<unknown>((resolve) => {
    failed = resolve;
  });
  process.on('uncaughtException', failed);
  const system = ActorSystem.create({
    clock,
    random: { next: Math.random },
    log,
    transport: withMessageFaults(hub, faults),
    onTopLevelCrash: (_ref, error) => failed(error),
  });
  const times = stopTimes(configuration.stopTimeoutMilliseconds);
  const children = new Children(configuration.host.directory);
  const ports = supervisorPortsWithFaults(
    createPorts(configuration, hub, children, () => system, log),
    faults,
  );
  if (hub.remoteEndpoint !== null)
    process.send?.({ kind: 'listening', remoteEndpoint: hub.remoteEndpoint } satisfies SupervisorReport);
  const create = () => new SupervisorActor(configuration, ports);
  const spawnOptions = { ...supervisorSpawnOptions, endingMilliseconds: times.ranks };
  const supervisor = system.spawn('supervisor', create, spawnOptions);
  // The actor that it has started asks for its ranks before it answers anything.
  const options = { deadlineMilliseconds: deadlines.control };
  void ask(system, supervisor, toSupervisor.status, {}, options)
    .then(() => children.endOthers(times.grace))
    .catch(() => {});
  const error = await Promise.race([lifeline.released.then(() => undefined), failure]);
  // Before what is under way is aborted: its callers are to hear of the failure, after which they may try again.
  if (error !== undefined) tell({ kind: 'failed', error: toWire(asFailure(error)) });
  try {
    await end(system, supervisor, times, log);
  } finally {
    await children.killAll();
  }
  await hub.close(1_000);
  directory.close();
  if (error !== undefined) throw error;
  return children.killed;
}

async function end(
  system: ActorSystem,
  supervisor: ActorRef<SupervisorInbox>,
  times: StopTimes,
  log: Logger,
): Promise<void> {
  const options = { deadlineMilliseconds: times.drain };
  await ask(system, supervisor, toSupervisor.drain, {}, options).catch((thrown) => {
    log.warn({ error: asFailure(thrown).message }, 'engines may be left paused');
  });
  await system.stop(times.supervisor).catch((thrown) => {
    log.error({ error: asFailure(thrown).message }, 'not all actors have ended');
  });
}

function report(what: SupervisorReport, exitCode: number): void {
  tell(what, () => process.exit(exitCode));
}

/** Its parent hears of it even if this process is killed right after that. */
function tell(what: SupervisorReport, then: () => void = () => {}): void {
  if (process.send === undefined || !process.connected) then();
  else process.send(what, then);
}

main().then(
  (killed) => {
    if (killed.length > 0)
      createLog('supervisor').error({}, `these did not end and were killed: ${killed.join(', ')}`);
    report({ kind: 'stopped', killed: [...killed] }, 0);
  },
  (error) => {
    const failure = asFailure(error);
    if (process.send === undefined) createLog('supervisor').error({ code: failure.code }, failure.message);
    report({ kind: 'failed', error: toWire(failure) }, 1);
  },
);
