import { NotReadyError, UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import { sameActor } from '../kernel/index.ts';
import type { RankMessage } from '../protocol/rank.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { LaunchedRank } from './ports.ts';
import type { RestartBackoff } from './restart-backoff.ts';

/** `joining` until it is ready for the first time. */
type RankState = 'joining' | 'starting' | 'ready' | 'down';

interface Entry {
  readonly rank: number;
  readonly restarts: RestartBackoff;
  state: RankState;
  /** Why it does not become ready, as far as is known, until it does. */
  trouble: WeightcastError | null;
  process: LaunchedRank | null;
  ready: ReadyRank | null;
}

/** All ranks of a host had exited, and its checkpoint memory is gone. */
export interface HostMemoryLost {
  readonly host: string;
}

/** The ledger of the cluster's ranks, by number. It has no effects. */
export class RankRegistry {
  readonly #ranks = new Map<number, Entry>();
  /** By host: the identity of its segments' directory. */
  readonly #directoryIds: Map<string, string>;

  /** `directoryIds`: of hosts, as an earlier supervisor knew them. */
  constructor(directoryIds: Readonly<Record<string, string>> = {}) {
    this.#directoryIds = new Map(Object.entries(directoryIds));
  }

  get directoryIds(): Record<string, string> {
    return Object.fromEntries(this.#directoryIds);
  }

  add(rank: number, restarts: RestartBackoff): void {
    this.#ranks.set(rank, {
      rank,
      restarts,
      state: 'joining',
      trouble: null,
      process: null,
      ready: null,
    });
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

  markLaunched(rank: number, process: LaunchedRank): void {
    const entry = this.#rank(rank);
    if (entry.state !== 'joining') entry.state = 'starting';
    entry.process = process;
    entry.ready = null;
  }

  /** Returns what this reveals about its host; null if nothing. */
  markReady(ready: ReadyRank): HostMemoryLost | null {
    const { rank, host, directoryId } = ready;
    const entry = this.#rank(rank);
    entry.state = 'ready';
    entry.trouble = null;
    entry.restarts.ready();
    entry.ready = ready;
    const known = this.#directoryIds.get(host) ?? directoryId;
    this.#directoryIds.set(host, directoryId);
    return known === directoryId ? null : { host };
  }

  /** Returns false, and changes nothing, for a rank that was removed or if `ref` is of an earlier process of it. */
  markDown(rank: number, ref: ActorRef<RankMessage> | null): boolean {
    const entry = this.#ranks.get(rank);
    if (entry === undefined) return false;
    if (ref !== null && (entry.ready === null || !sameActor(entry.ready.ref, ref))) return false;
    if (entry.state !== 'joining') entry.state = 'down';
    entry.ready = null;
    return true;
  }

  markTroubled(rank: number, trouble: WeightcastError): void {
    this.#rank(rank).trouble = trouble;
  }

  /** Why one of these ranks does not become ready; null if none is known to be in trouble. */
  troubleAmong(ranks: Iterable<number>): WeightcastError | null {
    for (const rank of ranks) {
      const trouble = this.#ranks.get(rank)?.trouble ?? null;
      if (trouble !== null) return trouble;
    }
    return null;
  }

  /** Counts one more end in a row: how many there were, and milliseconds until the rank is to be restarted. */
  restartDelay(rank: number): { readonly delay: number; readonly ends: number } {
    const { restarts } = this.#rank(rank);
    return { delay: restarts.next(), ends: restarts.ends };
  }

  process(rank: number): LaunchedRank | null {
    return this.#ranks.get(rank)?.process ?? null;
  }

  processes(): LaunchedRank[] {
    return [...this.#ranks.values()].flatMap(({ process }) => process ?? []);
  }

  /** These ranks, by number. Throws `NotReadyError` naming those that are not ready. */
  readyAmong(ranks: Iterable<number>): ReadyRank[] {
    const wanted = [...ranks].sort((one, other) => one - other);
    const missing = wanted.filter((rank) => this.#ranks.get(rank)?.state !== 'ready');
    if (missing.length > 0)
      throw new NotReadyError(`${rankWords(missing)} not ready; retry when the status says so`);
    return wanted.map((rank) => this.#rank(rank).ready!);
  }

  /**
   * All ranks but those that are still joining or in trouble. Throws `NotReadyError` naming those that are not ready, and
   * if there is no such rank, why.
   */
  allJoined(): ReadyRank[] {
    const entries = [...this.#ranks.values()];
    const joined = entries.filter(({ state, trouble }) => state !== 'joining' && trouble === null);
    if (joined.length > 0) return this.readyAmong(joined.map(({ rank }) => rank));
    throw (
      this.troubleAmong(this.numbers) ?? new NotReadyError('no rank is ready; retry when the status says so')
    );
  }

  /** The ranks that are ready. */
  allReady(): ReadyRank[] {
    return this.numbers.flatMap((rank) => this.#rank(rank).ready ?? []);
  }

  areReady(ranks: Iterable<number>): boolean {
    return [...ranks].every((rank) => this.#ranks.get(rank)?.state === 'ready');
  }

  status(): ClusterStatus['ranks'] {
    return this.numbers.map((rank) => {
      const { state, ready } = this.#rank(rank);
      return {
        rank,
        state: state === 'joining' ? 'starting' : state,
        deviceUuid: ready?.deviceUuid ?? null,
        host: ready?.host ?? null,
        pid: ready?.pid ?? null,
      };
    });
  }

  #rank(rank: number): Entry {
    const entry = this.#ranks.get(rank);
    if (entry === undefined) throw new UsageError(`the cluster has no rank ${rank}`);
    return entry;
  }
}

/** `rank 3 is`, `rank 3, 4 are`. */
export function rankWords(ranks: readonly number[]): string {
  return `rank ${ranks.join(', ')} ${ranks.length > 1 ? 'are' : 'is'}`;
}
