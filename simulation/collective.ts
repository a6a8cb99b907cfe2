import {
  AbortedError,
  DeadlineError,
  NativeError,
  PeerLostError,
  ProtocolError,
  type WeightcastError,
} from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type { BroadcastOptions, Collective, DevicePlace } from '../src/native-bridge/collective.ts';
import type { Clock } from '../src/ports.ts';
import { type Piece, samePieces } from './contents.ts';
import type { SimulatedBuffer } from './device.ts';
import type { Trace } from './trace.ts';

/** Bytes a millisecond. */
const broadcastRate = 100e6;
/** What every operation takes, however small. */
const operationMilliseconds = 0.02;
/** How long a member that waits needs to notice that another is gone. */
const noticeMilliseconds = 100;

export interface JoinOptions {
  readonly communicator: number;
  /** The members, in their order. */
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

  /** Throws `NativeError` if that rank has joined before: a communicator serves one life of each rank. */
  join({ communicator, ranks, rank, clock, slowness }: JoinOptions): Member {
    let group = this.#groups.get(communicator);
    if (group === undefined) {
      group = new Group(ranks, this.#trace, () => this.#groups.delete(communicator));
      this.#groups.set(communicator, group);
    }
    return group.join(rank, clock, slowness);
  }
}

/** What the root has told the others about one operation. */
interface Announcement {
  readonly root: Member;
  readonly bytes: number;
  readonly source: DevicePlace;
  readonly letsGo: boolean;
  /** What the source held when it was announced, and has to hold until every member has its copy. */
  readonly pieces: readonly Piece[];
  completed: number;
}

class Group {
  readonly ranks: readonly number[];
  readonly trace: Trace;
  readonly announcements = new Map<number, Announcement>();
  ended: WeightcastError | null = null;
  readonly #members: (Member | undefined)[];
  readonly #dissolve: () => void;
  #gone = 0;

  constructor(ranks: readonly number[], trace: Trace, dissolve: () => void) {
    this.ranks = ranks;
    this.trace = trace;
    this.#members = new Array(ranks.length).fill(undefined);
    this.#dissolve = dissolve;
  }

  get present(): number {
    return this.#members.filter((member) => member?.isPresent).length;
  }

  join(rank: number, clock: Clock, slowness: () => number): Member {
    const place = this.ranks.indexOf(rank);
    if (this.#members[place] !== undefined)
      throw new NativeError(`rank ${rank} has joined before: file exists`);
    const member = new Member(this, place, clock, slowness);
    this.#members[place] = member;
    return member;
  }

  announce(operation: number, announcement: Announcement): void {
    this.announcements.set(operation, announcement);
    for (const member of this.#members) member?.announced(operation);
  }

  /** The first failure ends the collective for all. */
  end(error: WeightcastError): void {
    if (this.ended === null) this.trace.add('communicator', `ended: ${error.message}`);
    this.ended ??= error;
    for (const member of this.#members) member?.fail(this.ended);
    this.announcements.clear();
  }

  left(): void {
    this.#gone += 1;
    if (this.#gone === this.ranks.length) this.#dissolve();
    for (const member of this.#members) member?.noticeLater();
  }

  /** A member that waits looks whether those it waits for are still there. */
  checkPeers(waiting: Member, operation: number, root: number): void {
    const lost = this.#members.find((member) => {
      if (member === undefined || member.isPresent || member.completed > operation) return false;
      return member.place === root || waiting.place === root;
    });
    if (lost === undefined) return;
    this.end(new PeerLostError(`broadcast ${operation}: rank ${this.ranks[lost.place]} is gone`));
  }

  get hasLost(): boolean {
    return this.#gone > 0;
  }
}

interface Pending {
  readonly options: BroadcastOptions;
  settle(outcome: Interval | WeightcastError): void;
}

/**
 * One member's end of a communicator. Operations run one after the other, as on the thread of `ShmCollective`: the
 * root announces where its source lies, the others copy, and the root is done when all are.
 */
class Member implements Collective {
  readonly place: number;
  readonly #group: Group;
  readonly #clock: Clock;
  readonly #slowness: () => number;
  /** The first one is running. */
  readonly #pending: Pending[] = [];
  #present = true;
  #startedAt = 0;
  #copied = false;
  /** Operations this member has done its part of. */
  completed = 0;
  /** What it has open of the memory of each root. */
  readonly #opened = new Map<Member, Set<SimulatedBuffer>>();

  constructor(group: Group, place: number, clock: Clock, slowness: () => number) {
    this.#group = group;
    this.place = place;
    this.#clock = clock;
    this.#slowness = slowness;
  }

  get isPresent(): boolean {
    return this.#present;
  }

  broadcast(options: BroadcastOptions): Promise<Interval> {
    if (!this.#present) return Promise.reject(new NativeError('the collective is closed'));
    if (this.#group.ended !== null) return Promise.reject(this.#group.ended);
    return new Promise((resolve, reject) => {
      const { timeoutMilliseconds } = options;
      const cancel = this.#clock.after(timeoutMilliseconds, () =>
        this.#group.end(new DeadlineError(`a broadcast waited for a member for ${timeoutMilliseconds} ms`)),
      );
      const settle = (outcome: Interval | WeightcastError) => {
        cancel();
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      };
      this.#pending.push({ options, settle });
      if (this.#pending.length === 1) this.#begin();
    });
  }

  abort(): void {
    this.#group.end(new AbortedError('the collective was aborted'));
  }

  close(): void {
    if (!this.#present) return;
    if (this.#pending.length > 0) this.abort();
    this.vanish();
  }

  /** Its process is gone, or it leaves with nothing in flight. */
  vanish(): void {
    if (!this.#present) return;
    this.#present = false;
    this.#pending.length = 0;
    this.#letGoOfAll();
    this.#group.left();
  }

  fail(error: WeightcastError): void {
    this.#letGoOfAll();
    for (const { settle } of this.#pending.splice(0)) settle(error);
  }

  noticeLater(): void {
    const [running] = this.#pending;
    if (running === undefined) return;
    this.#clock.after(noticeMilliseconds, () => {
      if (this.#pending[0] !== running) return;
      this.#group.checkPeers(this, this.completed, running.options.root);
    });
  }

  announced(operation: number): void {
    if (this.#pending.length > 0 && operation === this.completed) this.#receive();
  }

  #begin(): void {
    this.#startedAt = this.#clock.now();
    this.#copied = false;
    if (this.#group.hasLost) this.noticeLater();
    const { root, source, bytes, letsGo } = this.#pending[0]!.options;
    if (root !== this.place) {
      if (this.#group.announcements.has(this.completed)) this.#receive();
      return;
    }
    const pieces = contentsOf(source!).read(source!.offset, bytes);
    const announcement = { root: this, bytes, source: source!, letsGo, pieces, completed: 0 };
    this.#group.announce(this.completed, announcement);
    this.#copy(this.#group.announcements.get(this.completed)!);
  }

  #receive(): void {
    const announcement = this.#group.announcements.get(this.completed)!;
    const { root, bytes } = this.#pending[0]!.options;
    if (announcement.root === this) return;
    if (announcement.root.place !== root || announcement.bytes !== bytes) {
      const what = `members differ on broadcast ${this.completed}: ${bytes} bytes from ${root} here`;
      this.#group.trace.violated(what);
      this.#group.end(new ProtocolError(what));
      return;
    }
    this.#copy(announcement);
  }

  #copy(announcement: Announcement): void {
    const running = this.#pending[0]!;
    const { destination, bytes } = running.options;
    const { source, root } = announcement;
    const inPlace =
      root === this && source.buffer === destination.buffer && source.offset === destination.offset;
    if (!inPlace) contentsOf(destination).erase(destination.offset, bytes);
    const slowness = Math.max(this.#slowness(), root.#slowness());
    const duration = operationMilliseconds + (inPlace ? 0 : (bytes / broadcastRate) * slowness);
    this.#clock.after(duration, () => {
      if (this.#pending[0] !== running) return;
      this.#checkMemory(announcement, destination);
      if (!inPlace) contentsOf(destination).write(destination.offset, bytes, announcement.pieces);
      this.#copied = true;
      announcement.completed += 1;
      if (root !== this) {
        this.#openOrLetGo(announcement);
        this.#complete();
      }
      root.#completeRoot(announcement);
    });
  }

  /** What is open stays so until its root says that it gives some of its memory back. */
  #openOrLetGo({ root, source, letsGo }: Announcement): void {
    const opened = this.#opened.get(root) ?? new Set();
    this.#opened.set(root, opened.add(source.buffer as SimulatedBuffer));
    (source.buffer as SimulatedBuffer).openers.add(this);
    if (letsGo) this.#letGo(root);
  }

  #letGo(root: Member): void {
    for (const buffer of this.#opened.get(root) ?? []) buffer.openers.delete(this);
    this.#opened.delete(root);
  }

  #letGoOfAll(): void {
    for (const root of this.#opened.keys()) this.#letGo(root);
  }

  #checkMemory({ source, bytes, pieces }: Announcement, destination: DevicePlace): void {
    const { trace } = this.#group;
    for (const { buffer } of [source, destination]) {
      const { isFreed, name } = buffer as SimulatedBuffer;
      if (isFreed) trace.violated(`a broadcast used ${name} after it was freed`);
    }
    if (!samePieces(pieces, contentsOf(source).read(source.offset, bytes)))
      trace.violated(`the source of broadcast ${this.completed} changed before every member had its copy`);
  }

  #completeRoot(announcement: Announcement): void {
    if (!this.#copied || announcement.completed < this.#group.ranks.length) return;
    this.#group.announcements.delete(this.completed);
    this.#complete();
  }

  #complete(): void {
    const { settle } = this.#pending.shift()!;
    this.#group.trace.add(`rank-${this.#group.ranks[this.place]}`, `broadcast ${this.completed} done`);
    this.completed += 1;
    settle({ startedAt: this.#startedAt, endedAt: this.#clock.now() });
    if (this.#pending.length > 0) this.#begin();
  }
}

function contentsOf({ buffer }: DevicePlace) {
  return (buffer as SimulatedBuffer).contents;
}
