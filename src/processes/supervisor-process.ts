import { setImmediate } from 'node:timers/promises';
import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask } from '../actors/protocol/ask.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { Instance, Worker } from '../actors/protocol/instance.ts';
import type { InstanceStatus } from '../actors/protocol/status-values.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import type { HostPosition } from '../actors/supervisor/host-positions.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../actors/supervisor/inbox.ts';
import type { LaunchedRank, SupervisorPorts } from '../actors/supervisor/ports.ts';
import { SupervisorActor } from '../actors/supervisor/supervisor.ts';
import { brokenWords, mayBeMixed, stuckWords } from '../actors/update/words.ts';
import { LastOpened, openCheckpoint } from '../checkpoint/source.ts';
import { engineOf } from '../engines/engine-client.ts';
import { createEngineClient, linkOf } from '../engines/engine-options.ts';
import { asFailure, PeerLostError, toWire, UsageError } from '../errors.ts';
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
import { Children } from './children.ts';
import {
  directoryOf,
  parseConfiguration,
  type RankConfiguration,
  type RankOrder,
  type SupervisorConfiguration,
  type SupervisorReport,
  supervisorConfiguration,
} from './configuration.ts';
import { gpuOf } from './devices.ts';
import { HostAgents, hasAgent } from './host-agents.ts';
import { takeLifeline } from './lifeline.ts';
import { type StopTimes, stopTimes } from './stop-times.ts';
import { supervisorMemory } from './supervisor-memory.ts';
import { Survivor } from './survivor.ts';

/** The supervisor's process: the hub of the cluster's messages, and the parent of its rank processes. */

function createPorts(launch: Launch, log: Logger): SupervisorPorts {
  const { configuration } = launch;
  const lastOpened = new LastOpened();
  return {
    launchRank: (worker, instance, position) => launchRank(launch, worker, instance, position),
    openCheckpoint: (source) => openCheckpoint(source, lastOpened),
    breathe: () => setImmediate(),
    engineClient: (instance) => createEngineClient(instance, systemClock, log),
    noteInstance: (instance, mayStillPause) => {
      launch.statuses.set(instance.name, instance);
      tell({ kind: 'instance', instance, mayStillPause });
    },
    segmentName: (set) => `checkpoint-${set}-`,
    memory: supervisorMemory(configuration.host.directory, configuration.incarnation, log),
  };
}

/** What launching ranks needs, and what has become of instances. */
interface Launch {
  readonly statuses: Map<string, InstanceStatus>;
  readonly configuration: SupervisorConfiguration;
  readonly hub: HubTransport;
  readonly children: Children;
  readonly agents: HostAgents;
}

/** Starts a rank's process, or takes over one that has outlived the supervisor which started it. */
function launchRank(
  { configuration, hub, children, agents }: Launch,
  { rank, host: hostName, device: chosen }: Worker,
  instance: Instance,
  { position, localRank, localRanks }: HostPosition,
): LaunchedRank {
  const { node: hubNode, keys, fabricSecret } = configuration;
  const { startTimeoutMilliseconds, stopTimeoutMilliseconds, orphanTimeoutMilliseconds } = configuration;
  const { host, isElsewhere, isRemote } = placeOf(rank, hostName, configuration);
  const device = chosen === undefined ? {} : { device: chosen };
  const gpu = gpuOf(host.devices, chosen, { rank, entry: isElsewhere ? position : rank, position });
  const link = linkOf(instance);
  const role = JSON.stringify({ device, gpu, link, host });
  const order: RankOrder = {
    ...device,
    rank,
    node: nodeName(`rank-${rank}`),
    hubNode,
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
  if (isRemote) return agents.launch({ host: host.name, rank, node: order.node, role, order });
  const survivor = children.survivor(rank, role);
  const { node } = survivor ?? order;
  const complete: RankConfiguration = {
    ...order,
    endpoint: hub.endpoint,
    keys: spokeKeys(keys),
    parent: 'supervisor',
  };
  const child = survivor ? new Survivor(survivor) : startProcess('./rank-process', import.meta.url, complete);
  children.add(child, { rank, node, name: `rank ${rank} on host ${host.name} (process ${child.pid})`, role });
  child.exited.then((reason) => hub.declareLost(node, reason));
  const { grace } = stopTimes(stopTimeoutMilliseconds);
  const stop = (graceMilliseconds = grace) => children.stop(child, graceMilliseconds);
  return { exited: child.exited, stop, isSurvivor: survivor !== null };
}

/** The host of a rank; `isRemote`: it has an agent. Throws `UsageError`. */
function placeOf(rank: number, hostName: string | undefined, { host, hosts }: SupervisorConfiguration) {
  if (hostName === undefined) return { host, isElsewhere: false, isRemote: false };
  const options = hosts[hostName];
  if (options === undefined)
    throw new UsageError(`rank ${rank} is on host ${hostName}, which the option hosts does not have`);
  const { fabricAddresses = [] } = options;
  // Indices are of the GPUs of the host that the cluster was started on.
  const { devices = host.devices?.kind === 'cuda' ? { kind: 'cuda' as const } : host.devices } = options;
  return {
    host: {
      ...host,
      ...(devices && { devices }),
      name: hostName,
      directory: directoryOf(host.directory, hostName),
      fabricAddresses,
    },
    isElsewhere: true,
    isRemote: hasAgent(options),
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
  const addresses = { node, endpoint, remoteEndpoint };
  const hub = await HubTransport.bind({ ...addresses, patientWith, keys, clock, log, limits });
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
  const agents = new HostAgents(configuration, hub, system, children, tell);
  const statuses = new Map<string, InstanceStatus>();
  const launch = { configuration, hub, children, agents, statuses };
  const ports = supervisorPortsWithFaults(createPorts(launch, log), faults);
  if (hub.remoteEndpoint !== null)
    process.send?.({ kind: 'listening', remoteEndpoint: hub.remoteEndpoint } satisfies SupervisorReport);
  const supervisor = begin(system, launch, ports, times);
  // After a signal the owner starts another supervisor.
  let isOrphan = false;
  const released = lifeline.released.then(async (how) => {
    isOrphan = how === 'orphaned';
    // Nobody waits for a dead owner to take its leave.
    if (how === 'orphaned') hub.declareLost(configuration.ownerNode, 'its process has ended');
    if (how !== 'signal') await agents.clusterEnds(times.drain / 2);
  });
  const error = await Promise.race([released, failure]);
  // Ranks live on, with what is registered, and go over to the one that takes its place: as if it had been killed.
  if (error !== undefined) throw error;
  try {
    await end(system, supervisor, times, log);
  } finally {
    await children.killAll();
  }
  // An owner that lives says so itself.
  if (isOrphan) for (const words of leftPaused(configuration, statuses)) log.error({}, words);
  await hub.close(1_000);
  directory.close();
  return children.killed;
}

/** Starts the actor, and ends what it has not asked for. */
function begin(
  system: ActorSystem,
  { configuration, children, agents }: Launch,
  ports: SupervisorPorts,
  times: StopTimes,
): ActorRef<SupervisorInbox> {
  const { lastResume: lastResumeMilliseconds, lostRank: lostRankMilliseconds } = times;
  const options = { ...configuration, lastResumeMilliseconds, lostRankMilliseconds };
  const create = () => new SupervisorActor(options, ports);
  const spawnOptions = { ...supervisorSpawnOptions, endingMilliseconds: times.ranks };
  const supervisor = system.spawn('supervisor', create, spawnOptions);
  // The actor that it has started asks for its ranks before it answers anything.
  void ask(system, supervisor, toSupervisor.status, {}, { deadlineMilliseconds: deadlines.control })
    .then(() => {
      children.endOthers(times.grace);
      agents.endOthers();
    })
    .catch(() => {});
  return supervisor;
}

/** What is to be said of engines that nobody is left to resume. */
function* leftPaused({ instances }: SupervisorConfiguration, statuses: Launch['statuses']): Iterable<string> {
  for (const status of statuses.values()) {
    if (!status.isPaused) continue;
    const engine = engineOf(instances.find(({ name }) => name === status.name) ?? {});
    const instance = { ...status, engine };
    const ended = () => stuckWords(instance, new PeerLostError('its cluster has ended'));
    yield mayBeMixed(status) ? brokenWords(instance, true) : ended();
  }
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
