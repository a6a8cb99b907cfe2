import { randomBytes } from 'node:crypto';
import { availableParallelism, hostname } from 'node:os';
import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask, type Question } from '../actors/protocol/ask.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { SupervisorExchange, SupervisorMessage } from '../actors/protocol/supervisor.ts';
import { PeerLostError, UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import { type OwnedProcess, startProcess } from '../processes/child-process.ts';
import type { SupervisorConfiguration } from '../processes/configuration.ts';
import { defaultDevices } from '../processes/devices.ts';
import { sweepSharedMemory } from '../processes/sweep.ts';
import { issueOf } from '../schema-issue.ts';
import { createClusterKeys, spokeKeys } from '../transport/curve.ts';
import { nodeName } from '../transport/node-name.ts';
import { SpokeTransport } from '../transport/spoke.ts';
import { withNumericAddresses } from './addresses.ts';
import { LeftEngines } from './left-engines.ts';
import type { ClusterOptions } from './options.ts';
import { SupervisorFate } from './supervisor-fate.ts';

/** All of the cluster's end: of its jobs, the engines that they paused, and its processes, those that hang killed. */
const defaultStopMilliseconds = 60_000;
/** After the hub of a supervisor that ends has gone, its process says why, or how it ended. */
const reasonMilliseconds = 2_000;
/** Set in the supervisor's environment, and so in that of its ranks. */
const processVariable = 'WEIGHTCAST_PROCESS';
/** Enough for two models that are trained together, each alternating between two sets of segments. */
const defaultSpareCheckpoints = 2;

/** The supervisor's process, which starts and ends the rank processes, and this process's connection to it. */
export class ClusterConnection {
  readonly system: ActorSystem;
  readonly supervisor: ActorRef<SupervisorMessage>;
  readonly fabricSecret: string;
  readonly engines: LeftEngines;
  readonly #process: OwnedProcess;
  readonly #fate: SupervisorFate;
  readonly #transport: SpokeTransport;
  readonly #directory: SharedDirectory;
  readonly #stopMilliseconds: number;

  private constructor(
    parts: Pick<ClusterConnection, 'system' | 'supervisor' | 'fabricSecret' | 'engines'>,
    started: {
      readonly process: OwnedProcess;
      readonly fate: SupervisorFate;
      readonly transport: SpokeTransport;
      readonly directory: SharedDirectory;
      readonly stopMilliseconds: number;
    },
  ) {
    this.system = parts.system;
    this.supervisor = parts.supervisor;
    this.fabricSecret = parts.fabricSecret;
    this.engines = parts.engines;
    this.#process = started.process;
    this.#fate = started.fate;
    this.#transport = started.transport;
    this.#directory = started.directory;
    this.#stopMilliseconds = started.stopMilliseconds;
  }

  /** Aborted when the supervisor's process has ended. */
  get lost(): AbortSignal {
    return this.#fate.lost;
  }

  /** Starts the supervisor, which starts the ranks. When it rejects, nothing is left running. */
  static async open(given: ClusterOptions): Promise<ClusterConnection> {
    checkNotWithin();
    const timeout = given.startTimeoutMilliseconds ?? deadlines.start;
    const options = await withNumericAddresses(given, timeout);
    const log = createLog('cluster');
    sweepSharedMemory();
    const id = randomBytes(6).toString('hex');
    const directory = new SharedDirectory(`/dev/shm/weightcast-${id}`);
    const node = nodeName('cluster');
    const secrets = { keys: createClusterKeys(), fabricSecret: randomBytes(32).toString('hex') };
    const configuration = configurationOf(options, { id, ownerNode: node, directory, ...secrets });
    const { stopTimeoutMilliseconds: stopMilliseconds, endpoint, node: supervisorNode } = configuration;
    const engines = new LeftEngines(options.instances);
    const fate = new SupervisorFate(engines);
    const heard = (message: unknown) => fate.heard(message);
    const entry = '../processes/supervisor-process';
    const variables = { [processVariable]: 'supervisor' };
    const child = startProcess(entry, import.meta.url, configuration, heard, [], variables);
    child.exited.then((how) => fate.ended(how));
    try {
      const transport = await SpokeTransport.connect({
        node,
        endpoint,
        keys: spokeKeys(secrets.keys),
        clock: systemClock,
        log,
        deadlineMilliseconds: deadlines.start,
        // Its process is this one's child: its end is seen, and one that is stopped may go on.
        isPatient: true,
        signal: fate.lost,
      });
      const random = { next: Math.random };
      const system = ActorSystem.create({ clock: systemClock, random, log, transport });
      const supervisor = system.wellKnown<SupervisorMessage>(supervisorNode, 'supervisor');
      const parts = { system, supervisor, fabricSecret: secrets.fabricSecret, engines };
      return new ClusterConnection(parts, { process: child, fate, transport, directory, stopMilliseconds });
    } catch (error) {
      await child.stop(stopMilliseconds);
      directory.close();
      throw error;
    }
  }

  /**
   * Rejects with `UsageError` for a value that the protocol does not allow, before anything is sent, and with
   * `PeerLostError` when the supervisor's process ends.
   */
  async ask<E extends SupervisorExchange>(
    exchange: E,
    fields: Parameters<typeof ask<E>>[3],
    deadlineMilliseconds: number,
  ): ReturnType<typeof ask<E>> {
    checkFields(exchange, fields);
    const signal = this.#fate.lost;
    const supervisor = this.supervisor as ActorRef<Question<E>>;
    return ask(this.system, supervisor, exchange, fields, { deadlineMilliseconds, signal }).catch(
      async (error) => {
        // Its connection may go before its process says why.
        if (error instanceof PeerLostError && error.message.startsWith(supervisor.node))
          await this.#fate.reason(reasonMilliseconds);
        throw signal.aborted ? signal.reason : error;
      },
    ) as ReturnType<typeof ask<E>>;
  }

  /** Aborts running work and ends all processes. Resolves with the names of those that had to be killed. */
  async close(): Promise<readonly string[]> {
    const { wasKilled } = await this.#process.stop(this.#stopMilliseconds);
    await this.#fate.settled();
    try {
      await this.system.stop(5_000);
    } finally {
      await this.#transport.close(1_000);
      this.#directory.close();
      // What killed ranks of this machine's other hosts have left.
      sweepSharedMemory();
    }
    return wasKilled ? ['the supervisor', ...this.#fate.killed] : this.#fate.killed;
  }
}

function configurationOf(
  options: ClusterOptions,
  made: Pick<SupervisorConfiguration, 'ownerNode' | 'keys' | 'fabricSecret'> & {
    readonly id: string;
    readonly directory: SharedDirectory;
  },
): SupervisorConfiguration {
  const { id, directory, ownerNode, keys, fabricSecret } = made;
  return {
    endpoint: `ipc://@weightcast-${id}`,
    node: nodeName('supervisor'),
    keys,
    ...(options.listen !== undefined && { remoteEndpoint: options.listen }),
    instances: [...options.instances],
    spareCheckpoints: options.spareCheckpoints ?? defaultSpareCheckpoints,
    hosts: { ...options.hosts },
    fabricSecret,
    ownerNode,
    startTimeoutMilliseconds: options.startTimeoutMilliseconds ?? deadlines.start,
    stopTimeoutMilliseconds: options.stopTimeoutMilliseconds ?? defaultStopMilliseconds,
    host: {
      name: hostname(),
      directory: directory.path,
      fabricAddresses: options.fabricAddresses ?? [],
      devices: options.devices ?? defaultDevices(),
      threads:
        options.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, options.ranks))),
    },
  };
}

/** A module that is loaded before every program of node, and starts a cluster, would start one in each of its processes. */
function checkNotWithin(): void {
  if (process.env[processVariable] === undefined) return;
  throw new UsageError(
    'a process of a cluster cannot start a cluster: a module that NODE_OPTIONS or --import loads first does so',
  );
}

/** Throws a UsageError that names the option: what a caller gives wrong is no fault of a process. */
function checkFields(exchange: SupervisorExchange, fields: object): void {
  const parsed = exchange.schema.safeParse({ type: exchange.type, ...fields });
  if (parsed.success) return;
  const { path, message } = issueOf(parsed.error);
  const option = path.filter((part) => part !== 'options').join('.');
  throw new UsageError(`${exchange.type}: invalid ${option}: ${message}`);
}
