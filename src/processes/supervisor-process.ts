import { ActorSystem } from '../actors/kernel/index.ts';
import { ask } from '../actors/protocol/ask.ts';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { supervisorSpawnOptions } from '../actors/supervisor/inbox.ts';
import type { SupervisorPorts } from '../actors/supervisor/ports.ts';
import { SupervisorActor } from '../actors/supervisor/supervisor.ts';
import { openCheckpoint } from '../checkpoint/source.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { asFailure, toWire, UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import { spokeKeys } from '../transport/curve.ts';
import { HubTransport } from '../transport/hub.ts';
import { nodeName } from '../transport/node-name.ts';
import { startProcess } from './child-process.ts';
import {
  parseConfiguration,
  type SupervisorConfiguration,
  supervisorConfiguration,
} from './configuration.ts';
import { takeLifeline } from './lifeline.ts';

/** The supervisor's process: the hub of the cluster's messages, and the parent of its rank processes. */

/** Longer than a rank takes to release everything. */
const rankGraceMilliseconds = 25_000;
const stopMilliseconds = 30_000;
/** Jobs that were aborted may take this long to end, and the engines that they paused to be resumed. */
const drainMilliseconds = 15_000;

function createPorts(configuration: SupervisorConfiguration, hub: HubTransport): SupervisorPorts {
  const { node, keys, fabricSecret } = configuration;
  return {
    launchRank: (rank, instance) => {
      const member = nodeName(`rank-${rank}`);
      const place = placeOf(instance, configuration, hub);
      const localRank = instance.ranks.indexOf(rank);
      const order = {
        rank,
        ...(instance.firstDevice !== undefined && { device: instance.firstDevice + localRank }),
        node: member,
        endpoint: place.endpoint,
        hubNode: node,
        keys: spokeKeys(keys),
        host: place.host,
        localRank,
        localRanks: instance.ranks.length,
        fabricSecret,
        link: instance.link ?? 'weightcast',
      };
      const child = startProcess('./rank-process', import.meta.url, order, undefined, place.launcher);
      child.exited.then((reason) => hub.declareLost(member, reason));
      return { exited: child.exited, stop: () => child.stop(rankGraceMilliseconds) };
    },
    openCheckpoint,
    engineClient: (instance) => createEngineClient(instance, systemClock),
    segmentName: (set) => `checkpoint-${set}-`,
  };
}

/** The host of an instance's ranks, and how they reach the supervisor from there. Throws `UsageError`. */
function placeOf(
  { name, host: hostName }: InstanceOptions,
  { host, hosts }: SupervisorConfiguration,
  hub: HubTransport,
) {
  if (hostName === undefined) return { host, endpoint: hub.endpoint, launcher: [] };
  const options = hosts[hostName];
  if (options === undefined)
    throw new UsageError(`instance ${name} is on host ${hostName}, which the option hosts does not have`);
  const { launcher, fabricAddresses = [] } = options;
  return {
    host: { ...host, name: hostName, directory: `${host.directory}-${hostName}`, fabricAddresses },
    endpoint: launcher.length > 0 ? (hub.remoteEndpoint ?? hub.endpoint) : hub.endpoint,
    launcher,
  };
}

async function main(): Promise<void> {
  const lifeline = await takeLifeline();
  const configuration = parseConfiguration(supervisorConfiguration, lifeline.configuration);
  const log = createLog('supervisor');
  const directory = new SharedDirectory(configuration.host.directory);
  const { node, endpoint, remoteEndpoint, keys, instances, spareCheckpoints } = configuration;
  const hub = await HubTransport.bind({ node, endpoint, remoteEndpoint, keys, clock: systemClock, log });
  let failed: (error: unknown) => void = () => {};
  const failure = new Promise<unknown>((resolve) => {
    failed = resolve;
  });
  const system = ActorSystem.create({
    clock: systemClock,
    random: { next: Math.random },
    log,
    transport: hub,
    onTopLevelCrash: (_ref, error) => failed(error),
  });
  const ports = createPorts(configuration, hub);
  const create = () => new SupervisorActor({ instances, spareCheckpoints }, ports);
  const supervisor = system.spawn('supervisor', create, supervisorSpawnOptions);
  const error = await Promise.race([lifeline.released, failure]);
  const options = { deadlineMilliseconds: drainMilliseconds };
  await ask(system, supervisor, toSupervisor.drain, {}, options).catch((thrown) => {
    log.warn({ error: asFailure(thrown).message }, 'engines may be left paused');
  });
  await system.stop(stopMilliseconds);
  await hub.close(1_000);
  directory.close();
  if (error !== undefined) throw error;
}

main().then(
  () => process.exit(0),
  (error) => {
    const failure = asFailure(error);
    if (process.send !== undefined) return void process.send(toWire(failure), () => process.exit(1));
    createLog('supervisor').error({ code: failure.code }, failure.message);
    process.exit(1);
  },
);
