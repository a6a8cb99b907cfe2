import { isDeepStrictEqual } from 'node:util';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterStatus, InstanceStatus } from '../actors/protocol/status-values.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { isHere, workersOf } from '../cluster/workers.ts';
import { BusyError, NotFoundError, UsageError } from '../errors.ts';
import type { EngineList } from './access.ts';
import type { ClusterKeeper } from './cluster-keeper.ts';
import type { EngineWatch } from './engine-watch.ts';
import type { EventHub } from './event-hub.ts';

/** `workerCount`, in place of ranks: so many, the lowest numbers in a row that nobody has. */
export interface NewInstance extends InstanceOptions {
  readonly workerCount?: number;
}

/** An instance as clients see it. */
export type InstanceView = InstanceStatus;

interface Kept {
  readonly options: InstanceOptions;
  /** In the order of its workers. */
  readonly ranks: readonly number[];
  /** Name of the checkpoint that it serves, as of the last time that the cluster said so. */
  served: string | null;
  /** Why nothing is known of its engine, which did not run when it was added. */
  unasked: string | null;
}

/** While nobody can be asked. */
const unknown = { state: 'unknown', version: null, isPaused: false, problem: null, draftKept: null } as const;

/** The instances of a daemon, and how they joined. */
export class KeptInstances {
  readonly #keeper: ClusterKeeper;
  readonly #engines: EngineList;
  readonly #events: EventHub;
  readonly #watch: EngineWatch;
  readonly #kept = new Map<string, Kept>();
  /** Those that are being added, and that are being removed. */
  readonly #adding = new Map<string, { readonly options: InstanceOptions; readonly added: Promise<void> }>();
  readonly #removing = new Map<string, Promise<void>>();

  constructor(keeper: ClusterKeeper, engines: EngineList, events: EventHub, watch: EngineWatch) {
    this.#keeper = keeper;
    this.#engines = engines;
    this.#events = events;
    this.#watch = watch;
  }

  get names(): string[] {
    return [...this.#kept.keys()];
  }

  /** Whether there are ranks, which hold checkpoints. */
  get hasRanks(): boolean {
    return this.#kept.size > 0;
  }

  /** Names of the checkpoints that they serve. */
  get served(): string[] {
    return [...this.#kept.values()].flatMap(({ served }) => served ?? []);
  }

  /** Throws `NotFoundError`, and `BusyError` while it is being added. */
  check(name: string): void {
    if (this.#adding.has(name)) throw new BusyError(`instance ${name} is being added`);
    if (!this.#kept.has(name)) throw new NotFoundError(`the daemon has no instance ${name}`);
  }

  withRank(rank: number): string | null {
    return this.names.find((name) => this.#kept.get(name)!.ranks.includes(rank)) ?? null;
  }

  /** How many ranks they have. */
  ranksOf(names: readonly string[]): number {
    return names.reduce((sum, name) => sum + (this.#kept.get(name)?.ranks.length ?? 0), 0);
  }

  /** The instance with this engine. */
  withEndpoint(endpoint: string): string | null {
    return this.names.find((name) => this.#kept.get(name)!.options.endpoint === endpoint) ?? null;
  }

  /** How many workers an engine has that is no instance yet; null if it does not say. Rejects with `AccessError`. */
  async workersAt(engine: Pick<InstanceOptions, 'name' | 'endpoint' | 'link'>): Promise<number | null> {
    this.#engines.check(engine.endpoint);
    return this.#watch.workersOf(engine);
  }

  /** Instances all of whose ranks are among these. */
  within(ranks: readonly number[]): string[] {
    return this.names.filter((name) => this.#kept.get(name)!.ranks.every((rank) => ranks.includes(rank)));
  }

  /**
   * Does nothing if it is there, with these options. An engine that does not run yet is asked in the first update. Rejects
   * with `AccessError`, and as `EngineWatch.check` and `Cluster.addInstance`.
   */
  async add(given: NewInstance): Promise<void> {
    const { name, endpoint } = given;
    this.#engines.check(endpoint);
    // One of that name that is just leaving is in nobody's way.
    await this.#removing.get(name)?.catch(() => {});
    const adding = this.#adding.get(name);
    const before = this.#kept.get(name) ?? adding;
    // From here on to where it is noted nothing is waited for: of two that come at once each gets ranks of its own.
    const options = onOwnDevices(this.#numbered(given, before?.options));
    if (before !== undefined) {
      // Who was told to try again, or gave up waiting, has added it already, or is still adding it.
      if (isDeepStrictEqual(before.options, options)) return adding?.added;
      throw new UsageError(`the daemon has an instance ${name} already, with other options`);
    }
    const added = this.#add(options).finally(() => this.#adding.delete(name));
    this.#adding.set(name, { options, added });
    return added;
  }

  /** `before`: the instance of that name, which keeps its ranks. Throws `UsageError`. */
  #numbered({ workerCount, ...instance }: NewInstance, before: InstanceOptions | undefined): InstanceOptions {
    if (workerCount === undefined) return instance;
    if (instance.ranks !== undefined || instance.workers !== undefined)
      throw new UsageError(
        `instance ${instance.name}: worker_count stands in place of ranks and workers; give one of them`,
      );
    const own = before === undefined ? [] : ranksAskedFor(before);
    if (own.length === workerCount) return { ...instance, ranks: own };
    const present = [...this.#kept.values(), ...this.#adding.values()];
    const taken = new Set(present.flatMap(({ options }) => ranksAskedFor(options)));
    for (const { ranks } of this.#kept.values()) for (const rank of ranks) taken.add(rank);
    return { ...instance, ranks: freeRun(taken, workerCount) };
  }

  async #add(options: InstanceOptions): Promise<void> {
    const unasked = await this.#watch.check(options);
    const status = await this.#keeper.use((cluster) => cluster.addInstance(options));
    const { ranks } = status.instances.find(({ name }) => name === options.name)!;
    this.#kept.set(options.name, { options, ranks, served: null, unasked });
    this.observe(status);
    this.#events.tell({ type: 'instance', instance: options.name, state: 'added' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.removeInstance`. */
  async remove(name: string): Promise<void> {
    this.check(name);
    const removed = this.#removing.get(name) ?? this.#remove(name).finally(() => this.#removing.delete(name));
    this.#removing.set(name, removed);
    return removed;
  }

  async #remove(name: string): Promise<void> {
    await this.#keeper.use((cluster) => cluster.removeInstance(name));
    this.#kept.delete(name);
    this.#watch.forget(name);
    this.#events.tell({ type: 'instance', instance: name, state: 'removed' });
  }

  /** Rejects with `NotFoundError`, and as `Cluster.resumeInstance`. */
  async resume(name: string): Promise<void> {
    this.check(name);
    await this.#keeper.use((cluster) => cluster.resumeInstance(name));
    this.#watch.forget(name);
    this.#events.tell({ type: 'instance', instance: name, state: 'resumed' });
  }

  /** Notes what an update has made of its instances. */
  updated({ checkpoint, instances }: UpdateReport): void {
    for (const { name, outcome } of instances) {
      const kept = this.#kept.get(name);
      if (kept === undefined) continue;
      if (outcome === 'updated') Object.assign(kept, { served: checkpoint, unasked: null });
      if (outcome === 'broken') kept.served = null;
      this.#watch.forget(name);
    }
  }

  /** Notes what a cluster says of its instances. */
  observe(status: ClusterStatus): void {
    for (const { name, state, version } of status.instances) {
      const kept = this.#kept.get(name);
      if (kept === undefined || state === 'updating' || state === 'verifying') continue;
      kept.served = version?.checkpoint ?? null;
    }
  }

  /** What engines say themselves, and not as the cluster has it, by instance. */
  async contradictions(status: ClusterStatus): Promise<ReadonlyMap<string, string>> {
    const asked = status.instances.map(async ({ name, state, isPaused, version }) => {
      const kept = this.#kept.get(name);
      if (kept === undefined || state !== 'serving' || isPaused || version === null) return [];
      const problem = await this.#watch.problem(kept.options);
      return problem === null ? [] : [[name, problem] as const];
    });
    return new Map((await Promise.all(asked)).flat());
  }

  /** `status`: of the cluster, null while there is none. `contradicted`: what their engines deny. */
  views(status: ClusterStatus | null, contradicted: ReadonlyMap<string, string>): InstanceView[] {
    return [...this.#kept].map(([name, { options, ranks, unasked }]) => {
      const { endpoint } = options;
      const current = status?.instances.find((one) => one.name === name);
      const denied = contradicted.get(name);
      if (current === undefined) return { name, endpoint, ranks: [...ranks], ...unknown };
      if (denied !== undefined) return { ...current, state: 'unknown', version: null, problem: denied };
      return { ...current, problem: current.problem ?? (current.state === 'unknown' ? unasked : null) };
    });
  }
}

/** The lowest numbers in a row that are free: workers of one engine are on devices side by side. */
function freeRun(taken: ReadonlySet<number>, count: number): number[] {
  for (let first = 0; ; first += 1) {
    const run = Array.from({ length: count }, (_, index) => first + index);
    if (!run.some((rank) => taken.has(rank))) return run;
  }
}

/** The numbers that it was given, not those that the cluster chose for devices. */
function ranksAskedFor(instance: InstanceOptions): number[] {
  return workersOf(instance).flatMap(({ ranks = [] }) => ranks);
}

/** Here rank n is on device n unless something else is said: which others have joined before has no say in it. */
function onOwnDevices(instance: InstanceOptions): InstanceOptions {
  const { ranks: _ranks, host: _host, devices: _devices, ...rest } = instance;
  return {
    ...rest,
    workers: workersOf(instance).map((group) =>
      isHere(group.host) && group.devices === undefined ? { ...group, devices: group.ranks! } : group,
    ),
  };
}
