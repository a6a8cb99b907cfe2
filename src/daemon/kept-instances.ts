import { isDeepStrictEqual } from 'node:util';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterStatus, InstanceStatus, KnownInstance } from '../actors/protocol/status-values.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import type { Cluster } from '../cluster/cluster.ts';
import { describe, NotFoundError, UsageError } from '../errors.ts';
import type { EngineList } from './access.ts';
import type { ClusterKeeper } from './cluster-keeper.ts';
import type { EventHub } from './event-hub.ts';

/** An instance as clients see it. `absent`: it could not join again after the supervisor's death; `problem` says why. */
export interface InstanceView extends Omit<InstanceStatus, 'state'> {
  readonly state: InstanceStatus['state'] | 'absent';
}

interface Kept {
  readonly options: InstanceOptions;
  /** What its engine holds, as of the last time that the cluster said so. */
  known: KnownInstance;
  /** Why it could not join again. */
  problem: string | null;
}

const unknown: KnownInstance = { state: 'unknown', version: null, isPaused: false, problem: null };

/** The instances of a daemon: how they joined, and what is known of their engines, so that they can join again. */
export class KeptInstances {
  readonly #keeper: ClusterKeeper;
  readonly #engines: EngineList;
  readonly #events: EventHub;
  readonly #kept = new Map<string, Kept>();

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
    return [...this.#kept.values()].some(({ problem }) => problem === null);
  }

  /** Throws `NotFoundError`. */
  check(name: string): void {
    if (!this.#kept.has(name)) throw new NotFoundError(`the daemon has no instance ${name}`);
  }

  withRank(rank: number): string | null {
    return this.names.find((name) => this.#kept.get(name)!.options.ranks.includes(rank)) ?? null;
  }

  /** The instance with this engine. */
  withEndpoint(endpoint: string): string | null {
    return this.names.find((name) => this.#kept.get(name)!.options.endpoint === endpoint) ?? null;
  }

  /** Instances all of whose ranks are among these. */
  within(ranks: readonly number[]): string[] {
    return this.names.filter((name) =>
      this.#kept.get(name)!.options.ranks.every((rank) => ranks.includes(rank)),
    );
  }

  /** Does nothing if it is there, with these options. Rejects with `AccessError`, and as `Cluster.addInstance`. */
  async add(given: InstanceOptions): Promise<void> {
    // Which others have joined before has no say in it.
    const isHere = given.host === undefined && given.devices === undefined;
    const options = isHere ? { ...given, devices: given.ranks } : given;
    this.#engines.check(options.endpoint);
    const before = this.#kept.get(options.name);
    if (before !== undefined && before.problem === null) {
      // Who was told to try again has added it already.
      if (isDeepStrictEqual(before.options, options)) return;
      throw new UsageError(`the daemon has an instance ${options.name} already, with other options`);
    }
    const known = before?.known ?? unknown;
    const status = await this.#keeper.use((cluster) => cluster.addInstance(options, known));
    this.#kept.set(options.name, { options, known, problem: null });
    this.observe(status);
    this.#events.tell({ type: 'instance', instance: options.name, state: 'added' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.removeInstance`. */
  async remove(name: string): Promise<void> {
    this.check(name);
    if (this.#kept.get(name)!.problem === null)
      await this.#keeper.use((cluster) => cluster.removeInstance(name));
    this.#kept.delete(name);
    this.#events.tell({ type: 'instance', instance: name, state: 'removed' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.resumeInstance`. */
  async resume(name: string): Promise<void> {
    this.check(name);
    await this.#keeper.use((cluster) => cluster.resumeInstance(name));
    const kept = this.#kept.get(name);
    if (kept !== undefined) kept.known = { ...kept.known, isPaused: false };
    this.#events.tell({ type: 'instance', instance: name, state: 'resumed' });
  }

  /** Notes what an update has made of its instances. */
  updated({ checkpoint, digest, instances }: UpdateReport): void {
    for (const { name, outcome, paused, error } of instances) {
      const kept = this.#kept.get(name);
      if (kept === undefined) continue;
      const made = {
        updated: { state: 'serving', version: { checkpoint, digest } },
        unchanged: kept.known,
        broken: { state: 'broken', version: null },
      } as const;
      const problem = outcome === 'broken' || paused ? (error?.message ?? null) : null;
      kept.known = { ...made[outcome], isPaused: paused, problem };
    }
  }

  /** Notes what a cluster says of its instances. */
  observe(status: ClusterStatus): void {
    for (const { name, state, version, isPaused, problem } of status.instances) {
      const kept = this.#kept.get(name);
      if (kept === undefined || state === 'updating' || state === 'verifying') continue;
      kept.known = { state, version, isPaused, problem };
    }
  }

  /**
   * The supervisor's process has died. Nobody knows what its engines got of an update that was installing something: they
   * count as broken, so that they are neither served from nor resumed before an update has succeeded.
   */
  lost({ known }: Cluster): void {
    for (const [name, kept] of this.#kept) kept.known = known.get(name) ?? kept.known;
  }

  /** Lets all join a new cluster. Rejects only if that is lost too. */
  async restore(cluster: Cluster): Promise<void> {
    const joins = [...this.#kept].map(async ([name, kept]) => {
      try {
        await cluster.addInstance(kept.options, kept.known);
        kept.problem = null;
      } catch (error) {
        if (cluster.lost.aborted) throw error;
        kept.problem = describe(error);
        this.#events.tell({ type: 'instance', instance: name, state: 'absent', problem: kept.problem });
      }
    });
    await Promise.all(joins);
  }

  /** `status`: of the cluster, null while there is none. */
  views(status: ClusterStatus | null): InstanceView[] {
    return [...this.#kept].map(([name, { options, known, problem }]) => {
      const { endpoint, ranks } = options;
      const current = status?.instances.find((one) => one.name === name);
      if (current !== undefined) return current;
      const state = problem === null ? known.state : 'absent';
      return { name, endpoint, ranks: [...ranks], ...known, state, problem: problem ?? known.problem };
    });
  }
}
