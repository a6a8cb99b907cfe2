import { UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { UpdateTarget } from '../update/context.ts';

type Status = ClusterStatus['instances'][number];

interface Entry {
  readonly options: InstanceOptions;
  readonly bridge: ActorRef<BridgeMessage>;
  /** Why it cannot be updated any more: one of its ranks was given up. */
  failure: WeightcastError | null;
  state: Status['state'];
  version: Status['version'];
}

/** Names of mixed instances that were removed; the oldest is dropped first. */
const removedMixedLimit = 1_024;

/** The ledger of the cluster's engine instances and of what each serves. It has no effects. */
export class InstanceRegistry {
  readonly #entries = new Map<string, Entry>();
  /** Their engines may still be paused, and are mixed when they join again. */
  readonly #removedMixed = new Set<string>();

  /** Throws `UsageError` if the name is taken. */
  checkNew(name: string): void {
    if (this.#entries.has(name)) throw new UsageError(`the cluster has an instance ${name} already`);
  }

  /** Throws `UsageError` if the name is taken. */
  add(options: InstanceOptions, bridge: ActorRef<BridgeMessage>): void {
    this.checkNew(options.name);
    this.#entries.set(options.name, {
      options,
      bridge,
      failure: null,
      state: this.#removedMixed.delete(options.name) ? 'mixed' : 'unknown',
      version: null,
    });
  }

  /** Returns its bridge, if there is such an instance. */
  remove(name: string): ActorRef<BridgeMessage> | null {
    const entry = this.#entries.get(name);
    if (entry?.state === 'mixed') this.#removedMixed.add(name);
    if (this.#removedMixed.size > removedMixedLimit) {
      this.#removedMixed.delete(this.#removedMixed.keys().next().value!);
    }
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

  fail(name: string, error: WeightcastError): void {
    for (const entry of this.#select([name])) entry.failure ??= error;
  }

  /** Why one of these cannot be updated any more; null if all can. */
  failureAmong(names: readonly string[]): WeightcastError | null {
    return this.#select(names).find(({ failure }) => failure !== null)?.failure ?? null;
  }

  /** Throws `UsageError` if there is no such instance. */
  options(name: string): InstanceOptions {
    return this.#entry(name).options;
  }

  /** Throws `UsageError` if there is no such instance. */
  targets(names: readonly string[]): UpdateTarget[] {
    return names.map((name) => {
      const { options, bridge, state } = this.#entry(name);
      return {
        name,
        bridge,
        ranks: options.ranks,
        isMixed: state === 'mixed',
        pause: options.pause ?? null,
        resetCache: options.resetCache ?? false,
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

  /** From here until {@link commit} they hold neither the old version nor the new one for certain. */
  touched(names: readonly string[]): void {
    for (const entry of this.#select(names)) {
      entry.state = 'updating';
      entry.version = null;
    }
  }

  updateFailed(names: readonly string[]): void {
    for (const entry of this.#select(names)) if (entry.state === 'updating') entry.state = 'mixed';
  }

  commit(names: readonly string[], version: NonNullable<Status['version']>): void {
    for (const entry of this.#select(names)) {
      entry.state = 'serving';
      entry.version = version;
    }
  }

  status(): Status[] {
    return [...this.#entries.values()].map(({ options, state, version }) => ({
      name: options.name,
      endpoint: options.endpoint,
      ranks: [...options.ranks],
      state,
      version,
    }));
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
