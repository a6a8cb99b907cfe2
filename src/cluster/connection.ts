import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { availableParallelism, hostname } from 'node:os';
import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask, type Question } from '../actors/protocol/ask.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { SupervisorExchange, SupervisorMessage } from '../actors/protocol/supervisor.ts';
import { fromWire, PeerLostError, UsageError, type WireError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import { type OwnedProcess, startProcess } from '../processes/child-process.ts';
import { defaultDevices } from '../processes/devices.ts';
import { sweepSharedMemory } from '../processes/sweep.ts';
import { createClusterKeys, spokeKeys } from '../transport/curve.ts';
import { nodeName } from '../transport/node-name.ts';
import { SpokeTransport } from '../transport/spoke.ts';
import type { ClusterOptions } from './options.ts';

/** Longer than the supervisor takes to end its jobs, resume engines, and end the ranks. */
const shutdownMilliseconds = 55_000;
/** Enough for two models that are trained together, each alternating between two sets of segments. */
const defaultSpareCheckpoints = 2;

/** The supervisor's process, which starts and ends the rank processes, and this process's connection to it. */
export class ClusterConnection {
  readonly system: ActorSystem;
  readonly supervisor: ActorRef<SupervisorMessage>;
  readonly fabricSecret: string;
  readonly #process: OwnedProcess;
  readonly #transport: SpokeTransport;
  readonly #directory: SharedDirectory;
  /** Aborted when the supervisor's process has ended. */
  readonly lost: AbortSignal;

  private constructor(
    parts: Pick<ClusterConnection, 'system' | 'supervisor' | 'fabricSecret'>,
    process: OwnedProcess,
    transport: SpokeTransport,
    directory: SharedDirectory,
    lost: AbortSignal,
  ) {
    this.system = parts.system;
    this.supervisor = parts.supervisor;
    this.fabricSecret = parts.fabricSecret;
    this.#process = process;
    this.#transport = transport;
    this.#directory = directory;
    this.lost = lost;
  }

  /** Starts the supervisor, which starts the ranks. When it rejects, nothing is left running. */
  static async open(options: ClusterOptions): Promise<ClusterConnection> {
    sweepSharedMemory();
    const id = randomBytes(6).toString('hex');
    const directory = new SharedDirectory(`/dev/shm/weightcast-${id}`);
    const endpoint = `ipc://@weightcast-${id}`;
    const node = nodeName('supervisor');
    const keys = createClusterKeys();
    const fabricSecret = randomBytes(32).toString('hex');
    const log = createLog('cluster');
    const lost = new AbortController();
    // Every open question listens to it, and Node warns from the eleventh listener on.
    setMaxListeners(0, lost.signal);
    const onFailure = (error: unknown) => lost.abort(fromWire(error as WireError));
    const child = startProcess(
      '../processes/supervisor-process',
      import.meta.url,
      {
        endpoint,
        node,
        keys,
        ...(options.listen !== undefined && { remoteEndpoint: options.listen }),
        instances: options.instances,
        spareCheckpoints: options.spareCheckpoints ?? defaultSpareCheckpoints,
        hosts: options.hosts ?? {},
        fabricSecret,
        host: {
          name: hostname(),
          directory: directory.path,
          fabricAddresses: options.fabricAddresses ?? [],
          devices: options.devices ?? defaultDevices(),
          threads:
            options.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, options.ranks))),
        },
      },
      onFailure,
    );
    child.exited.then((how) => lost.abort(new PeerLostError(`the supervisor process ended (${how})`)));
    try {
      const transport = await SpokeTransport.connect({
        node: nodeName('cluster'),
        endpoint,
        keys: spokeKeys(keys),
        clock: systemClock,
        log,
        deadlineMilliseconds: deadlines.start,
        signal: lost.signal,
      });
      const random = { next: Math.random };
      const system = ActorSystem.create({ clock: systemClock, random, log, transport });
      const supervisor = system.wellKnown<SupervisorMessage>(node, 'supervisor');
      const parts = { system, supervisor, fabricSecret };
      return new ClusterConnection(parts, child, transport, directory, lost.signal);
    } catch (error) {
      await child.stop(shutdownMilliseconds);
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
    const signal = this.lost;
    const supervisor = this.supervisor as ActorRef<Question<E>>;
    return ask(this.system, supervisor, exchange, fields, { deadlineMilliseconds, signal }).catch((error) => {
      throw signal.aborted ? signal.reason : error;
    }) as ReturnType<typeof ask<E>>;
  }

  /** Aborts running work and ends all processes. */
  async close(): Promise<void> {
    await this.#process.stop(shutdownMilliseconds);
    await this.system.stop(5_000);
    await this.#transport.close(1_000);
    this.#directory.close();
  }
}

/** Throws a UsageError that names the option: what a caller gives wrong is no fault of a process. */
function checkFields(exchange: SupervisorExchange, fields: object): void {
  const parsed = exchange.schema.safeParse({ type: exchange.type, ...fields });
  if (parsed.success) return;
  const [issue] = parsed.error.issues;
  const option = issue?.path.filter((part) => part !== 'options').join('.') ?? '';
  throw new UsageError(`${exchange.type}: invalid ${option}: ${issue?.message}`);
}
