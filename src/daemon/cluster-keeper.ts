import type { Progress } from '../actors/protocol/status-values.ts';
import { Cluster } from '../cluster/cluster.ts';
import type { ClusterOptions } from '../cluster/options.ts';
import { describe, NotReadyError, PeerLostError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import type { EventHub } from './event-hub.ts';

const firstPauseMilliseconds = 250;
const longestPauseMilliseconds = 30_000;

export type KeeperState = 'starting' | 'ready' | 'restarting' | 'stopping';

/** What a keeper does beside keeping. */
export interface KeeperTasks {
  readonly onProgress: (progress: Progress) => void;
  /** Called at once when the cluster is lost: what was running in it has failed. */
  readonly onLost: (cluster: Cluster) => void;
  /** Gives a new cluster what the lost one had. Rejects only if the new one is lost too. */
  readonly restore: (cluster: Cluster) => Promise<void>;
}

/**
 * A cluster, and another one whenever its supervisor's process has died. Meanwhile, whoever asks is told to try again.
 */
export class ClusterKeeper {
  readonly #options: ClusterOptions;
  readonly #tasks: KeeperTasks;
  readonly #events: EventHub;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #cluster: Cluster | null = null;
  #state: KeeperState = 'starting';
  #restarts = 0;
  #restarting: Promise<void> = Promise.resolve();

  constructor(options: ClusterOptions, tasks: KeeperTasks, events: EventHub, log: Logger) {
    this.#options = options;
    this.#tasks = tasks;
    this.#events = events;
    this.#log = log;
  }

  get state(): KeeperState {
    return this.#state;
  }

  /** How many times it has started another cluster. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Rejects as `Cluster.start` does. */
  async start(): Promise<void> {
    this.#watch(await this.#startCluster());
    this.#state = 'ready';
  }

  /**
   * Rejects as `work` does; with `NotReadyError` while there is no cluster, and with `PeerLostError` if the cluster is lost
   * meanwhile. Both say to try again.
   */
  async use<T>(work: (cluster: Cluster) => Promise<T>): Promise<T> {
    const cluster = this.check();
    try {
      return await work(cluster);
    } catch (error) {
      if (!cluster.lost.aborted) throw error;
      if (this.#stopping.signal.aborted) throw new NotReadyError('the daemon is stopping');
      throw new PeerLostError(`${shortly(cluster.lost.reason)}; the daemon starts another: try again`);
    }
  }

  /** Throws `NotReadyError` while there is no cluster. */
  check(): Cluster {
    if (this.#state === 'stopping') throw new NotReadyError('the daemon is stopping');
    if (this.#state !== 'ready' || this.#cluster === null)
      throw new NotReadyError('the daemon is starting its cluster again: try again');
    return this.#cluster;
  }

  /** Ends the cluster, and starts no other one. */
  async stop(): Promise<void> {
    this.#state = 'stopping';
    this.#stopping.abort();
    await this.#restarting;
    await this.#cluster?.stop();
  }

  async #startCluster(): Promise<Cluster> {
    const { onProgress } = this.#tasks;
    const cluster = await Cluster.start({ ...this.#options, onProgress });
    this.#cluster = cluster;
    return cluster;
  }

  #watch(cluster: Cluster): void {
    const onLost = () => {
      if (this.#stopping.signal.aborted) return;
      this.#state = 'restarting';
      this.#tasks.onLost(cluster);
      const how = shortly(cluster.lost.reason);
      this.#log.error({}, `${how}; starting another one`);
      this.#events.tell({ type: 'cluster', state: 'restarting', error: how });
      this.#restarting = this.#restart(cluster);
    };
    if (cluster.lost.aborted) onLost();
    else cluster.lost.addEventListener('abort', onLost, { once: true });
  }

  async #restart(lost: Cluster): Promise<void> {
    await lost.stop().catch((error) => this.#log.warn({}, `what the cluster left: ${describe(error)}`));
    for (let pause = firstPauseMilliseconds; !this.#stopping.signal.aborted; ) {
      this.#restarts += 1;
      let cluster: Cluster | null = null;
      try {
        cluster = await this.#startCluster();
        await this.#tasks.restore(cluster);
        if (cluster.lost.aborted) throw cluster.lost.reason;
        if (this.#stopping.signal.aborted) return;
        this.#state = 'ready';
        this.#events.tell({ type: 'cluster', state: 'ready' });
        this.#watch(cluster);
        return;
      } catch (error) {
        this.#log.error({}, `the cluster does not start: ${describe(error)}`);
        await cluster?.stop().catch(() => {});
        await this.#wait(pause);
        pause = Math.min(2 * pause, longestPauseMilliseconds);
      }
    }
  }

  #wait(milliseconds: number): Promise<void> {
    const { signal } = this.#stopping;
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener(
        'abort',
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    });
  }
}

/** How a cluster was lost, without what its caller is to do then: the daemon does it. */
function shortly(reason: unknown): string {
  return describe(reason).replace(/: its ranks end, .*$/s, '');
}
