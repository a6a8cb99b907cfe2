import {
  AbortedError,
  DeadlineError,
  NativeError,
  ProtocolError,
  type WeightcastError,
} from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type { BroadcastOptions, Collective, DevicePlace } from '../src/native-bridge/collective.ts';
import type { Clock } from '../src/ports.ts';
import { type Piece, samePieces } from './contents.ts';
import { asSimulatedBuffer, type SimulatedBuffer } from './device.ts';
import type { Trace } from './trace.ts';

/** Bytes per millisecond. */
const broadcastRate = 100e6;
/** Fixed cost of every operation. */
const operationMilliseconds = 0.02;
/** How long a waiting member needs to notice that another one is gone. */
const noticeMilliseconds = 100;

/** What the root announces to the other members about one operation. */
export interface Announcement {
  readonly root: CollectiveMember;
  readonly bytes: number;
  readonly source: DevicePlace;
  readonly letsGo: boolean;
  /** What the source held when it was announced, and must hold until every member has its copy. */
  readonly pieces: readonly Piece[];
  completed: number;
}

/** What the members of one communicator share. */
export interface Communicator {
  readonly ranks: readonly number[];
  readonly trace: Trace;
  readonly announcements: Map<number, Announcement>;
  /** Why the communicator has ended; null while it works. */
  readonly ended: WeightcastError | null;
  /** Whether a member has left. */
  readonly hasLost: boolean;
  announce(operation: number, announcement: Announcement): void;
  end(error: WeightcastError): void;
  left(): void;
  /** Ends the communicator if a member that `waiting` depends on has left. */
  checkPeers(waiting: CollectiveMember, operation: number, root: number): void;
}

interface Pending {
  readonly options: BroadcastOptions;
  settle(outcome: Interval | WeightcastError): void;
}

/**
 * One member's end of a communicator. Operations run one after the other, as on the thread of `ShmCollective`: the root
 * announces where its source lies, the others copy, and the root is done when all of them are.
 */
export class CollectiveMember implements Collective {
  readonly place: number;
  readonly #group: Communicator;
  readonly #clock: Clock;
  readonly #slowness: () => number;
  /** The first one is running. */
  readonly #pending: Pending[] = [];
  #present = true;
  #startedAt = 0;
  #copied = false;
  /** How many operations this member has done its part of. */
  completed = 0;
  /** The buffers of each root that it has mapped. */
  readonly #mapped = new Map<CollectiveMember, Set<SimulatedBuffer>>();

  constructor(group: Communicator, place: number, clock: Clock, slowness: () => number) {
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

  /** Its process is gone, or it leaves with nothing in flight. Peers are not notified. */
  vanish(): void {
    if (!this.#present) return;
    this.#present = false;
    this.#pending.length = 0;
    this.#unmapAll();
    this.#group.left();
  }

  fail(error: WeightcastError): void {
    this.#unmapAll();
    for (const { settle } of this.#pending.splice(0)) settle(error);
  }

  checkPeersLater(): void {
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
    if (this.#group.hasLost) this.checkPeersLater();
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
        this.#mapSource(announcement);
        this.#complete();
      }
      root.#completeRoot(announcement);
    });
  }

  /** Mappings are kept for later broadcasts until the root announces that it is about to free memory. */
  #mapSource({ root, source, letsGo }: Announcement): void {
    const buffer = asSimulatedBuffer(source.buffer);
    const mapped = this.#mapped.get(root) ?? new Set<SimulatedBuffer>();
    this.#mapped.set(root, mapped.add(buffer));
    buffer.openers.add(this);
    if (letsGo) this.#unmap(root);
  }

  #unmap(root: CollectiveMember): void {
    for (const buffer of this.#mapped.get(root) ?? []) buffer.openers.delete(this);
    this.#mapped.delete(root);
  }

  #unmapAll(): void {
    for (const root of this.#mapped.keys()) this.#unmap(root);
  }

  #checkMemory({ source, bytes, pieces }: Announcement, destination: DevicePlace): void {
    const { trace } = this.#group;
    for (const { buffer } of [source, destination]) {
      const { isFreed, name } = asSimulatedBuffer(buffer);
      if (isFreed) trace.violated(`a broadcast used ${name} after it was freed`);
    }
    if (!samePieces(pieces, contentsOf(source).read(source.offset, bytes)))
      trace.violated(`the source of broadcast ${this.completed} changed before every member had copied it`);
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
  return asSimulatedBuffer(buffer).contents;
}
