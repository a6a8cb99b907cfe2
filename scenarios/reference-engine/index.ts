import { DeadlineError, fromWire, PeerLostError, UsageError, WeightcastError } from '../../src/errors.ts';
import { startProcess } from '../../src/processes/child-process.ts';
import { isRunning } from '../../src/processes/is-running.ts';
import { sweepSharedMemory } from '../../src/processes/sweep.ts';
import type { EngineConfiguration, Faults, WorkerPlace } from './configuration.ts';
import type { ServerMessage } from './worker-protocol.ts';

/** Long enough to allocate and fill the largest model that fits into a machine. */
const startMilliseconds = 3_600_000;
/** The server stops its workers first, which finish their current copies. */
const graceMilliseconds = 20_000;
/** How long workers may outlive a server that was killed. */
const orphanMilliseconds = 10_000;
const pollMilliseconds = 20;

export interface ReferenceEngineOptions {
  /** Name of the served model. */
  readonly name: string;
  /** Checkpoint (directory or file) that defines names and shapes of the tensors; its weights are not read. */
  readonly model: string;
  /** Number of tensor-parallel workers, each on its own host device. */
  readonly ranks: number;
  readonly deviceNamespace: string;
  /** Bytes of each device; 0 for the capacity given by the first process that opened it. */
  readonly deviceCapacity: number;
  /** Index of the first worker's device; the others follow. Default: 0. */
  readonly firstDevice?: number;
  /**
   * Where the workers are, in place of `ranks`, `deviceNamespace` and `firstDevice`: the launcher of each is for a host that
   * this machine simulates.
   */
  readonly places?: readonly WorkerPlace[];
  /** Address to listen on. Default: 127.0.0.1. */
  readonly host?: string;
  /** Default: any free port. */
  readonly port?: number;
  /** Whether it has a draft model, which receives every update after the target model. */
  readonly hasDraftModel?: boolean;
  /** Whether its workers say which part of each tensor they keep, and take only that in later updates. Default: false. */
  readonly keepsParts?: boolean;
  /** Injected failures. */
  readonly faults?: Faults;
  /** Prefix of the command that starts it, such as `['ip', 'netns', 'exec', 'b']`. */
  readonly launcher?: readonly string[];
}

/** An engine in its own processes, which end with the process that started them, even if that is killed. */
export interface RunningEngine {
  readonly endpoint: string;
  /** The devices of the workers, by rank. */
  readonly deviceUuids: readonly string[];
  readonly serverPid: number;
  /** By rank. */
  readonly workerPids: readonly number[];
  /** Of the server and the workers. */
  readonly pids: readonly number[];
  /** Resolves when the server has ended, with how: `exit code 0`, `SIGKILL`. */
  readonly exited: Promise<string>;
  /** Resolves when all its processes have ended and their memory is freed. May be called twice. */
  stop(): Promise<void>;
}

/**
 * Starts an engine with dummy weights; resolves when it serves. Rejects with `UsageError`, `CheckpointError`, or
 * `MemoryError` if the model does not fit into a device; then nothing is left behind.
 */
export async function startReferenceEngine(options: ReferenceEngineOptions): Promise<RunningEngine> {
  const { launcher, ranks, deviceNamespace: namespace, firstDevice = 0, ...given } = options;
  const onThisHost = (_: unknown, rank: number) => ({ launcher: [], namespace, device: firstDevice + rank });
  const places = Array.from({ length: ranks }, onThisHost);
  const configuration: EngineConfiguration = { ...defaults, places, ...given };
  if (configuration.places.length === 0) throw new UsageError('an engine has workers: ranks is 0');
  let onFirst: (message: ServerMessage) => void = () => {};
  const first = new Promise<ServerMessage>((resolve) => {
    onFirst = resolve;
  });
  const onMessage = (message: unknown) => onFirst(message as ServerMessage);
  const server = startProcess('./server', import.meta.url, configuration, onMessage, launcher);
  const ended = server.exited.then((how) => new PeerLostError(`the engine ended (${how}) before it served`));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<DeadlineError>((resolve) => {
    const error = new DeadlineError(`the engine is not ready after ${startMilliseconds} ms`);
    timer = setTimeout(() => resolve(error), startMilliseconds);
  });
  const started = await Promise.race([first, ended, late]);
  clearTimeout(timer);
  const failure = failureOf(started);
  if (failure !== null) {
    await server.stop(graceMilliseconds);
    throw failure;
  }
  const { endpoint, deviceUuids, workerPids } = started as ServerMessage & { type: 'ready' };
  return {
    endpoint,
    deviceUuids,
    workerPids,
    serverPid: server.pid,
    pids: [server.pid, ...workerPids],
    exited: server.exited,
    async stop() {
      await server.stop(graceMilliseconds);
      await waitForExit(workerPids);
      sweepSharedMemory();
    },
  };
}

const defaults = { host: '127.0.0.1', port: 0, hasDraftModel: false, keepsParts: false, faults: {} };

function failureOf(started: ServerMessage | WeightcastError): WeightcastError | null {
  if (started instanceof WeightcastError) return started;
  return started.type === 'failed' ? fromWire(started.error) : null;
}

/** Workers of a server that was killed end on their own, a moment later. */
async function waitForExit(pids: readonly number[]): Promise<void> {
  const end = performance.now() + orphanMilliseconds;
  while (pids.some(isRunning) && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, pollMilliseconds));
  }
}
