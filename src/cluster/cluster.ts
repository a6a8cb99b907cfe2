import { availableParallelism, hostname } from 'node:os';
import { resolve } from 'node:path';
import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { type ObserverMessage, toObserver } from '../actors/protocol/observer.ts';
import type { ClusterStatus } from '../actors/protocol/status-values.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { anyOf } from '../actors/protocol/table.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { asForeign, type ForeignSource, readMetas, writeMetas } from '../checkpoint/metas.ts';
import type { NamedTensors } from '../checkpoint/named-tensors.ts';
import { ClusterConnection } from './connection.ts';
import { type ClusterOptions, checkInstance, checkOptions } from './options.ts';
import { ClusterTensors } from './tensors.ts';

/**
 * A safetensors file, a directory of a model, a list of files, tensors from memory, or a file that another cluster's
 * {@link Cluster.saveMetas} has written.
 */
export type Source =
  | string
  | readonly string[]
  | { readonly tensors: NamedTensors }
  | { readonly metas: string };

export interface UpdateOptions {
  /** Names of the instances to update. Default: all. */
  readonly instances?: readonly string[];
  /** Bytes of a bucket; by default the smallest that keeps the link busy. */
  readonly bucketBytes?: number;
  /** Part of the free device memory that the update may take. Default: 0.9. */
  readonly memoryFraction?: number;
  /** Have engine workers prove by digests what they hold, where they can. Default: true. */
  readonly verify?: boolean;
  /**
   * What ranks receive from other hosts they keep in the memory of their host, so that others may receive it from them
   * and a later update needs to receive nothing. Default: true.
   */
  readonly keepCopy?: boolean;
  /**
   * The whole update fails when it takes longer, whatever it waits for; what it took is given back within half a minute
   * more, and engines that were paused are given five seconds at least to go on. Default: ten minutes.
   */
  readonly timeoutMilliseconds?: number;
}

/**
 * A running weightcast cluster: a supervisor process and a process for each rank. All faces of weightcast are built
 * on this class.
 *
 * ```ts
 * const cluster = await Cluster.start({ ranks: 4, instances: [{ name: 'engine', endpoint, ranks: [0, 1, 2, 3] }] });
 * await cluster.register('step-100', '/checkpoints/step-100');
 * const report = await cluster.update('step-100');
 * await cluster.stop();
 * ```
 *
 * Its processes end with the process that started it, however that ends.
 */
export class Cluster {
  readonly #connection: ClusterConnection;
  readonly #tensors: ClusterTensors;
  readonly #hosts: ClusterOptions['hosts'];
  #stopped: Promise<void> | null = null;

  private constructor(connection: ClusterConnection, { hosts }: ClusterOptions) {
    this.#connection = connection;
    this.#tensors = new ClusterTensors(connection, hostname(), availableParallelism());
    this.#hosts = hosts;
  }

  /** Starts all processes and waits until every rank owns its device. On a throw nothing is left running. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    checkOptions(options);
    const cluster = new Cluster(await ClusterConnection.open(options), options);
    try {
      await cluster.#begin(options.onProgress);
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /**
   * Loads a checkpoint into the host memory of the ranks, under a name. A name that is taken is replaced once the
   * new checkpoint is whole. Rejects with `CheckpointError` naming file and tensor.
   */
  async register(name: string, source: Source): Promise<CheckpointStatus> {
    if (typeof source === 'object' && 'tensors' in source)
      return this.#tensors.register(name, source.tensors);
    if (typeof source === 'object' && 'metas' in source) return this.#registerMetas(name, source.metas);
    const value =
      typeof source === 'string'
        ? ({ kind: 'path', path: resolve(source) } as const)
        : ({ kind: 'files', files: source.map((file) => resolve(file)) } as const);
    return this.#connection.ask(toSupervisor.register, { checkpoint: name, source: value }, deadlines.load);
  }

  /**
   * Lets go of a checkpoint, whose name is free then. Its host memory is kept for the next checkpoint of the same size.
   * Rejects with `UsageError` while it is being installed or registered anew.
   */
  async unregister(name: string): Promise<void> {
    await this.#connection.ask(toSupervisor.unregister, { checkpoint: name }, deadlines.control);
  }

  /**
   * Gives back the host memory of checkpoints that were replaced or unregistered, which is kept, pinned, for the next ones
   * of the same sizes. Resolves with the bytes given back.
   */
  async releaseSpareMemory(): Promise<number> {
    const { bytes } = await this.#connection.ask(
      toSupervisor.releaseSpare,
      {},
      deadlines.abort + deadlines.control,
    );
    return bytes;
  }

  /**
   * Brings a registered checkpoint into instances, all of them unless `settings` names some. Resolves when every engine
   * worker has installed it; on any failure it rejects, everything that was taken is given back, and `status` says what
   * the instances hold. Updates of different instances may run at the same time.
   */
  async update(name: string, settings: UpdateOptions = {}): Promise<UpdateReport> {
    const timeoutMilliseconds = settings.timeoutMilliseconds ?? 600_000;
    const options = {
      instances: settings.instances === undefined ? undefined : [...settings.instances],
      bucketBytes: settings.bucketBytes,
      memoryFraction: settings.memoryFraction ?? 0.9,
      verify: settings.verify ?? true,
      keepCopy: settings.keepCopy ?? true,
      timeoutMilliseconds,
    };
    // The supervisor answers by itself within the timeout and the time that giving back takes.
    const deadline = timeoutMilliseconds + deadlines.abort + deadlines.engineResume + deadlines.control;
    return this.#connection.ask(toSupervisor.update, { checkpoint: name, options }, deadline);
  }

  /**
   * Starts rank processes for one more instance, and resolves when they are there. Its ranks have numbers that no other
   * instance has. {@link update} then brings it a checkpoint, from the memory of the ranks that hold it.
   */
  async addInstance(instance: InstanceOptions): Promise<ClusterStatus> {
    checkInstance(instance, this.#hosts);
    return this.#connection.ask(toSupervisor.addInstance, { instance }, deadlines.open);
  }

  /** Ends the ranks of an instance, which is not updated any more; the engine itself goes on. */
  async removeInstance(name: string): Promise<void> {
    await this.#connection.ask(toSupervisor.removeInstance, { instance: name }, deadlines.open);
  }

  /**
   * Writes where a registered checkpoint lies, so that another cluster can register it from there (`{ metas: file }`) and
   * read it from this one's ranks, as long as these live and the checkpoint stays registered; its host memory is not used
   * for another one after that. Who can read the file can read the checkpoint: it is made for its owner only.
   */
  async saveMetas(name: string, file: string): Promise<void> {
    const exported = await this.#connection.ask(
      toSupervisor.exportMetas,
      { checkpoint: name },
      deadlines.open,
    );
    await writeMetas(resolve(file), { ...exported, checkpoint: name, secret: this.#connection.fabricSecret });
  }

  async status(): Promise<ClusterStatus> {
    return this.#connection.ask(toSupervisor.status, {}, deadlines.control);
  }

  /** Cancels what is running and ends all processes. May be called twice, and at any time. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #begin(onProgress: ClusterOptions['onProgress']): Promise<void> {
    await this.#connection.ask(toSupervisor.awaitReady, {}, deadlines.open);
    if (onProgress === undefined) return;
    const observer = this.#connection.system.spawn<ObserverMessage>(
      'observer',
      () => ({ receive: ({ progress }) => onProgress(progress) }),
      {
        accepts: anyOf(toObserver),
        mailbox: { limit: 256, whenFull: 'drop-oldest' },
        supervision: { onCrash: 'stop' },
      },
    );
    await this.#connection.ask(toSupervisor.subscribe, { observer }, deadlines.control);
  }

  async #registerMetas(name: string, path: string): Promise<CheckpointStatus> {
    const { manifest, secret, sources } = asForeign(await readMetas(path));
    const source = { kind: 'metas' as const, manifest, secret, sources: sources.map(toMessage) };
    return this.#connection.ask(toSupervisor.register, { checkpoint: name, source }, deadlines.load);
  }

  async #stop(): Promise<void> {
    await this.#connection.close();
    this.#tensors.close();
  }
}

function toMessage({ nics, segments, ...source }: ForeignSource) {
  return { ...source, nics: [...nics], segments: [...segments] };
}
