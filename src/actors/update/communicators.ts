import { PeerLostError } from '../../errors.ts';
import { RecentMap } from '../../recent-map.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { Communicator, CommunicatorRequest, CreatedCommunicator } from '../protocol/update-values.ts';

/** Groups that are remembered. One update may have as many as there are hosts. */
const groupLimit = 1_024;

/** The communicators of the cluster, one per group of ranks. A rank is in one at a time: joining another leaves the first. */
export class CommunicatorRegistry {
  /** By the numbers of their ranks. */
  readonly #groups = new RecentMap<string, GroupCommunicator>(groupLimit);
  #lastNumber: number;

  /** `lastNumber`: that of the last communicator of an earlier supervisor, or above it. */
  constructor(lastNumber = 0) {
    this.#lastNumber = lastNumber;
  }

  of(ranks: readonly ReadyRank[]): GroupCommunicator {
    const key = ranks.map(({ rank }) => rank).join();
    return this.#groups.get(key) ?? this.#groups.set(key, this.#create(ranks));
  }

  #create(ranks: readonly ReadyRank[]): GroupCommunicator {
    const onOffered = (offered: GroupCommunicator) => {
      for (const other of this.#groups.values()) {
        if (other !== offered && ranks.some(({ rank }) => other.includes(rank))) other.invalidate();
      }
    };
    return new GroupCommunicator(ranks, () => this.#nextNumber(), onOffered);
  }

  /** The process of a rank has ended, or a new one has started. */
  rankLost(rank: number): void {
    for (const group of this.#groups.values()) if (group.includes(rank)) group.drop();
  }

  #nextNumber(): number {
    this.#lastNumber += 1;
    return this.#lastNumber;
  }
}

/**
 * The communicator of one group of ranks, used from update to update. After a failure, or when a rank has ended, its
 * number is never used again, and in the next update a rank creates another one.
 */
export class GroupCommunicator {
  readonly #ranks: ReadonlySet<number>;
  readonly #nextNumber: () => number;
  readonly #onOffered: (offered: GroupCommunicator) => void;
  #number: number;
  #held: (Communicator & CreatedCommunicator) | null = null;
  #isNeeded = true;
  #isOffered = false;

  constructor(
    ranks: readonly ReadyRank[],
    nextNumber: () => number,
    onOffered: (offered: GroupCommunicator) => void,
  ) {
    this.#ranks = new Set(ranks.map(({ rank }) => rank));
    this.#nextNumber = nextNumber;
    this.#onOffered = onOffered;
    this.#number = nextNumber();
  }

  includes(rank: number): boolean {
    return this.#ranks.has(rank);
  }

  /** What a rank of the group has to create; null if there is one to reuse, or the rank is alone and needs none. */
  missing(ranks: readonly ReadyRank[]): CommunicatorRequest | null {
    this.#isNeeded = ranks.length > 1;
    if (this.#held !== null || !this.#isNeeded) return null;
    return {
      number: this.#number,
      hosts: new Set(ranks.map(({ host }) => host)).size,
      sharesDevices: new Set(ranks.map(({ deviceUuid }) => deviceUuid)).size < ranks.length,
    };
  }

  /** Stores what the rank has created. */
  hold(created: CreatedCommunicator): void {
    this.#held = { number: this.#number, ...created };
  }

  /** Smaller buckets take as long to broadcast as buckets of this size. */
  get leastBucketBytes(): number {
    return this.#held?.leastBucketBytes ?? 0;
  }

  /** For the group's ranks to open; null for a rank that is alone. Throws `PeerLostError` if a rank has ended meanwhile. */
  offer(): Communicator | null {
    if (!this.#isNeeded) return null;
    if (this.#held === null)
      throw new PeerLostError('a rank of a new communicator ended before it was opened');
    this.#isOffered = true;
    this.#onOffered(this);
    const { number, id } = this.#held;
    return { number, id };
  }

  /**
   * An update has failed, or one of its ranks opens another communicator. One that was never offered is kept: the rank
   * that created it waits for the others as long as it lives.
   */
  invalidate(): void {
    if (this.#isOffered) this.drop();
  }

  drop(): void {
    this.#number = this.#nextNumber();
    this.#held = null;
    this.#isOffered = false;
  }
}
