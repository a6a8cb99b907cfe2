import { availableParallelism, hostname } from 'node:os';
import { resolve } from 'node:path';
import * as z from 'zod';
import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { type ObserverMessage, toObserver } from '../actors/protocol/observer.ts';
import type { ClusterStatus } from '../actors/protocol/status-values.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { anyOf } from '../actors/protocol/table.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { metasText, writeMetas } from '../checkpoint/metas.ts';
import type { NamedTensors } from '../checkpoint/named-tensors.ts';
import { escapeControls } from '../checkpoint/printable.ts';
import { UsageError } from '../errors.ts';
import { writeSecret } from '../secret-file.ts';
import { askUpdate } from './ask-update.ts';
import { ClusterConnection, type StopReport } from './connection.ts';
import { askMetas, registerMetas } from './foreign-checkpoints.ts';
import { checkForm, registerOptions, source as sourceForm, updateOptions } from './inputs.ts';
import { type ClusterOptions, checkOptions } from './options.ts';
import { ClusterTensors } from './tensors.ts';
import { type UpdateOptions, updateRequestOf } from './update-options.ts';
import { checkInstance } from './workers.ts';

export type { StopReport } from './connection.ts';
export type { UpdateOptions } from './update-options.ts';

/**
 * A safetensors file, a model's directory, a list of files, tensors from memory, or a metas file that another cluster has
 * written with {@link Cluster.saveMetas}.
 */
export type Source =
  | string
  | readonly string[]
  | { readonly tensors: NamedTensors }
  | { readonly metas: string };

export interface RegisterOptions {
  /**
   * The hosts whose ranks load the files; all of them must see the same ones, as on a shared file system. Default: all
   * hosts that see the files whose headers this host reads; other hosts get the weights through the network. For files only.
   */
  readonly hosts?: readonly string[];
}

/** Each option has its form. */
const updateForm = z.strictObject(updateOptions satisfies Record<keyof UpdateOptions, z.ZodType>);

/**
 * A running weightcast cluster: a supervisor process, and one process per rank.
 *
 * ```ts
 * const cluster = await Cluster.start({ ranks: 4, instances: [{ name: 'engine', endpoint, ranks: [0, 1, 2, 3] }] });
 * await cluster.register('step-100', '/checkpoints/step-100');
 * const report = await cluster.update('step-100');
 * await cluster.stop();
 * ```
 *
 * Its processes end when the process that started it ends, even if that is killed. When the supervisor's process dies, calls
 * that are under way reject with `PeerLostError`, and another one is started: what is called then waits for it. It knows the
 * instances and the checkpoints that were registered, whose memory ranks keep meanwhile.
 */
export class Cluster {
  readonly #connection: ClusterConnection;
  readonly #tensors: ClusterTensors;
  readonly #hosts: ClusterOptions['hosts'];
  /** Ranks that are late say so before this. */
  readonly #startMilliseconds: number;
  #stopped: Promise<StopReport> | null = null;

  private constructor(
    connection: ClusterConnection,
    { hosts, startTimeoutMilliseconds = deadlines.start }: ClusterOptions,
  ) {
    this.#startMilliseconds = startTimeoutMilliseconds + deadlines.control;
    this.#connection = connection;
    this.#tensors = new ClusterTensors(connection, hostname(), availableParallelism());
    this.#hosts = hosts;
  }

  /**
   * Starts all processes, and resolves when every rank owns its device. Rejects with `UsageError` for an invalid option, and
   * with what made the start fail; then nothing is left running.
   */
  static async start(options: ClusterOptions): Promise<Cluster> {
    checkOptions(options);
    const cluster = new Cluster(await ClusterConnection.open(options), options);
    try {
      for (const [host, { joinFile }] of Object.entries(options.hosts ?? {}))
        if (joinFile !== undefined) await cluster.saveJoinFile(host, joinFile);
      await cluster.#begin(options.onProgress);
      return cluster;
    } catch (error) {
      // How it ends is not what the caller has to hear.
      await cluster.stop().catch(() => {});
      throw error;
    }
  }

  /**
   * Loads a checkpoint into host memory, shared out over the ranks. A checkpoint of the same name is replaced once the new
   * one is complete. Tensors from memory must not change before this resolves. A file in /dev/shm is used in place: it may be
   * replaced by another one under its path, but must not be written, until the checkpoint is unregistered or replaced.
   *
   * Rejects with `CheckpointError` naming file, host and tensor, also for a file that changes meanwhile, and with
   * `BusyError` while another registration runs.
   */
  async register(name: string, source: Source, options: RegisterOptions = {}): Promise<CheckpointStatus> {
    checkForm('register', sourceForm, source);
    checkForm('register', registerOptions, options);
    const isOfFiles = typeof source === 'string' || Array.isArray(source);
    if (options.hosts !== undefined && !isOfFiles)
      throw new UsageError('register: hosts chooses which hosts load files; there are none');
    if (typeof source === 'object' && 'tensors' in source)
      return this.#tensors.register(name, source.tensors);
    if (typeof source === 'object' && 'metas' in source)
      return registerMetas(this.#connection, name, source.metas);
    const value =
      typeof source === 'string'
        ? ({ kind: 'path', path: resolve(source) } as const)
        : ({ kind: 'files', files: source.map((file) => resolve(file)) } as const);
    const question = { checkpoint: name, source: value, hosts: options.hosts && [...options.hosts] };
    return this.#connection.ask(toSupervisor.register, question, deadlines.load);
  }

  /**
   * Removes a checkpoint. Its host memory is kept for later checkpoints of the same sizes, as far as
   * `ClusterOptions.spareCheckpoints` allows. Rejects with `BusyError` while the checkpoint is being installed or
   * replaced.
   */
  async unregister(name: string): Promise<void> {
    await this.#connection.ask(toSupervisor.unregister, { checkpoint: name }, deadlines.control);
  }

  /**
   * Releases the host memory of replaced or unregistered checkpoints that is kept, pinned, for later ones. Resolves with the
   * number of bytes.
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
   * Installs a registered checkpoint in all instances, or in those that `options` names. Resolves when each of them has it,
   * or has failed: `report.instances` tells their outcomes. One that fails, or whose ranks are not ready, does not keep the
   * others from being updated. Engines that were paused for it are resumed, except broken ones.
   *
   * Rejects if no instance was updated, or with `atomic` if not all of them were, or are still paused; the error says so of
   * each. In any case ranks release what the update allocated, and {@link status} tells what each instance holds. Updates of
   * different instances may run at the same time.
   */
  async update(name: string, options: UpdateOptions = {}): Promise<UpdateReport> {
    checkForm('update', updateForm, options);
    const timeoutMilliseconds = options.timeoutMilliseconds ?? 600_000;
    // The supervisor answers within the timeout and the time that cleanup takes.
    const deadline = timeoutMilliseconds + deadlines.abort + deadlines.engineResume + deadlines.control;
    const question = { checkpoint: name, options: updateRequestOf(options, timeoutMilliseconds) };
    return askUpdate(this.#connection, question, deadline, options.signal);
  }

  /**
   * Resolves when ranks have let go of the memory of all checkpoints that were replaced or unregistered before: with false if
   * one of them has not answered.
   */
  async released(): Promise<boolean> {
    const { all } = await this.#connection.ask(
      toSupervisor.released,
      {},
      deadlines.abort + deadlines.control,
    );
    return all;
  }

  /**
   * Starts the rank processes of one more instance, whose ranks no other instance may have. Resolves when they own their
   * devices. {@link update} then installs a checkpoint in it, from the memory of the ranks that hold it.
   */
  async addInstance(options: InstanceOptions): Promise<ClusterStatus> {
    checkInstance(options, this.#hosts);
    const { workers } = this.#connection;
    const [instance] = workers.take([options]);
    const question = { instance: instance! };
    try {
      const status = await this.#connection.ask(toSupervisor.addInstance, question, this.#startMilliseconds);
      this.#connection.joined(instance!);
      return status;
    } catch (error) {
      workers.release(instance!);
      throw error;
    }
  }

  /** Ends the ranks of an instance. Its engine keeps running. Rejects with `BusyError` while it is being updated. */
  async removeInstance(name: string): Promise<void> {
    await this.#connection.ask(toSupervisor.removeInstance, { instance: name }, deadlines.open);
    this.#connection.left(name);
  }

  /**
   * Resumes the engine of an instance that an update has left paused, whatever weights it holds. Rejects with `BusyError`
   * while it is being updated, and with `EngineError` if it cannot be resumed.
   */
  async resumeInstance(name: string): Promise<void> {
    const deadline = deadlines.engineResume + 2 * deadlines.control;
    await this.#connection.ask(toSupervisor.resumeInstance, { instance: name }, deadline);
  }

  /**
   * Writes a metas file, with which another cluster can register a checkpoint (`{ metas: file }`) and read it from this
   * one's ranks, as long as these run and the checkpoint stays registered. Its host memory is not reused for another one
   * after that. The file holds a secret that gives access to the checkpoint: only its owner may read it.
   */
  async saveMetas(name: string, file: string): Promise<void> {
    await writeMetas(resolve(file), await askMetas(this.#connection, name));
  }

  /** The content of such a file. */
  async metas(name: string): Promise<string> {
    return metasText(await askMetas(this.#connection, name));
  }

  /**
   * The content of the join file of a host with `joins`, with which `weightcast agent` becomes the host's agent. It is a secret:
   * who has it is a member of the cluster. It is valid as long as the cluster lives.
   */
  async joinFile(host: string): Promise<string> {
    if (this.#hosts?.[host]?.joins !== true)
      throw new UsageError(`joinFile: the option hosts has no host ${escapeControls(host)} that joins`);
    return this.#connection.joinText(host);
  }

  /** Writes it, for its owner only. */
  async saveJoinFile(host: string, file: string): Promise<void> {
    await writeSecret(resolve(file), await this.joinFile(host));
  }

  async status(): Promise<ClusterStatus> {
    return this.#connection.ask(toSupervisor.status, {}, deadlines.control);
  }

  /**
   * Aborts running work, resumes the engines that it paused unless they are broken, and ends all processes, on all hosts:
   * those that hang are killed. Takes at most `ClusterOptions.stopTimeoutMilliseconds` and some seconds. May be called at any
   * time, and more than once.
   */
  stop(): Promise<StopReport> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #begin(onProgress: ClusterOptions['onProgress']): Promise<void> {
    await this.#connection.ask(toSupervisor.awaitReady, {}, this.#startMilliseconds);
    if (onProgress === undefined) return;
    const observer = this.#connection.system.spawn<ObserverMessage>(
      'observer',
      () => ({
        receive: (message, context) => {
          onProgress(message.progress);
          context.reply(message, {});
        },
      }),
      {
        accepts: anyOf(toObserver),
        mailbox: { limit: 256, whenFull: 'drop-oldest' },
        supervision: { onCrash: 'stop' },
      },
    );
    const subscribe = async () => {
      await this.#connection.askNew(toSupervisor.subscribe, { observer }, deadlines.control);
    };
    await subscribe();
    this.#connection.onReplaced(subscribe);
  }

  async #stop(): Promise<StopReport> {
    try {
      return await this.#connection.close();
    } finally {
      this.#tensors.close();
    }
  }
}
