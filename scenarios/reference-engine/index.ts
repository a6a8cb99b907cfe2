import { DeadlineError, fromWire, PeerLostError, WeightcastError } from '../../src/errors.ts';
import { startProcess } from '../../src/processes/child-process.ts';
import { sweepSharedMemory } from '../../src/processes/sweep.ts';
import type { EngineConfiguration, Faults } from './configuration.ts';
import type { ServerMessage } from './worker-protocol.ts';

/** The largest model that fits onto a machine is laid out sooner. */
const startMilliseconds = 3_600_000;
/** The server stops its workers first, which end the copies they are at. */
const graceMilliseconds = 20_000;
/** How long workers may outlive a server that was killed. */
const orphanMilliseconds = 10_000;
const lookEveryMilliseconds = 20;

export interface ReferenceEngineOptions {
  /** Of the served model. */
  readonly name: string;
  /** Checkpoint (directory or file) whose tensor names and shapes the model has; its weights are not read. */
  readonly model: string;
  /** Tensor-parallel workers, each on a host device of its own. */
  readonly ranks: number;
  readonly deviceNamespace: string;
  /** Bytes of each device; 0 takes what the first process to open it said. */
  readonly deviceCapacity: number;
  /** Index of the first worker's device; the others follow. 0 if not given. */
  readonly firstDevice?: number;
  /** Address to listen on; 127.0.0.1 if not given. */
  readonly host?: string;
  /** Any that is free if not given. */
  readonly port?: number;
  /** Whether it speculates with a draft model, which takes every update after the target model. */
  readonly hasDraftModel?: boolean;
  /** Ways to fail on purpose. */
  readonly faults?: Faults;
  /** Words put before the command that starts it, such as `['ip', 'netns', 'exec', 'b']`. */
  readonly launcher?: readonly string[];
}

/** An engine in processes of its own. They end with the process that started it, however that ends. */
export interface RunningEngine {
  readonly endpoint: string;
  /** A worker each, by rank. */
  readonly deviceUuids: readonly string[];
  readonly serverPid: number;
  /** By rank. */
  readonly workerPids: readonly number[];
  /** The server's and the workers'. */
  readonly pids: readonly number[];
  /** Resolves when the server is gone, with how it ended: `exit code 0`, `SIGKILL`. */
  readonly exited: Promise<string>;
  /** Resolves when all its processes are gone, and what they held with them. May be called twice. */
  stop(): Promise<void>;
}

/**
 * Starts an engine with dummy weights; resolves when it serves. Rejects with what kept it from that: `UsageError`,
 * `CheckpointError`, `MemoryError` if the model does not fit onto a device. Then nothing is left of it.
 */
export async function startReferenceEngine(options: ReferenceEngineOptions): Promise<RunningEngine> {
  const { launcher, ...given } = options;
  const configuration: EngineConfiguration = { ...defaults, ...given };
  let begun: (message: ServerMessage) => void = () => {};
  const first = new Promise<ServerMessage>((resolve) => {
    begun = resolve;
  });
  const onMessage = (message: unknown) => begun(message as ServerMessage);
  const server = startProcess('./server', import.meta.url, configuration, onMessage, launcher);
  const ended = server.exited.then((how) => new PeerLostError(`the engine ended (${how}) before it served`));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<DeadlineError>((resolve) => {
    const error = new DeadlineError(`the engine does not serve after ${startMilliseconds} ms`);
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
      await untilGone(workerPids);
      sweepSharedMemory();
    },
  };
}

const defaults = { firstDevice: 0, host: '127.0.0.1', port: 0, hasDraftModel: false, faults: {} };

function failureOf(started: ServerMessage | WeightcastError): WeightcastError | null {
  if (started instanceof WeightcastError) return started;
  return started.type === 'failed' ? fromWire(started.error) : null;
}

/** Workers of a server that was killed end by themselves, a moment later. */
async function untilGone(pids: readonly number[]): Promise<void> {
  const end = performance.now() + orphanMilliseconds;
  while (pids.some(isRunning) && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, lookEveryMilliseconds));
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
