import { UsageError } from '../../errors.ts';
import type { ActorRef, RestartIntensity } from '../kernel/index.ts';
import { sameActor } from '../kernel/index.ts';
import type { RankMessage } from '../protocol/rank.ts';
import type { ClusterStatus } from '../protocol/values.ts';
import type { LaunchedRank } from './ports.ts';

/** A rank that is there. */
export interface RankMember {
  readonly rank: number;
  readonly ref: ActorRef<RankMessage>;
  readonly host: string;
  readonly deviceUuid: string;
  /** Where its host's segments lie. */
  readonly directory: string;
  /** Changes when the directory was removed and created again. */
  readonly directoryId: string;
  readonly nics: readonly string[];
  readonly collectiveScope: 'host' | 'cluster';
  readonly pid: number;
}

/** `joining` until it has been ready once; `lost` when it will not be again. */
type RankState = 'joining' | 'starting' | 'ready' | 'down' | 'lost';

interface Entry {
  readonly rank: number;
  readonly restarts: RestartIntensity;
  state: RankState;
  process: LaunchedRank | null;
  member: RankMember | null;
}

/** The ranks of the cluster, by number: the supervisor's ledger, without any effect. */
export class Members {
  readonly #ranks = new Map<number, Entry>();
  /** By host. */
  readonly #memoryOf = new Map<string, string>();

  add(rank: number, restarts: RestartIntensity): void {
    this.#ranks.set(rank, { rank, restarts, state: 'joining', process: null, member: null });
  }

  /** Returns its process, if it has one. */
  remove(rank: number): LaunchedRank | null {
    const process = this.#ranks.get(rank)?.process ?? null;
    this.#ranks.delete(rank);
    return process;
  }

  has(rank: number): boolean {
    return this.#ranks.has(rank);
  }

  get numbers(): number[] {
    return [...this.#ranks.keys()].sort((one, other) => one - other);
  }

  launched(rank: number, process: LaunchedRank): void {
    const entry = this.#rank(rank);
    if (entry.state !== 'joining') entry.state = 'starting';
    entry.process = process;
    entry.member = null;
  }

  /** True if what lay in its host's memory is gone: all its ranks had left. */
  ready(member: RankMember): boolean {
    const entry = this.#rank(member.rank);
    entry.state = 'ready';
    entry.member = member;
    const known = this.#memoryOf.get(member.host);
    this.#memoryOf.set(member.host, member.directoryId);
    return known !== undefined && known !== member.directoryId;
  }

  /** False when the news is about an earlier life of the rank, or one that is not of the cluster any more. */
  down(rank: number, ref: ActorRef<RankMessage> | null): boolean {
    const entry = this.#ranks.get(rank);
    if (entry === undefined) return false;
    if (ref !== null && (entry.member === null || !sameActor(entry.member.ref, ref))) return false;
    if (entry.state !== 'joining' && entry.state !== 'lost') entry.state = 'down';
    entry.member = null;
    return true;
  }

  /** It cannot be kept alive. */
  lost(rank: number): void {
    const entry = this.#rank(rank);
    entry.state = 'lost';
    entry.member = null;
  }

  /** Milliseconds until it may be started again; null if it has died too often, or is lost. */
  restartDelay(rank: number): number | null {
    const { state, restarts } = this.#rank(rank);
    return state === 'lost' ? null : restarts.next();
  }

  process(rank: number): LaunchedRank | null {
    return this.#ranks.get(rank)?.process ?? null;
  }

  processes(): LaunchedRank[] {
    return [...this.#ranks.values()].flatMap(({ process }) => process ?? []);
  }

  /** These ranks in the order of their numbers; throws `UsageError` naming those that are not ready. */
  readyAmong(ranks: Iterable<number>): RankMember[] {
    const wanted = [...ranks].sort((one, other) => one - other);
    const missing = wanted.filter((rank) => this.#ranks.get(rank)?.state !== 'ready');
    if (missing.length > 0) throw new UsageError(`rank ${missing.join(', ')} is not ready`);
    return wanted.map((rank) => this.#rank(rank).member!);
  }

  /** All ranks but those that have yet to join or are lost; throws `UsageError` naming those that are not ready. */
  allJoined(): RankMember[] {
    const isThere = (rank: number) => !['joining', 'lost'].includes(this.#rank(rank).state);
    return this.readyAmong(this.numbers.filter(isThere));
  }

  /** Those that are ready, be it all or not. */
  allReady(): RankMember[] {
    return this.numbers.flatMap((rank) => this.#rank(rank).member ?? []);
  }

  areReady(ranks: Iterable<number>): boolean {
    return [...ranks].every((rank) => this.#ranks.get(rank)?.state === 'ready');
  }

  status(): ClusterStatus['ranks'] {
    return this.numbers.map((rank) => {
      const { state, member } = this.#rank(rank);
      return {
        rank,
        state: state === 'joining' ? 'starting' : state === 'lost' ? 'down' : state,
        deviceUuid: member?.deviceUuid ?? null,
        host: member?.host ?? null,
        pid: member?.pid ?? null,
      };
    });
  }

  #rank(rank: number): Entry {
    const entry = this.#ranks.get(rank);
    if (entry === undefined) throw new UsageError(`there is no rank ${rank} in the cluster`);
    return entry;
  }
}
