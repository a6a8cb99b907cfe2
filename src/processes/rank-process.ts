import { ActorSystem } from '../actors/kernel/index.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { SupervisorMessage } from '../actors/protocol/supervisor.ts';
import { rankSpawnOptions } from '../actors/rank/inbox.ts';
import type { RankPorts } from '../actors/rank/ports.ts';
import { RankActor } from '../actors/rank/rank.ts';
import { SharedDocuments } from '../checkpoint/shared-documents.ts';
import { SharedSegments } from '../checkpoint/shared-segments.ts';
import { CheckpointEngineWorkerLink } from '../engines/worker-link/checkpoint-engine.ts';
import { MessagePackWorkerLink } from '../engines/worker-link/rank-side.ts';
import { AbortedError, asFailure, toWire } from '../errors.ts';
import { Faults } from '../faults/faults.ts';
import { rankPortsWithFaults } from '../faults/ports.ts';
import { withMessageFaults } from '../faults/transport.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory, ThreadPool } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import type { Logger } from '../ports.ts';
import { limitsOf } from '../transport/limits.ts';
import { SpokeTransport } from '../transport/spoke.ts';
import { within } from '../within.ts';
import { Allegiance } from './allegiance.ts';
import { Communicators, collectivePreference } from './communicators.ts';
import { parseConfiguration, type RankConfiguration, rankConfiguration } from './configuration.ts';
import { defaultDevices, divideThreads, openDevice, readsUnderWay } from './devices.ts';
import { RankFabric } from './fabric.ts';
import { takeLifeline } from './lifeline.ts';
import { stopTimes } from './stop-times.ts';

/**
 * The process of one rank, the only user of its device. It outlives the supervisor: when its standard input ends without a
 * word, it ends what was under way, keeps its device and segments, and introduces itself to the supervisor that takes over;
 * it ends if none does. When it is cut off from a supervisor that lives, it is lost to that for good, and gives its device up:
 * at once, or on a host with an agent when that says so or no supervisor comes.
 */

/** How long a rank that is cut off keeps its host's memory for the one that takes its place when the network is back. */
const keptMilliseconds = 60_000;

function openPorts(
  configuration: RankConfiguration,
  directoryId: string,
  end: () => void,
  log: Logger,
): RankPorts {
  const { rank, gpu, host, link } = configuration;
  const { threads, devices = defaultDevices() } = host;
  const device = openDevice(devices, rank, { gpu, chosen: configuration.device, threads });
  const pool = new ThreadPool(divideThreads(devices, threads).bulk);
  const communicators = new Communicators({
    device,
    directory: host.directory,
    rank,
    preference: collectivePreference(process.env.WEIGHTCAST_COLLECTIVE),
    timeoutMilliseconds: deadlines.communicator,
    log,
  });
  const pools = { pool, readers: new ThreadPool(readsUnderWay) };
  const segments = new SharedSegments({ directory: host.directory, host: host.name }, pools, device);
  const fabric = new RankFabric(configuration, devices, pool);
  return {
    rank,
    host: host.name,
    directory: host.directory,
    directoryId,
    pid: process.pid,
    device,
    segments,
    documents: new SharedDocuments(host.directory),
    nics: fabric.nics,
    collectiveScope: communicators.scope,
    fabric: (secret) => fabric.open(secret),
    end,
    close: () => {
      fabric.close();
      segments.close();
      device.close();
    },
    createCommunicator: (order) => communicators.create(order),
    openCollective: (communicator, ranks) => communicators.open(communicator, ranks),
    bindWorkerLink: ({ liveLayouts, ...order }) => {
      const options = { ...order, deviceUuid: device.uuid, clock: systemClock };
      return link === 'weightcast'
        ? MessagePackWorkerLink.bind({ ...options, ...(liveLayouts !== null && { liveLayouts }) })
        : CheckpointEngineWorkerLink.bind(options);
    },
  };
}

/** Before the rank connects, because a driver may block this process for longer than the hub waits for a silent one. */
function tryOpenPorts(...parameters: Parameters<typeof openPorts>) {
  try {
    return { opened: openPorts(...parameters), failure: null };
  } catch (failure) {
    return { opened: null, failure };
  }
}

async function main(): Promise<void> {
  const lifeline = await takeLifeline();
  const configuration = parseConfiguration(rankConfiguration, lifeline.configuration);
  const { rank } = configuration;
  const faults = Faults.of(process.env, 'rank', rank);
  const log = createLog(`rank-${rank}`);
  const directory = new SharedDirectory(configuration.host.directory);
  const allegiance: Allegiance = new Allegiance(() => system, configuration, log);
  const { opened, failure: unopened } = tryOpenPorts(
    configuration,
    directory.identity,
    () => allegiance.end(),
    log,
  );
  const ended = new AbortController();
  const end = () => {
    ended.abort(new AbortedError(`rank ${rank} is to end`));
    allegiance.end();
  };
  void lifeline.released.then((how) => (how === 'orphaned' ? allegiance.parentDied() : end()));
  void lifeline.signalled.then(end);
  const transport = await SpokeTransport.connect({
    node: configuration.node,
    endpoint: configuration.endpoint,
    keys: configuration.keys,
    clock: systemClock,
    log,
    limits: limitsOf(process.env),
    deadlineMilliseconds: configuration.startTimeoutMilliseconds,
    signal: ended.signal,
  });
  const system: ActorSystem = ActorSystem.create({
    clock: systemClock,
    random: { next: Math.random },
    log,
    transport: withMessageFaults(transport, faults),
    onTopLevelCrash: () => allegiance.end(),
    onPeer: (event) => allegiance.peerChanged(event),
  });
  // Another one than that which has started this process, if that has died meanwhile.
  const supervisor = system.wellKnown<SupervisorMessage>(
    transport.hub ?? configuration.hubNode,
    'supervisor',
  );
  const stopMilliseconds = stopTimes(configuration.stopTimeoutMilliseconds).rank;
  let keepsMemory = false;
  if (opened === null) {
    system.tell(supervisor, { type: 'rank-failed', rank, error: toWire(unopened) });
    await lifeline.released;
  } else {
    const create = () => new RankActor(rankPortsWithFaults(opened, faults), supervisor);
    allegiance.started(system.spawn('rank', create, rankSpawnOptions), supervisor.node);
    ({ keepsMemory } = await allegiance.over);
  }
  await system.stop(stopMilliseconds);
  await transport.close(1_000);
  if (keepsMemory) await within(systemClock, keptMilliseconds, lifeline.released);
  directory.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    const { code, message } = asFailure(error);
    // An end that was asked for, while it still started.
    const isAsked = error instanceof AbortedError;
    createLog('rank')[isAsked ? 'info' : 'error']({ code }, message);
    process.exit(isAsked ? 0 : 1);
  },
);
