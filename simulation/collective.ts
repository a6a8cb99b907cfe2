import { NativeError, PeerLostError, type WeightcastError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { type Announcement, CollectiveMember, type Communicator } from './collective-member.ts';
import type { Trace } from './trace.ts';

export interface JoinOptions {
  readonly communicator: number;
  /** The members, in order. */
  readonly ranks: readonly number[];
  readonly rank: number;
  readonly clock: Clock;
  /** How many times longer than usual this member's copies take. */
  readonly slowness: () => number;
}

/** The communicators of a simulated cluster, by number. */
export class SimulatedCommunicators {
  readonly #trace: Trace;
  readonly #groups = new Map<number, Group>();

  constructor(trace: Trace) {
    this.#trace = trace;
  }

  /** Members that have joined and not left, over all communicators. */
  get members(): number {
    let members = 0;
    for (const group of this.#groups.values()) members += group.present;
    return members;
  }

  /** Throws `NativeError` if that rank has joined before: a rank joins a communicator at most once. */
  join({ communicator, ranks, rank, clock, slowness }: JoinOptions): CollectiveMember {
    let group = this.#groups.get(communicator);
    if (group === undefined) {
      group = new Group(ranks, this.#trace, () => this.#groups.delete(communicator));
      this.#groups.set(communicator, group);
    }
    return group.join(rank, clock, slowness);
  }
}

class Group implements Communicator {
  readonly ranks: readonly number[];
  readonly trace: Trace;
  readonly announcements = new Map<number, Announcement>();
  ended: WeightcastError | null = null;
  readonly #members: (CollectiveMember | undefined)[];
  readonly #onEmpty: () => void;
  #gone = 0;

  constructor(ranks: readonly number[], trace: Trace, onEmpty: () => void) {
    this.ranks = ranks;
    this.trace = trace;
    this.#members = new Array(ranks.length).fill(undefined);
    this.#onEmpty = onEmpty;
  }

  get present(): number {
    return this.#members.filter((member) => member?.isPresent).length;
  }

  get hasLost(): boolean {
    return this.#gone > 0;
  }

  join(rank: number, clock: Clock, slowness: () => number): CollectiveMember {
    const place = this.ranks.indexOf(rank);
    if (this.#members[place] !== undefined)
      throw new NativeError(`rank ${rank} has joined before: file exists`);
    const member = new CollectiveMember(this, place, clock, slowness);
    this.#members[place] = member;
    return member;
  }

  announce(operation: number, announcement: Announcement): void {
    this.announcements.set(operation, announcement);
    for (const member of this.#members) member?.announced(operation);
  }

  /** The first failure ends the collective for all members. */
  end(error: WeightcastError): void {
    if (this.ended === null) this.trace.add('communicator', `ended: ${error.message}`);
    this.ended ??= error;
    for (const member of this.#members) member?.fail(this.ended);
    this.announcements.clear();
  }

  left(): void {
    this.#gone += 1;
    if (this.#gone === this.ranks.length) this.#onEmpty();
    for (const member of this.#members) member?.checkPeersLater();
  }

  checkPeers(waiting: CollectiveMember, operation: number, root: number): void {
    const lost = this.#members.find((member) => {
      if (member === undefined || member.isPresent || member.completed > operation) return false;
      return member.place === root || waiting.place === root;
    });
    if (lost === undefined) return;
    this.end(new PeerLostError(`broadcast ${operation}: rank ${this.ranks[lost.place]} is gone`));
  }
}
