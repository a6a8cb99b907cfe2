import { PeerLostError } from '../../src/errors.ts';
import { sweepSharedMemory } from '../../src/processes/sweep.ts';
import type { EngineConfiguration } from './configuration.ts';
import { type Call, WorkerHandle } from './worker-handle.ts';
import type { CallOf, ResultOf, WorkerMethod } from './worker-protocol.ts';

/** All workers of the engine, which is dead as soon as one of them is. */
export class WorkerGroup {
  readonly workers: readonly WorkerHandle[];
  #lost: PeerLostError | null = null;

  private constructor(workers: readonly WorkerHandle[], onLost: (error: PeerLostError) => void) {
    this.workers = workers;
    for (const { rank, exited } of workers) {
      exited.then((how) => {
        // The memory of a killed worker would stay if no other process has its device open.
        sweepSharedMemory();
        if (this.#lost !== null) return;
        this.#lost = new PeerLostError(`the engine is dead: worker ${rank} ended (${how})`);
        onLost(this.#lost);
      });
    }
  }

  /** Starts a worker for each rank. If one cannot start, stops the others and rejects with its error. */
  static async start(
    configuration: EngineConfiguration,
    onLost: (error: PeerLostError) => void,
  ): Promise<WorkerGroup> {
    const { model, places, deviceCapacity, hasDraftModel, keepsParts, faults } = configuration;
    const starts = await Promise.allSettled(
      places.map((place, rank) =>
        WorkerHandle.start({
          model,
          ranks: places.length,
          rank,
          place,
          deviceCapacity,
          hasDraftModel,
          keepsParts,
          faults,
        }),
      ),
    );
    const workers = starts.flatMap((start) => (start.status === 'fulfilled' ? [start.value] : []));
    const failure = starts.find((start) => start.status === 'rejected');
    if (failure === undefined) return new WorkerGroup(workers, onLost);
    await Promise.all(workers.map((worker) => worker.stop()));
    sweepSharedMemory();
    throw failure.reason;
  }

  /** Why the engine is dead; null while it lives. */
  get lost(): PeerLostError | null {
    return this.#lost;
  }

  /** Calls all workers; the result has one entry per worker. Rejects with the first failure, while others may still work. */
  callAll<M extends WorkerMethod>(
    method: M,
    callOf: (worker: WorkerHandle) => CallOf<M>,
    timeoutMilliseconds: number,
  ): Call<ResultOf<M>[]> {
    const calls = this.workers.map((worker) => worker.call(method, callOf(worker), timeoutMilliseconds));
    const result = Promise.all(calls.map((call) => call.result));
    const done = Promise.all(calls.map((call) => call.done)).then(() => {});
    return { result, done };
  }

  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.stop()));
    sweepSharedMemory();
  }
}
