import { availableParallelism } from 'node:os';
import { type CheckpointIndex, openCheckpoint } from '../../src/checkpoint/source.ts';
import { sendSurvey } from '../../src/engines/worker-link/survey-socket.ts';
import type { LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import { receiveWeights } from '../../src/engines/worker-link/worker-side.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { HostDevice } from '../../src/native-bridge/host-device.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import type { Faults, WorkerConfiguration } from './configuration.ts';
import { FaultyHandler } from './faulty-handler.ts';
import { readKeyValueHeads } from './model-configuration.ts';
import { layOutDump } from './model-tensors.ts';
import { layOutParameters } from './parameter-layout.ts';
import { partialSums } from './partial-sums.ts';
import { Recorded, WeightsInstaller } from './weights-installer.ts';
import { WorkerParameters } from './worker-parameters.ts';
import type { CallOf, ResultOf, WorkerMethod } from './worker-protocol.ts';

/** One tensor-parallel worker: a shard of the model on a device, and the methods that the server can call. */
export class EngineWorker {
  readonly #device: HostDevice;
  readonly #index: CheckpointIndex;
  readonly #parameters: WorkerParameters;
  readonly #pool: ThreadPool;
  #faults: Faults | null;
  readonly #hasDraftModel: boolean;
  readonly #recorded: Recorded | null;
  readonly #shard: Pick<WorkerConfiguration, 'rank' | 'ranks'>;

  private constructor(
    device: HostDevice,
    index: CheckpointIndex,
    parameters: WorkerParameters,
    pool: ThreadPool,
    faults: Faults | null,
    configuration: WorkerConfiguration,
  ) {
    this.#device = device;
    this.#index = index;
    this.#parameters = parameters;
    this.#pool = pool;
    this.#faults = faults;
    this.#hasDraftModel = configuration.hasDraftModel;
    this.#recorded = configuration.keepsParts ? new Recorded() : null;
    this.#shard = configuration;
  }

  /** Reads the headers of the checkpoint and allocates its tensors. Throws `CheckpointError` or `MemoryError`. */
  static async start(configuration: WorkerConfiguration, device: HostDevice): Promise<EngineWorker> {
    const { model, ranks, rank, faults } = configuration;
    const index = await openCheckpoint(model);
    const layout = layOutParameters(index, { ranks, rank, keyValueHeads: await readKeyValueHeads(model) });
    const pool = new ThreadPool(Math.max(1, Math.floor(availableParallelism() / ranks)));
    const parameters = await WorkerParameters.allocate({ layout, device, rank, pool });
    const fails = faults.rank === undefined || faults.rank === rank;
    return new EngineWorker(device, index, parameters, pool, fails ? faults : null, configuration);
  }

  readonly methods: {
    readonly [M in WorkerMethod]: (call: CallOf<M>) => ResultOf<M> | Promise<ResultOf<M>>;
  } = {
    receiveWeights: async ({ address, timeoutMilliseconds }) => {
      const device = this.#device;
      const installer = new WeightsInstaller(this.#parameters, this.#place('target'), this.#recorded);
      const faults = this.#faults;
      const handler = faults === null ? installer : new FaultyHandler(installer, faults, this.#parameters);
      if (faults?.once === true) this.#faults = null;
      const options = { address, deviceUuid: device.uuid, timeoutMilliseconds, clock: systemClock };
      const received = await receiveWeights(options, handler);
      if (this.#hasDraftModel)
        await receiveWeights(options, new WeightsInstaller(this.#parameters, this.#place('draft'), null));
      return received;
    },

    survey: async ({ address }) => {
      await sendSurvey(address, this.#device.uuid, [await this.#parameters.live(this.#place('target'))]);
      return null;
    },

    digestWeights: async () => {
      const names = this.#index.names;
      const { digests, part, parts } = await this.#parameters.digest(names);
      return {
        names,
        digests: [...digests].map((word) => word.toString(16)),
        part: [...part],
        parts: [...parts],
      };
    },

    deviceMemory: () => this.#device.memory(),

    writeParts: async ({ path }) => {
      const file = Mapping.open(path, true);
      try {
        await this.#parameters.writeParts(file, layOutDump(this.#index).offsets);
      } finally {
        file.close();
      }
      return null;
    },

    partialSums: (call) => partialSums(this.#parameters, call),
  };

  #place(which: 'target' | 'draft'): LiveDigests['place'] {
    const { rank, ranks } = this.#shard;
    return { engine: 'reference', which, ...(ranks > 1 && { tp: `${rank} of ${ranks}` }) };
  }

  /** Ends the threads; the memory is freed when the device is closed. */
  close(): void {
    this.#pool.close();
  }
}
