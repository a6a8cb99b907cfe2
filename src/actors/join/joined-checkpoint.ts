import { rankName } from '../../checkpoint/rank-name.ts';
import { PeerLostError } from '../../errors.ts';
import { Pieces } from '../../plan/pieces.ts';
import { Swarm } from '../../plan/swarm.ts';
import type { FabricSource, NextReads } from '../protocol/join-values.ts';

/** How long a receiver may have nothing to read while it backs off from sources that may still be alive. */
const starvationMilliseconds = 4_000;
/** The same while a source is expected back. */
const restartMilliseconds = 60_000;
/** A receiver backs off from a source for this long after a failed read, and twice as long after the next. */
const backoffMilliseconds = 500;
const longestBackoffMilliseconds = 2_000;

interface Receiver {
  /** Sources whose descriptions it has been sent. */
  readonly known: Set<number>;
  /** Source to the number of back-offs since the last successful read from it. */
  readonly failures: Map<number, number>;
  /** When it first had nothing to read; null once something has arrived. */
  starvingSince: number | null;
}

export type FailedRead = Readonly<{ piece: number; source: number; reason: string }>;

/** Sources and receivers of one checkpoint; plan/swarm.ts assigns the reads. Pure state: no effects, no clock. */
export class JoinedCheckpoint {
  /** Epochs of the updates that use it. */
  readonly epochs = new Set<number>();
  readonly #pieces: Pieces;
  readonly #plan: Swarm;
  readonly #sources = new Map<number, FabricSource>();
  readonly #receivers = new Map<number, Receiver>();
  /** Sources that died and will return, or be replaced by another rank of their host. */
  readonly #expectedBack = new Set<number>();
  /** The last failure of a source, for error messages. */
  #lastFailure = 'none was ever added';

  constructor(sliceBytes: Float64Array) {
    this.#pieces = new Pieces([...sliceBytes]);
    this.#plan = new Swarm(this.#pieces.count);
  }

  // ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** `isComplete`: it holds every byte of its slices already. */
  addSource(source: FabricSource, isComplete: boolean): void {
    const { rank, address, slices } = source;
    const pieces = isComplete ? this.#piecesOf(slices.map(({ slice }) => slice)) : [];
    const known = this.#sources.get(rank);
    if (known !== undefined && Buffer.compare(known.address, address) === 0) {
      // Another update has added this source before, perhaps with fewer slices.
      const more = slices.filter(({ slice }) => !known.slices.some((held) => held.slice === slice));
      if (more.length > 0) this.#describe({ ...known, slices: [...known.slices, ...more] });
      this.#plan.extendSource(rank, pieces);
    } else {
      // The rank has restarted, and this is the first news of it.
      if (known !== undefined) this.#drop(rank);
      this.#describe(source);
      this.#plan.addSource(rank, pieces);
    }
    this.#expectedBack.delete(rank);
    for (const receiver of this.#receivers.values()) receiver.starvingSince = null;
  }

  /** `isExpectedBack`: the rank restarts, or another one of its host takes over. */
  removeSource(rank: number, reason: string, isExpectedBack: boolean): void {
    if (isExpectedBack) this.#expectedBack.add(rank);
    else this.#expectedBack.delete(rank);
    if (!this.#sources.has(rank)) return;
    this.#lastFailure = `${rankName(rank)}: ${reason}`;
    this.#drop(rank);
  }

  /** The source is alive but has released these slices. */
  reduceSource(rank: number, slices: readonly number[]): void {
    const source = this.#sources.get(rank);
    if (source === undefined) return;
    this.#describe({ ...source, slices: source.slices.filter(({ slice }) => !slices.includes(slice)) });
    this.#plan.reduceSource(rank, this.#piecesOf(slices));
  }

  #describe(source: FabricSource): void {
    this.#sources.set(source.rank, source);
    for (const { known } of this.#receivers.values()) known.delete(source.rank);
  }

  #drop(rank: number): void {
    this.#sources.delete(rank);
    this.#plan.removeSource(rank);
    for (const { known, failures } of this.#receivers.values()) {
      known.delete(rank);
      failures.delete(rank);
    }
  }

  #piecesOf(slices: readonly number[]): number[] {
    return slices.flatMap((slice) => {
      const { first, end } = this.#pieces.ofSegment(slice);
      return Array.from({ length: end - first }, (_, index) => first + index);
    });
  }

  // ── receivers ────────────────────────────────────────────────────────────────────────────────────────────────

  isSource(rank: number): boolean {
    return this.#sources.has(rank);
  }

  isReceiver(rank: number): boolean {
    return this.#receivers.has(rank);
  }

  /** `pieces`: those that it lacks, in the order in which it needs them. */
  addReceiver(rank: number, pieces: Uint32Array): void {
    this.#plan.addReceiver(rank, [...pieces]);
    this.#receivers.set(rank, { known: new Set(), failures: new Map(), starvingSince: null });
  }

  removeReceiver(rank: number): void {
    this.#receivers.delete(rank);
    this.#plan.removeReceiver(rank);
  }

  arrived(rank: number, piece: number): void {
    const receiver = this.#receivers.get(rank)!;
    const source = this.#plan.arrived(rank, piece);
    if (source !== null) receiver.failures.delete(source);
    receiver.starvingSince = null;
  }

  /**
   * The path between the two may be at fault rather than the source, so only this receiver backs off. Returns for how many
   * milliseconds, after which the caller calls {@link retrySource}; null if it backs off already.
   */
  failed(rank: number, { piece, source, reason }: FailedRead): number | null {
    this.#plan.failed(rank, piece);
    this.#lastFailure = `${rankName(source)}: ${reason}`;
    if (!this.#sources.has(source) || this.#plan.backedOffFrom(rank).has(source)) return null;
    const { failures } = this.#receivers.get(rank)!;
    const before = failures.get(source) ?? 0;
    failures.set(source, before + 1);
    this.#plan.backOffFrom(rank, source);
    return Math.min(backoffMilliseconds * 2 ** before, longestBackoffMilliseconds);
  }

  /** The receiver may read from the source again. */
  retrySource(rank: number, source: number): void {
    this.#plan.retrySource(rank, source);
  }

  /** What to read next; null for a receiver that has nothing to start now, and is not done. */
  next(rank: number): NextReads | null {
    const reads = this.#plan.next(rank);
    const isDone = this.#plan.isDone(rank);
    if (reads.length === 0 && !isDone) return null;
    return { reads, sources: this.#newSources(rank, reads), isDone };
  }

  /** The error for a receiver that waits for a piece which no source can supply; null while waiting may help. */
  starvationError(rank: number, now: number): PeerLostError | null {
    const receiver = this.#receivers.get(rank)!;
    const piece = this.#plan.unobtainable(rank);
    if (piece === null) return null;
    receiver.starvingSince ??= now;
    const isBackingOff = this.#plan.backedOffFrom(rank).size > 0;
    const patience =
      this.#expectedBack.size > 0 ? restartMilliseconds : isBackingOff ? starvationMilliseconds : 0;
    if (now - receiver.starvingSince < patience) return null;
    const { segment: slice } = this.#pieces.at(piece);
    return new PeerLostError(
      `no source is left for slice ${slice} of the checkpoint (last error: ${this.#lastFailure})`,
    );
  }

  /** Descriptions of sources in `reads` that the receiver does not have yet. */
  #newSources(rank: number, reads: NextReads['reads']): FabricSource[] {
    const { known } = this.#receivers.get(rank)!;
    const unknown = new Set(reads.map(({ source }) => source).filter((source) => !known.has(source)));
    for (const source of unknown) known.add(source);
    return [...unknown].map((source) => this.#sources.get(source)!);
  }
}
