import { constants } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask } from '../actors/protocol/ask.ts';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../actors/supervisor/inbox.ts';
import type { SupervisorPorts } from '../actors/supervisor/ports.ts';
import { SupervisorActor } from '../actors/supervisor/supervisor.ts';
import { openCheckpoint } from '../checkpoint/source.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { asFailure, toWire, UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import type { Logger } from '../ports.ts';
import { spokeKeys } from '../transport/curve.ts';
import { HubTransport } from '../transport/hub.ts';
import { limitsOf } from '../transport/limits.ts';
import { nodeName } from '../transport/node-name.ts';
import { type OwnedProcess, startProcess } from './child-process.ts';
import {
  parseConfiguration,
  type SupervisorConfiguration,
  type SupervisorReport,
  supervisorConfiguration,
} from './configuration.ts';
import { gpuOf } from './devices.ts';
import { takeLifeline } from './lifeline.ts';
import { type StopTimes, stopTimes } from './stop-times.ts';

/** The supervisor's process: the hub of the cluster's messages, and the parent of its rank processes. */

/** The rank processes that this one has started, and those among them that it had to kill. */
class Children {
  readonly killed: string[] = [];
  readonly #running = new Map<OwnedProcess, string>();

  /** `name`: for the report. */
  add(child: OwnedProcess, name: string): void {
    this.#running.set(child, name);
    void child.exited.then(() => this.#running.delete(child));
  }

  async stop(child: OwnedProcess, graceMilliseconds: number): Promise<void> {
    const name = this.#running.get(child);
    const { wasKilled } = await child.stop(graceMilliseconds);
    // Or what stands beside it beyond a launcher has killed it.
    const isDead = wasKilled || asSignal(await child.exited) === 'SIGKILL';
    if (isDead && name !== undefined && !this.killed.includes(name)) this.killed.push(name);
  }

  /** Whatever became of the actors, nothing that was started is left. */
  async killAll(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((child) => this.stop(child, 0)));
  }
}

function createPorts(
  configuration: SupervisorConfiguration,
  hub: HubTransport,
  children: Children,
  log: Logger,
): SupervisorPorts {
  const { node, keys, fabricSecret, startTimeoutMilliseconds, stopTimeoutMilliseconds } = configuration;
  const { grace } = stopTimes(stopTimeoutMilliseconds);
  return {
    launchRank: (rank, instance, { position, localRank, localRanks }) => {
      const member = nodeName(`rank-${rank}`);
      const place = placeOf(instance, configuration, hub);
      const device = instance.devices?.[instance.ranks.indexOf(rank)];
      const order = {
        rank,
        ...(device !== undefined && { device }),
        node: member,
        endpoint: place.endpoint,
        hubNode: node,
        keys: spokeKeys(keys),
        host: place.host,
        gpu: gpuOf(place.host.devices, rank, place.isElsewhere ? position : rank, position),
        localRank,
        localRanks,
        fabricSecret,
        link: instance.link ?? 'weightcast',
        startTimeoutMilliseconds,
        stopTimeoutMilliseconds,
      };
      const { launcher } = place;
      const entry = launcher.length > 0 ? './rank-guard' : './rank-process';
      const child = startProcess(entry, import.meta.url, order, undefined, launcher);
      children.add(child, `rank ${rank} on host ${place.host.name} (process ${child.pid})`);
      const exited = child.exited.then(asSignal);
      exited.then((reason) => hub.declareLost(member, reason));
      const stop = (graceMilliseconds = grace) => children.stop(child, graceMilliseconds);
      return { exited, stop, hint: place.hint };
    },
    openCheckpoint,
    breathe: () => setImmediate(),
    engineClient: (instance) => createEngineClient(instance, systemClock, log),
    noteInstance: (instance) => tell({ kind: 'instance', instance }),
    segmentName: (set) => `checkpoint-${set}-`,
  };
}

/** How a process has ended, with the signal's name where an exit code stands for one, as beyond a launcher. */
function asSignal(how: string): string {
  const number = Number(/^exit code (\d+)$/.exec(how)?.[1]) - 128;
  return Object.entries(constants.signals).find(([, signal]) => signal === number)?.[0] ?? how;
}

/** The host of an instance's ranks, and how they reach the supervisor from there. Throws `UsageError`. */
function placeOf(
  { name, host: hostName }: InstanceOptions,
  { host, hosts }: SupervisorConfiguration,
  hub: HubTransport,
) {
  if (hostName === undefined)
    return { host, endpoint: hub.endpoint, launcher: [], isElsewhere: false, hint: undefined };
  const options = hosts[hostName];
  if (options === undefined)
    throw new UsageError(`instance ${name} is on host ${hostName}, which the option hosts does not have`);
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
    transport: hub,
    onTopLevelCrash: (_ref, error) => failed(error),
  });
  const times = stopTimes(configuration.stopTimeoutMilliseconds);
  const children = new Children();
  const ports = createPorts(configuration, hub, children, log);
  const create = () => new SupervisorActor(configuration, ports);
  const spawnOptions = { ...supervisorSpawnOptions, endingMilliseconds: times.ranks };
  const supervisor = system.spawn('supervisor', create, spawnOptions);
  const error = await Promise.race([lifeline.released, failure]);
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
