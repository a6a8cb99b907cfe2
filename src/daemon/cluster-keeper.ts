import { Cluster } from '../cluster/cluster.ts';
import type { ClusterOptions } from '../cluster/options.ts';
import type { SupervisorEvent } from '../cluster/supervisor-fate.ts';
import { NotReadyError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import type { EventHub } from './event-hub.ts';

export type KeeperState = 'starting' | 'ready' | 'restarting' | 'stopping';

/** The daemon's cluster. While its supervisor is being replaced, whoever asks is told to try again. */
export class ClusterKeeper {
  readonly #options: ClusterOptions;
  readonly #events: EventHub;
  readonly #log: Logger;
  #cluster: Cluster | null = null;
  #state: KeeperState = 'starting';
  #restarts = 0;

  constructor(options: ClusterOptions, events: EventHub, log: Logger) {
    this.#options = options;
    this.#events = events;
    this.#log = log;
  }

  get state(): KeeperState {
    return this.#state;
  }

  /** How many times its supervisor was replaced. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Rejects as `Cluster.start` does. */
  async start(): Promise<void> {
    const onSupervisor = (event: SupervisorEvent) => this.#supervisorChanged(event);
    this.#cluster = await Cluster.start({ ...this.#options, onSupervisor });
    if (this.#state === 'starting') this.#state = 'ready';
  }

  /** Rejects as `work` does, and with `NotReadyError` while there is no supervisor. */
  async use<T>(work: (cluster: Cluster) => Promise<T>): Promise<T> {
    return work(this.check());
  }

  /** Throws `NotReadyError` while there is no supervisor. */
  check(): Cluster {
    if (this.#state === 'stopping') throw new NotReadyError('the daemon is stopping');
    if (this.#state !== 'ready' || this.#cluster === null)
      throw new NotReadyError('the daemon is starting another supervisor: try again');
    return this.#cluster;
  }

  /** Ends the cluster. */
  async stop(): Promise<void> {
    this.#state = 'stopping';
    await this.#cluster?.stop();
  }

  #supervisorChanged(event: SupervisorEvent): void {
    if (this.#state === 'stopping') return;
    if (event.state === 'lost') {
      this.#state = 'restarting';
      this.#log.error({}, event.reason.message);
      this.#events.tell({ type: 'cluster', state: 'restarting', error: event.reason.message });
      return;
    }
    this.#state = 'ready';
    this.#restarts += 1;
    this.#events.tell({ type: 'cluster', state: 'ready' });
  }
}
