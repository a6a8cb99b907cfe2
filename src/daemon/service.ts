import { isDeepStrictEqual } from 'node:util';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterStatus, Progress } from '../actors/protocol/status-values.ts';
import type { ClusterOptions } from '../cluster/options.ts';
import { workersOf } from '../cluster/workers.ts';
import { describe, NotFoundError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { EngineList, FileRoots } from './access.ts';
import { ClusterKeeper, type KeeperState } from './cluster-keeper.ts';
import { EngineWatch } from './engine-watch.ts';
import { EventHub } from './event-hub.ts';
import type { CheckpointView, Registration } from './kept-checkpoint.ts';
import { KeptCheckpoints } from './kept-checkpoints.ts';
import { type InstanceView, KeptInstances, type NewInstance } from './kept-instances.ts';
import { Metrics } from './metrics.ts';
import { reasonsNotReady } from './readiness.ts';
import { SharedFiles } from './shared-files.ts';
import { Updates } from './updates.ts';

export interface ServiceOptions {
  readonly version: string;
  /** Directories of files that may be registered. */
  readonly roots: readonly string[];
  /** Engines that may be called, beside those of `instances` and those on loopback addresses. */
  readonly allowEngines: readonly string[];
  /** They join at the start. */
  readonly instances: readonly InstanceOptions[];
  /** If it is killed, complete versions in shared memory stay for so long, for the next daemon on the same socket. */
  readonly keep?: { readonly socket: string; readonly seconds: number };
  /** Of the cluster, which begins without instances. */
  readonly cluster: Omit<ClusterOptions, 'ranks' | 'instances' | 'onProgress'>;
}

export interface ServiceStatus {
  readonly state: KeeperState;
  readonly restarts: number;
  readonly reasons: readonly string[];
  readonly instances: readonly InstanceView[];
  readonly checkpoints: readonly CheckpointView[];
  readonly ranks: ClusterStatus['ranks'];
  readonly spareBytes: number;
}

/** What a daemon does for its clients, whichever way they ask. */
export class Service {
  readonly events = new EventHub();
  readonly checkpoints: KeptCheckpoints;
  readonly instances: KeptInstances;
  readonly updates: Updates;
  readonly metrics: Metrics;
  readonly shared: SharedFiles;
  readonly roots: FileRoots;
  readonly #keeper: ClusterKeeper;
  readonly #watch: EngineWatch;
  readonly #hosts: ClusterOptions['hosts'];
  readonly #log: Logger;

  private constructor(options: ServiceOptions, roots: FileRoots, shared: SharedFiles, log: Logger) {
    this.#log = log;
    this.#hosts = options.cluster.hosts;
    this.shared = shared;
    this.roots = roots;
    const onProgress = (progress: Progress) => {
      if (progress.activity === 'load') this.checkpoints.progress(progress);
      else this.updates.progress(progress);
    };
    this.#keeper = new ClusterKeeper(
      { ...options.cluster, ranks: 0, instances: [], onProgress },
      this.events,
      log,
    );
    const endpoints = options.instances.map(({ endpoint }) => endpoint);
    const engines = new EngineList([...options.allowEngines, ...endpoints]);
    this.checkpoints = new KeptCheckpoints(this.#keeper, roots, shared, this.events);
    this.#watch = new EngineWatch(log);
    this.instances = new KeptInstances(this.#keeper, engines, this.events, this.#watch);
    this.metrics = new Metrics(options.version, () => this.status());
    const { checkpoints, instances } = this;
    this.updates = new Updates(this.#keeper, checkpoints, instances, this.events, (...ended) =>
      this.metrics.updateEnded(...ended),
    );
  }

  /** Starts a cluster, which the configured instances join. Rejects with `UsageError`, and if one of them cannot join. */
  static async start(options: ServiceOptions, log: Logger): Promise<Service> {
    const shared = new SharedFiles(options.keep, log);
    try {
      const roots = await FileRoots.open([...options.roots, shared.path]);
      const service = new Service(options, roots, shared, log);
      await service.#keeper.start();
      try {
        await service.#adopt();
        // Ranks that are numbered here take what the others leave.
        const isNumbered = (one: InstanceOptions) => workersOf(one).every(({ ranks }) => ranks !== undefined);
        const addAll = (instances: readonly InstanceOptions[]) =>
          Promise.all(instances.map((instance) => service.add(instance)));
        await addAll(options.instances.filter(isNumbered));
        await addAll(options.instances.filter((one) => !isNumbered(one)));
        return service;
      } catch (error) {
        await service.#keeper.stop();
        throw error;
      }
    } catch (error) {
      shared.close();
      throw error;
    }
  }

  /** What a daemon of this socket had, that was killed, waits for the first instance. */
  async #adopt(): Promise<void> {
    for (const left of this.shared.adopt()) {
      try {
        await this.register(left);
        this.#log.info({ checkpoint: left.name }, 'it was complete when the daemon before was killed');
      } catch (error) {
        this.#log.warn(
          { checkpoint: left.name },
          `what the daemon before left is not used: ${describe(error)}`,
        );
      }
    }
  }

  async register(registration: Registration): Promise<CheckpointView> {
    if (registration.temporary)
      await this.checkpoints.dropTemporary([registration.name, ...this.instances.served]);
    return this.checkpoints.register(registration, () => this.instances.hasRanks);
  }

  /** Resolves when its ranks are ready, and hold what was registered before there were ranks. */
  async add(instance: NewInstance): Promise<void> {
    await this.instances.add(instance);
    await this.#keeper.use((cluster) => this.checkpoints.loadWaiting(cluster));
  }

  /** A client that wrote files is gone. Never rejects. */
  async sessionEnded(id: string): Promise<void> {
    await this.shared.closeSession(id);
    await this.checkpoints.dropEnded();
  }

  async remove(name: string): Promise<void> {
    await this.instances.remove(name);
    if (!this.instances.hasRanks) this.checkpoints.released();
  }

  /** The content of the join file of a host. Rejects with `NotFoundError`, and as `Cluster.joinFile`. */
  async joinFile(host: string): Promise<string> {
    if (this.#hosts?.[host]?.joins !== true)
      throw new NotFoundError(
        `the daemon has no host ${host} that joins (serve --host, or hosts of --config)`,
      );
    return this.#keeper.use((cluster) => cluster.joinFile(host));
  }

  /** Resolves also while there is no cluster. */
  async status(): Promise<ServiceStatus> {
    const [cluster, contradicted] = await this.#asked();
    const instances = this.instances.views(cluster, contradicted);
    const { state, restarts } = this.#keeper;
    return {
      state,
      restarts,
      reasons: reasonsNotReady(state, instances),
      instances,
      checkpoints: this.checkpoints.views(),
      ranks: cluster?.ranks ?? [],
      spareBytes: cluster?.spareBytes ?? 0,
    };
  }

  /** What the cluster says of its instances, null if there is none, and what their engines deny of it. */
  async #asked(): Promise<[ClusterStatus | null, ReadonlyMap<string, string>]> {
    const first = await this.#clusterStatus();
    if (first === null) return [null, new Map()];
    const contradicted = await this.instances.contradictions(first);
    if (contradicted.size === 0) return [first, contradicted];
    // What has changed meanwhile, as in an update, is no contradiction.
    const now = await this.#clusterStatus();
    const isAsBefore = (name: string) =>
      isDeepStrictEqual(instanceOf(first, name), now === null ? null : instanceOf(now, name));
    return [now, new Map([...contradicted].filter(([name]) => isAsBefore(name)))];
  }

  async #clusterStatus(): Promise<ClusterStatus | null> {
    try {
      const status = await this.#keeper.use((cluster) => cluster.status());
      this.instances.observe(status);
      return status;
    } catch (error) {
      this.#log.debug({}, `no status of the cluster: ${describe(error)}`);
      return null;
    }
  }

  async stop(): Promise<void> {
    // First: who waits for it is told.
    this.#watch.close();
    await this.#keeper.stop();
    this.shared.close();
  }
}

function instanceOf(status: ClusterStatus, name: string): object | null {
  return status.instances.find((one) => one.name === name) ?? null;
}
