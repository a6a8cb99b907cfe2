import { PeerLostError, ProtocolError } from '../../errors.ts';
import type { Communicator, CreatedCommunicator, NewCommunicator } from '../protocol/update-values.ts';
import type { RankMember } from '../supervisor/rank-registry.ts';

/**
 * Sets of ranks that have updated together, of which one update may have as many as there are hosts; the one that did so
 * longest ago is forgotten.
 */
const keeperLimit = 1_024;

/**
 * The communicators of the cluster: one for each set of ranks that is updated together. A rank is in one at a time; to
 * join another it leaves that one.
 */
export class CommunicatorKeepers {
  /** By the members' numbers, in the order of their last use. */
  readonly #keepers = new Map<string, CommunicatorKeeper>();
  #lastNumber = 0;

  of(members: readonly RankMember[]): CommunicatorKeeper {
    const key = members.map(({ rank }) => rank).join();
    const keeper = this.#keepers.get(key) ?? this.#create(members);
    this.#keepers.delete(key);
    this.#keepers.set(key, keeper);
    if (this.#keepers.size > keeperLimit) this.#keepers.delete(this.#keepers.keys().next().value!);
    return keeper;
  }

  #create(members: readonly RankMember[]): CommunicatorKeeper {
    const onOffered = (offered: CommunicatorKeeper) => {
      for (const other of this.#keepers.values()) {
        if (other !== offered && members.some(({ rank }) => other.includes(rank))) other.invalidate();
      }
    };
    return new CommunicatorKeeper(members, () => this.#nextNumber(), onOffered);
  }

  /** A rank is gone, or another life of it has come. */
  lose(rank: number): void {
    for (const keeper of this.#keepers.values()) if (keeper.includes(rank)) keeper.lose();
  }

  #nextNumber(): number {
    this.#lastNumber += 1;
    return this.#lastNumber;
  }
}

/**
 * The communicator of one set of ranks. It is used from update to update; after a failure, or when a rank has been
 * replaced, its number is never used again and the next update has a rank create another one.
 */
export class CommunicatorKeeper {
  readonly #ranks: ReadonlySet<number>;
  readonly #nextNumber: () => number;
  readonly #onOffered: (offered: CommunicatorKeeper) => void;
  #number: number;
  #held: (Communicator & CreatedCommunicator) | null = null;
  #isNeeded = true;
  #isOffered = false;

  constructor(
    members: readonly RankMember[],
    nextNumber: () => number,
    onOffered: (offered: CommunicatorKeeper) => void,
  ) {
    this.#ranks = new Set(members.map(({ rank }) => rank));
    this.#nextNumber = nextNumber;
    this.#onOffered = onOffered;
    this.#number = nextNumber();
  }

  includes(rank: number): boolean {
    return this.#ranks.has(rank);
  }

  /**
   * What a rank has to create before `members` can open a communicator; null while there is one to use again, and for a
   * rank that is alone, which needs none.
   */
  missing(members: readonly RankMember[]): NewCommunicator | null {
    this.#isNeeded = members.length > 1;
    if (this.#held !== null || !this.#isNeeded) return null;
    return {
      number: this.#number,
      hosts: new Set(members.map(({ host }) => host)).size,
      sharesDevices: new Set(members.map(({ deviceUuid }) => deviceUuid)).size < members.length,
    };
  }

  /** What the rank that was asked has made; null if there was one to use again. */
  hold(created: CreatedCommunicator | null): void {
    if (created !== null) this.#held = { number: this.#number, ...created };
    if (this.#isNeeded && this.#held === null)
      throw new ProtocolError('a rank was asked for a communicator and created none');
  }

  /** Of buckets that it carries well. */
  get leastBucketBytes(): number {
    return this.#held?.leastBucketBytes ?? 0;
  }

  /** What ranks are told to open; null for one that is alone. Throws `PeerLostError` if a member has gone meanwhile. */
  offer(): Communicator | null {
    if (!this.#isNeeded) return null;
    if (this.#held === null) throw new PeerLostError('a rank that a communicator was created for is gone');
    this.#isOffered = true;
    this.#onOffered(this);
    const { number, id } = this.#held;
    return { number, id };
  }

  /**
   * An update has failed, or a member was told to open another communicator. What nobody was told to open is kept: its
   * creator waits for the members as long as it lives.
   */
  invalidate(): void {
    if (this.#isOffered) this.lose();
  }

  /** A member is gone. */
  lose(): void {
    this.#number = this.#nextNumber();
    this.#held = null;
    this.#isOffered = false;
  }
}
