import { DeadlineError, fromWire, PeerLostError, type WeightcastError } from '../../src/errors.ts';
import { type OwnedProcess, startProcess } from '../../src/processes/child-process.ts';
import type { WorkerConfiguration } from './configuration.ts';
import type { CallOf, ResultOf, WorkerCall, WorkerMessage, WorkerMethod } from './worker-protocol.ts';

/** How long after a call's deadline a worker that has not answered is killed. */
const overdueMilliseconds = 30_000;
/** A worker finishes its native copies before it exits. */
const graceMilliseconds = 10_000;

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: WeightcastError) => void;
}

/** A call in progress. */
export interface Call<T> {
  /** Rejects with the worker's own error, with `PeerLostError` if it dies, or with `DeadlineError`. */
  readonly result: Promise<T>;
  /** Resolves when the worker is done with it, which may be after its deadline. */
  readonly done: Promise<void>;
}

/** Resolves when the work has succeeded or failed. */
export function settled(work: Promise<unknown>): Promise<void> {
  return work.then(
    () => {},
    () => {},
  );
}

/** The server's end of one worker's process. */
export class WorkerHandle {
  readonly rank: number;
  readonly deviceUuid: string;
  readonly #process: OwnedProcess;
  readonly #pending = new Map<number, Pending>();
  #calls = 0;
  #lost: PeerLostError | null = null;

  private constructor(rank: number, deviceUuid: string, process: OwnedProcess) {
    this.rank = rank;
    this.deviceUuid = deviceUuid;
    this.#process = process;
  }

  /** Resolves when the worker has its parameters. If it cannot start, rejects with its error after its process has ended. */
  static async start(configuration: WorkerConfiguration): Promise<WorkerHandle> {
    const { rank, place } = configuration;
    let handle: WorkerHandle | null = null;
    let onFirst: (message: WorkerMessage) => void = () => {};
    const first = new Promise<WorkerMessage>((resolve) => {
      onFirst = resolve;
    });
    const onMessage = (message: unknown) => {
      if (handle === null) onFirst(message as WorkerMessage);
      else handle.#receive(message as WorkerMessage);
    };
    const child = startProcess('./worker', import.meta.url, configuration, onMessage, place.launcher);
    const ended = child.exited.then((how) => new PeerLostError(`worker ${rank} ended (${how})`));
    const started = await Promise.race([first, ended]);
    if (started instanceof PeerLostError) throw started;
    if (started.type !== 'ready') {
      await child.stop(graceMilliseconds);
      throw started.type === 'failed'
        ? fromWire(started.error)
        : new PeerLostError(`worker ${rank} sent "${started.type}" before it was ready`);
    }
    const ready = new WorkerHandle(rank, started.deviceUuid, child);
    handle = ready;
    ended.then((error) => ready.#lose(error));
    return ready;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Resolves when the worker's process has ended, with how. */
  get exited(): Promise<string> {
    return this.#process.exited;
  }

  call<M extends WorkerMethod>(method: M, call: CallOf<M>, timeoutMilliseconds: number): Call<ResultOf<M>> {
    const answer = this.#ask<ResultOf<M>>(method, call);
    const done = settled(answer);
    const result = new Promise<ResultOf<M>>((resolve, reject) => {
      let overdue: NodeJS.Timeout | undefined;
      const late = setTimeout(() => {
        reject(
          new DeadlineError(`worker ${this.rank} did not finish ${method} in ${timeoutMilliseconds} ms`),
        );
        overdue = setTimeout(() => this.#kill(), overdueMilliseconds);
      }, timeoutMilliseconds);
      answer.then(resolve, reject);
      done.then(() => {
        clearTimeout(late);
        clearTimeout(overdue);
      });
    });
    return { result, done };
  }

  async stop(): Promise<void> {
    await this.#process.stop(graceMilliseconds);
  }

  #ask<T>(method: WorkerMethod, call: object): Promise<T> {
    if (this.#lost !== null) return Promise.reject(this.#lost);
    this.#calls += 1;
    const message: WorkerCall = { id: this.#calls, method, call };
    return new Promise<T>((resolve, reject) => {
      this.#pending.set(message.id, { resolve: resolve as (result: unknown) => void, reject });
      this.#process.send(message);
    });
  }

  #receive(message: WorkerMessage): void {
    if (message.type !== 'result' && message.type !== 'error') return;
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.type === 'result') pending?.resolve(message.result);
    else pending?.reject(fromWire(message.error));
  }

  #lose(error: PeerLostError): void {
    this.#lost = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  /** Ends the engine with it: the state of a worker that does not answer is unknown. */
  #kill(): void {
    try {
      process.kill(this.pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  }
}
