import { join } from 'node:path';
import { supervisorEntrance } from '../actors/entrances.ts';
import { ActorSystem } from '../actors/kernel/index.ts';
import { SupervisorActor } from '../actors/supervisor.ts';
import type { SupervisorPorts } from '../actors/supervisor-ports.ts';
import { openCheckpoint } from '../checkpoint/source.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { asFailure } from '../errors.ts';
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

/** The supervisor's process: the hub of the cluster and the parent of its rank processes. */

/** Longer than a rank takes to give everything back. */
const rankGraceMilliseconds = 25_000;
const stopMilliseconds = 30_000;

function createPorts(configuration: SupervisorConfiguration, hub: HubTransport): SupervisorPorts {
  const { host, node, keys, endpoint } = configuration;
  return {
    launchRank: (rank, { link = 'weightcast' }) => {
      const member = nodeName(`rank-${rank}`);
      const child = startProcess('./rank-process', import.meta.url, {
        rank,
        node: member,
        endpoint,
        hubNode: node,
        keys: spokeKeys(keys),
        host,
        link,
      });
      child.exited.then((reason) => hub.declareLost(member, reason));
      return { exited: child.exited, stop: () => child.stop(rankGraceMilliseconds) };
    },
    openCheckpoint,
    engineClient: (instance) => createEngineClient(instance, systemClock),
    segmentPrefix: (registration) => join(host.directory, `checkpoint-${registration}`),
  };
}

async function main(): Promise<void> {
  const lifeline = await takeLifeline();
  const configuration = parseConfiguration(supervisorConfiguration, lifeline.configuration);
  const log = createLog('supervisor');
  const directory = new SharedDirectory(configuration.host.directory);
  const { node, endpoint, keys, instances } = configuration;
  const hub = await HubTransport.bind({ node, endpoint, keys, clock: systemClock, log });
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
  const create = () => new SupervisorActor({ instances }, ports);
  system.spawn('supervisor', create, supervisorEntrance);
  const error = await Promise.race([lifeline.released, failure]);
  await system.stop(stopMilliseconds);
  await hub.close(1_000);
  directory.close();
  if (error !== undefined) throw error;
}

main().then(
  () => process.exit(0),
  (error) => {
    createLog('supervisor').error({ code: asFailure(error).code }, asFailure(error).message);
    process.exit(1);
  },
);
