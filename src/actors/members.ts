import { UsageError } from '../errors.ts';
import type { ActorRef } from './kernel/index.ts';
import { sameActor } from './kernel/index.ts';
import type { BridgeMessage, ClusterStatus, RankMessage } from './messages.ts';
import type { InstanceOptions, LaunchedRank } from './supervisor-ports.ts';
import type { InstanceMember, RankMember } from './update.ts';

type InstanceVersion = ClusterStatus['instances'][number]['version'];

interface Rank {
  readonly rank: number;
  state: 'starting' | 'ready' | 'down';
  process: LaunchedRank | null;
  member: (RankMember & { readonly pid: number }) | null;
}

interface Instance {
  readonly options: InstanceOptions;
  readonly bridge: ActorRef<BridgeMessage>;
  state: 'unknown' | 'updating' | 'serving' | 'mixed';
  version: InstanceVersion;
}

/** Who belongs to the cluster and what each instance serves: the supervisor's ledger, without any effect. */
export class Members {
  readonly #ranks: Rank[];
  readonly #instances: Instance[] = [];

  constructor(worldSize: number) {
    this.#ranks = Array.from({ length: worldSize }, (_, rank) => ({
      rank,
      state: 'starting',
      process: null,
      member: null,
    }));
  }

  // ── ranks ────────────────────────────────────────────────────────────────────────────────────────────────────

  launched(rank: number, process: LaunchedRank): void {
    const entry = this.#rank(rank);
    entry.state = 'starting';
    entry.process = process;
    entry.member = null;
  }

  rankReady(member: RankMember & { readonly pid: number }): void {
    const entry = this.#rank(member.rank);
    entry.state = 'ready';
    entry.member = member;
  }

  /** False when the news is about an earlier life of the rank. */
  rankDown(rank: number, ref: ActorRef<RankMessage> | null): boolean {
    const entry = this.#rank(rank);
    if (ref !== null && (entry.member === null || !sameActor(entry.member.ref, ref))) return false;
    entry.state = 'down';
    entry.member = null;
    return true;
  }

  /** All ranks, ready; throws `UsageError` naming those that are not. */
  readyRanks(): RankMember[] {
    const missing = this.#ranks.filter((entry) => entry.state !== 'ready').map((entry) => entry.rank);
    if (missing.length > 0) throw new UsageError(`rank ${missing.join(', ')} is not ready`);
    return this.#ranks.map((entry) => entry.member!);
  }

  /** Those that are ready, be it all or not. */
  ready(): RankMember[] {
    return this.#ranks.flatMap(({ member }) => member ?? []);
  }

  get allReady(): boolean {
    return this.#ranks.every((entry) => entry.state === 'ready');
  }

  process(rank: number): LaunchedRank | null {
    return this.#rank(rank).process;
  }

  processes(): LaunchedRank[] {
    return this.#ranks.flatMap((entry) => entry.process ?? []);
  }

  // ── instances ────────────────────────────────────────────────────────────────────────────────────────────────

  addInstance(options: InstanceOptions, bridge: ActorRef<BridgeMessage>): void {
    this.#instances.push({ options, bridge, state: 'unknown', version: null });
  }

  instances(): InstanceMember[] {
    return this.#instances.map(({ options, bridge, state }) => ({
      name: options.name,
      bridge,
      ranks: options.ranks,
      isMixed: state === 'mixed',
      pause: options.pause ?? null,
      resetCache: options.resetCache ?? false,
    }));
  }

  /** From here until a commit the instances hold neither the old version nor the new one for certain. */
  enginesTouched(): void {
    for (const instance of this.#instances) {
      instance.state = 'updating';
      instance.version = null;
    }
  }

  updateFailed(): void {
    for (const instance of this.#instances) if (instance.state === 'updating') instance.state = 'mixed';
  }

  commit(version: NonNullable<InstanceVersion>): void {
    for (const instance of this.#instances) {
      instance.state = 'serving';
      instance.version = version;
    }
  }

  // ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────

  status(): Pick<ClusterStatus, 'ranks' | 'instances'> {
    return {
      ranks: this.#ranks.map(({ rank, state, member }) => ({
        rank,
        state,
        deviceUuid: member?.deviceUuid ?? null,
        host: member?.host ?? null,
        pid: member?.pid ?? null,
      })),
      instances: this.#instances.map(({ options, state, version }) => ({
        name: options.name,
        endpoint: options.endpoint,
        ranks: [...options.ranks],
        state,
        version,
      })),
    };
  }

  #rank(rank: number): Rank {
    const entry = this.#ranks[rank];
    if (entry === undefined)
      throw new UsageError(`there is no rank ${rank}: the cluster has ${this.#ranks.length}`);
    return entry;
  }
}
