import { UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { InstanceMember } from '../update/context.ts';

type Status = ClusterStatus['instances'][number];

interface Entry {
  readonly options: InstanceOptions;
  /** Why a rank of it cannot be kept alive: it cannot be updated any more. */
  failure: WeightcastError | null;
  bridge: ActorRef<BridgeMessage> | null;
  state: Status['state'];
  version: Status['version'];
}

/** Instances that left with parts of several versions; the one that did so longest ago is forgotten. */
const mixedLimit = 1_024;

/** The engine instances of the cluster and what each serves: the supervisor's ledger, without any effect. */
export class Instances {
  readonly #entries = new Map<string, Entry>();
  /** Those that left so; their engines may be paused for it, and come back as they went. */
  readonly #leftMixed = new Set<string>();

  /** Throws `UsageError` if the name is taken. */
  add(options: InstanceOptions): void {
    if (this.#entries.has(options.name)) throw new UsageError(`there is an instance ${options.name} already`);
    this.#entries.set(options.name, {
      options,
      failure: null,
      bridge: null,
      state: this.#leftMixed.delete(options.name) ? 'mixed' : 'unknown',
      version: null,
    });
  }

  remove(name: string): void {
    if (this.#entries.get(name)?.state === 'mixed') this.#leftMixed.add(name);
    if (this.#leftMixed.size > mixedLimit) this.#leftMixed.delete(this.#leftMixed.keys().next().value!);
    this.#entries.delete(name);
  }

  /** One that was removed meanwhile is not there any more. */
  bridgeOpen(name: string, bridge: ActorRef<BridgeMessage>): void {
    const entry = this.#entries.get(name);
    if (entry !== undefined) entry.bridge = bridge;
  }

  isOpen(name: string): boolean {
    return this.#entries.get(name)?.bridge != null;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** The one that a rank belongs to. */
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

  options(name: string): InstanceOptions {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new UsageError(`there is no instance ${name}`);
    return entry.options;
  }

  /** Throws `UsageError` for a name that is none, or has no bridge yet. */
  members(names: readonly string[]): InstanceMember[] {
    return names.map((name) => {
      const options = this.options(name);
      const { bridge, state } = this.#entries.get(name)!;
      if (bridge === null) throw new UsageError(`instance ${name} is not ready`);
      return {
        name,
        bridge,
        ranks: options.ranks,
        isMixed: state === 'mixed',
        pause: options.pause ?? null,
        resetCache: options.resetCache ?? false,
        hasDraftModel: options.hasDraftModel ?? false,
      };
    });
  }

  /**
   * How often their workers take everything. All ranks broadcast to each other as often: throws `UsageError` if only some
   * have a draft model.
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

  /** From here until a commit they hold neither the old version nor the new one for certain. */
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

  #select(names: readonly string[]): Entry[] {
    return names.flatMap((name) => this.#entries.get(name) ?? []);
  }
}
