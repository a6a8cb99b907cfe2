import { resetsCache } from '../../engines/engine-client.ts';
import { NotReadyError, UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { InstanceStatus, KnownInstance } from '../protocol/status-values.ts';
import type { InstanceLedger, InstanceOutcome, UpdateTarget } from '../update/context.ts';

interface Entry {
  readonly options: InstanceOptions;
  readonly bridge: ActorRef<BridgeMessage>;
  /** Why it cannot be updated now: one of its ranks is in trouble. */
  failure: WeightcastError | null;
  held: Held;
  /** What it held before the running update; null while none runs. */
  before: Held | null;
  isPaused: boolean;
  /** Why it was broken or paused when that was said last. */
  problem: string | null;
}

interface Held {
  readonly state: InstanceStatus['state'];
  readonly version: InstanceStatus['version'];
}

const unknown: Held = { state: 'unknown', version: null };
const updating: Held = { state: 'updating', version: null };
const verifying: Held = { state: 'verifying', version: null };
const broken: Held = { state: 'broken', version: null };

/** Removed instances whose engines are still broken or paused; the oldest is dropped first. */
const removedLimit = 1_024;

/** The ledger of the cluster's engine instances and of what each serves. It has no effects. */
export class InstanceRegistry implements InstanceLedger {
  readonly #entries = new Map<string, Entry>();
  /** Their engines are as they were when they join again. */
  readonly #removed = new Map<string, Pick<Entry, 'held' | 'isPaused' | 'problem'>>();
  readonly #onChange: (instance: InstanceStatus) => void;

  /** `onChange` is called before an engine can have heard of what has changed. */
  constructor(onChange: (instance: InstanceStatus) => void = () => {}) {
    this.#onChange = onChange;
  }

  /** Throws `UsageError` if the name is taken. */
  checkNew(name: string): void {
    if (this.#entries.has(name)) throw new UsageError(`the cluster has an instance ${name} already`);
  }

  /** Throws `UsageError` if the name is taken. */
  add(options: InstanceOptions, bridge: ActorRef<BridgeMessage>, known?: KnownInstance): void {
    this.checkNew(options.name);
    const before = known && { held: known, isPaused: known.isPaused, problem: known.problem };
    const {
      held = unknown,
      isPaused = false,
      problem = null,
    } = this.#removed.get(options.name) ?? before ?? {};
    this.#removed.delete(options.name);
    const entry = { options, bridge, failure: null, held, before: null, isPaused, problem };
    this.#entries.set(options.name, entry);
    this.#onChange(statusOf(entry));
  }

  /** Returns its bridge, if there is such an instance. */
  remove(name: string): ActorRef<BridgeMessage> | null {
    const entry = this.#entries.get(name);
    if (entry !== undefined && (entry.held.state === 'broken' || entry.isPaused)) {
      const held = entry.held.state === 'broken' ? broken : unknown;
      this.#removed.set(name, { held, isPaused: entry.isPaused, problem: entry.problem });
    }
    if (this.#removed.size > removedLimit) this.#removed.delete(this.#removed.keys().next().value!);
    this.#entries.delete(name);
    return entry?.bridge ?? null;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** The instance that a rank belongs to. */
  withRank(rank: number): string | null {
    return this.names.find((name) => this.options(name).ranks.includes(rank)) ?? null;
  }

  /** `failure`: why it cannot be updated now; null: it can. */
  setFailure(name: string, failure: WeightcastError | null): void {
    for (const entry of this.#select([name])) entry.failure = failure;
  }

  /** Why one of these cannot be updated now; null if all can. */
  failureAmong(names: readonly string[]): WeightcastError | null {
    return this.#select(names).find(({ failure }) => failure !== null)?.failure ?? null;
  }

  /** Those of the targets that cannot be updated now, with why: others are updated without them. */
  unfit(
    targets: readonly UpdateTarget[],
    areReady: (ranks: readonly number[]) => boolean,
  ): ReadonlyMap<UpdateTarget, WeightcastError> {
    const unfit = new Map<UpdateTarget, WeightcastError>();
    for (const target of targets) {
      const failure = this.failureAmong([target.name]);
      const words = `a rank of instance ${target.name} is not ready; retry when the status says so`;
      if (failure !== null) unfit.set(target, failure);
      else if (!areReady(target.ranks)) unfit.set(target, new NotReadyError(words));
    }
    return unfit;
  }

  /** Throws `UsageError` if there is no such instance. */
  options(name: string): InstanceOptions {
    return this.#entry(name).options;
  }

  /** Throws `UsageError` if there is no such instance. */
  targets(names: readonly string[]): UpdateTarget[] {
    return names.map((name) => {
      const { options, bridge, held, isPaused } = this.#entry(name);
      const { state, version } = held;
      return {
        name,
        bridge,
        endpoint: options.endpoint,
        ranks: options.ranks,
        isBroken: state === 'broken',
        isPaused,
        version: version === null ? null : `${version.checkpoint}@${version.digest}`,
        pause: options.pause ?? null,
        resetCache: resetsCache(options),
      };
    });
  }

  /**
   * How many times each engine worker receives the checkpoint: twice with a draft model. Ranks that broadcast to each
   * other must agree on it: throws `UsageError` if only some of the instances have a draft model.
   */
  exchanges(names: readonly string[]): number {
    const drafting = names.filter((name) => this.options(name).hasDraftModel);
    const other = names.find((name) => !drafting.includes(name));
    if (drafting.length === 0) return 1;
    if (other === undefined) return 2;
    throw new UsageError(
      `instance ${drafting[0]} has a draft model and ${other} has none; update them one after the other`,
    );
  }

  versionLost(name: string): void {
    this.#change([name], (entry) => {
      if (entry.held.state === 'serving') entry.held = unknown;
    });
  }

  paused(name: string, isPaused: boolean): void {
    this.#change([name], (entry) => {
      entry.isPaused = isPaused;
    });
  }

  touched(names: readonly string[]): void {
    this.#change(names, (entry) => {
      entry.before = entry.held;
      entry.held = updating;
    });
  }

  verifying(name: string): void {
    this.#change([name], (entry) => {
      entry.held = verifying;
    });
  }

  ended(name: string, outcome: InstanceOutcome, version: NonNullable<InstanceStatus['version']>): void {
    const { checkpoint, digest } = version;
    this.#change([name], (entry) => {
      const updated: Held = { state: 'serving', version: { checkpoint, digest } };
      entry.held = { updated, unchanged: entry.before ?? unknown, broken }[outcome];
      entry.before = null;
    });
  }

  explain(name: string, problem: string | null): void {
    this.#change([name], (entry) => {
      entry.problem = problem;
    });
  }

  status(): InstanceStatus[] {
    return [...this.#entries.values()].map(statusOf);
  }

  #change(names: readonly string[], change: (entry: Entry) => void): void {
    for (const entry of this.#select(names)) {
      change(entry);
      this.#onChange(statusOf(entry));
    }
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new UsageError(`the cluster has no instance ${name}`);
    return entry;
  }

  #select(names: readonly string[]): Entry[] {
    return names.flatMap((name) => this.#entries.get(name) ?? []);
  }
}

function statusOf({ options, held, isPaused, problem }: Entry): InstanceStatus {
  return {
    name: options.name,
    endpoint: options.endpoint,
    ranks: [...options.ranks],
    state: held.state,
    version: held.version,
    isPaused,
    problem: held.state === 'broken' || isPaused ? problem : null,
  };
}
