import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterStatus } from '../actors/protocol/status-values.ts';
import type { Cluster } from '../cluster/cluster.ts';
import type { ClusterOptions } from '../cluster/options.ts';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { EngineList, FileRoots } from './access.ts';
import { ClusterKeeper, type KeeperState } from './cluster-keeper.ts';
import { EventHub } from './event-hub.ts';
import { type CheckpointView, KeptCheckpoints, type Registration } from './kept-checkpoints.ts';
import { type InstanceView, KeptInstances } from './kept-instances.ts';
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
  readonly #log: Logger;

  private constructor(options: ServiceOptions, roots: FileRoots, shared: SharedFiles, log: Logger) {
    this.#log = log;
    this.shared = shared;
    this.roots = roots;
    const tasks = {
      onProgress: (progress: Parameters<Updates['progress']>[0]) => {
        if (progress.activity === 'load') this.checkpoints.progress(progress);
        else this.updates.progress(progress);
      },
      onLost: (cluster: Cluster) => this.instances.lost(cluster),
      restore: async (cluster: Parameters<KeptInstances['restore']>[0]) => {
        await this.instances.restore(cluster);
        this.checkpoints.released();
        if (this.instances.hasRanks) await this.checkpoints.loadWaiting(cluster);
      },
    };
    this.#keeper = new ClusterKeeper(
      { ...options.cluster, ranks: 0, instances: [] },
      tasks,
      this.events,
      log,
    );
    const endpoints = options.instances.map(({ endpoint }) => endpoint);
    const engines = new EngineList([...options.allowEngines, ...endpoints]);
    this.checkpoints = new KeptCheckpoints(this.#keeper, roots, shared, this.events);
    this.instances = new KeptInstances(this.#keeper, engines, this.events);
    this.metrics = new Metrics(options.version, () => this.status());
    const { checkpoints, instances } = this;
    this.updates = new Updates(this.#keeper, checkpoints, instances, this.events, (...ended) =>
      this.metrics.updateEnded(...ended),
    );
  }

  /** Starts a cluster, which the configured instances join. Rejects with `UsageError`, and if one of them cannot join. */
  static async start(options: ServiceOptions, log: Logger): Promise<Service> {
    const shared = new SharedFiles();
    try {
      const roots = await FileRoots.open([...options.roots, shared.path]);
      const service = new Service(options, roots, shared, log);
      await service.#keeper.start();
      try {
        await Promise.all(options.instances.map((instance) => service.add(instance)));
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

  register(registration: Registration): Promise<CheckpointView> {
    return this.checkpoints.register(registration, this.instances.hasRanks);
  }

  /** Resolves when its ranks are ready, and hold what was registered before there were ranks. */
  async add(instance: InstanceOptions): Promise<void> {
    await this.instances.add(instance);
    await this.#keeper.use((cluster) => this.checkpoints.loadWaiting(cluster));
  }

  async remove(name: string): Promise<void> {
    await this.instances.remove(name);
    if (!this.instances.hasRanks) this.checkpoints.released();
  }

  /** Resolves also while there is no cluster. */
  async status(): Promise<ServiceStatus> {
    const cluster = await this.#keeper
      .use((one) => one.status())
      .catch((error) => {
        this.#log.debug({}, `no status of the cluster: ${describe(error)}`);
        return null;
      });
    if (cluster !== null) this.instances.observe(cluster);
    const instances = this.instances.views(cluster);
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

  async stop(): Promise<void> {
    await this.#keeper.stop();
    this.shared.close();
  }
}
