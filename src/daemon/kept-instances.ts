import { isDeepStrictEqual } from 'node:util';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterStatus } from '../actors/protocol/status-values.ts';
import { NotFoundError, UsageError } from '../errors.ts';
import type { EngineList } from './access.ts';
import type { ClusterKeeper } from './cluster-keeper.ts';
import type { EventHub } from './event-hub.ts';

type InstanceStatus = ClusterStatus['instances'][number];

/** An instance as clients see it. */
export type InstanceView = InstanceStatus;

/** While nobody can be asked. */
const unknown = { state: 'unknown', version: null, isPaused: false } as const;

/** The instances of a daemon, and how they joined. */
export class KeptInstances {
  readonly #keeper: ClusterKeeper;
  readonly #engines: EngineList;
  readonly #events: EventHub;
  readonly #kept = new Map<string, InstanceOptions>();

  constructor(keeper: ClusterKeeper, engines: EngineList, events: EventHub) {
    this.#keeper = keeper;
    this.#engines = engines;
    this.#events = events;
  }

  get names(): string[] {
    return [...this.#kept.keys()];
  }

  /** Whether there are ranks, which hold checkpoints. */
  get hasRanks(): boolean {
    return this.#kept.size > 0;
  }

  /** Throws `NotFoundError`. */
  check(name: string): void {
    if (!this.#kept.has(name)) throw new NotFoundError(`the daemon has no instance ${name}`);
  }

  withRank(rank: number): string | null {
    return this.names.find((name) => this.#kept.get(name)!.ranks.includes(rank)) ?? null;
  }

  /** The instance with this engine. */
  withEndpoint(endpoint: string): string | null {
    return this.names.find((name) => this.#kept.get(name)!.endpoint === endpoint) ?? null;
  }

  /** Instances all of whose ranks are among these. */
  within(ranks: readonly number[]): string[] {
    return this.names.filter((name) => this.#kept.get(name)!.ranks.every((rank) => ranks.includes(rank)));
  }

  /** Does nothing if it is there, with these options. Rejects with `AccessError`, and as `Cluster.addInstance`. */
  async add(given: InstanceOptions): Promise<void> {
    // Which others have joined before has no say in it.
    const isHere = given.host === undefined && given.devices === undefined;
    const options = isHere ? { ...given, devices: given.ranks } : given;
    this.#engines.check(options.endpoint);
    const before = this.#kept.get(options.name);
    if (before !== undefined) {
      // Who was told to try again has added it already.
      if (isDeepStrictEqual(before, options)) return;
      throw new UsageError(`the daemon has an instance ${options.name} already, with other options`);
    }
    await this.#keeper.use((cluster) => cluster.addInstance(options));
    this.#kept.set(options.name, options);
    this.#events.tell({ type: 'instance', instance: options.name, state: 'added' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.removeInstance`. */
  async remove(name: string): Promise<void> {
    this.check(name);
    await this.#keeper.use((cluster) => cluster.removeInstance(name));
    this.#kept.delete(name);
    this.#events.tell({ type: 'instance', instance: name, state: 'removed' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.resumeInstance`. */
  async resume(name: string): Promise<void> {
    this.check(name);
    await this.#keeper.use((cluster) => cluster.resumeInstance(name));
    this.#events.tell({ type: 'instance', instance: name, state: 'resumed' });
  }

  /** `status`: of the cluster, null while there is none. */
  views(status: ClusterStatus | null): InstanceView[] {
    return [...this.#kept.values()].map(({ name, endpoint, ranks }) => {
      const current = status?.instances.find((one) => one.name === name);
      return current ?? { name, endpoint, ranks: [...ranks], ...unknown };
    });
  }
}
