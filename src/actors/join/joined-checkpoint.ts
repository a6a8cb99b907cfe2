import { rankName } from '../../checkpoint/rank-name.ts';
import { PeerLostError } from '../../errors.ts';
import { Pieces } from '../../plan/pieces.ts';
import { Swarm } from '../../plan/swarm.ts';
import type { FabricSource, NextReads } from '../protocol/join-values.ts';

/** How long a receiver may go without anything to read, while sources are left alone that may be there all the same. */
const starvationMilliseconds = 4_000;
/** The same while a source is being started anew. */
const returnMilliseconds = 60_000;
/** A receiver leaves a source alone for so long after a read that failed, and twice as long after the next. */
const avoidMilliseconds = 500;
const longestAvoidMilliseconds = 2_000;

interface Receiver {
  /** Sources whose descriptions it has been sent. */
  readonly known: Set<number>;
  /** Source to how often it was left alone since something came from it. */
  readonly failures: Map<number, number>;
  /** Since there was first nothing to read; null once something has arrived. */
  starvingSince: number | null;
}

export type FailedRead = Readonly<{ piece: number; source: number; reason: string }>;

/** A checkpoint that is being joined: who can be read from and who receives; plan/swarm.ts chooses. Without any effect. */
export class JoinedCheckpoint {
  /** Updates that use it. */
  readonly epochs = new Set<number>();
  readonly #pieces: Pieces;
  readonly #plan: Swarm;
  readonly #sources = new Map<number, FabricSource>();
  readonly #receivers = new Map<number, Receiver>();
  /** Sources that are gone and are being started anew. */
  readonly #returning = new Set<number>();
  /** Of the source that failed last, for whoever lacks what it held. */
  #lastLoss = 'nobody ever held it';

  constructor(sliceBytes: Float64Array) {
    this.#pieces = new Pieces([...sliceBytes]);
    this.#plan = new Swarm(this.#pieces.count);
  }

  // ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** `isComplete`: it holds all of its slices now. */
  addSource(source: FabricSource, isComplete: boolean): void {
    const { rank, address, slices } = source;
    const pieces = isComplete ? this.#piecesOf(slices.map(({ slice }) => slice)) : [];
    const known = this.#sources.get(rank);
    if (known !== undefined && Buffer.compare(known.address, address) === 0) {
      // Another update knows it too; it may hold more by now.
      const more = slices.filter(({ slice }) => !known.slices.some((held) => held.slice === slice));
      if (more.length > 0) this.#describe({ ...known, slices: [...known.slices, ...more] });
      this.#plan.extendSource(rank, pieces);
    } else {
      // A new life of a rank whose death was not noticed.
      if (known !== undefined) this.#drop(rank);
      this.#describe(source);
      this.#plan.addSource(rank, pieces);
    }
    this.#returning.delete(rank);
    for (const receiver of this.#receivers.values()) receiver.starvingSince = null;
  }

  removeSource(rank: number, reason: string, returns: boolean): void {
    if (returns) this.#returning.add(rank);
    else this.#returning.delete(rank);
    if (!this.#sources.has(rank)) return;
    this.#lastLoss = `${rankName(rank)}: ${reason}`;
    this.#drop(rank);
  }

  /** It is there, and holds these no more. */
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

  /** A source that lacks pieces, in the order in which it wants them. */
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
   * The way between the two may be at fault, and not the source: only this receiver leaves it alone. Returns for how many
   * milliseconds, until {@link forgive}; null if it does already.
   */
  failed(rank: number, { piece, source, reason }: FailedRead): number | null {
    this.#plan.failed(rank, piece);
    this.#lastLoss = `${rankName(source)}: ${reason}`;
    if (!this.#sources.has(source) || this.#plan.avoidedBy(rank).has(source)) return null;
    const { failures } = this.#receivers.get(rank)!;
    const before = failures.get(source) ?? 0;
    failures.set(source, before + 1);
    this.#plan.backOffFrom(rank, source);
    return Math.min(avoidMilliseconds * 2 ** before, longestAvoidMilliseconds);
  }

  forgive(rank: number, source: number): void {
    this.#plan.retrySource(rank, source);
  }

  /** What to read now; null for a receiver that has nothing under way and nothing to begin. */
  next(rank: number): NextReads | null {
    const reads = this.#plan.next(rank);
    const isDone = this.#plan.isDone(rank);
    if (reads.length === 0 && !isDone && !this.#plan.isReading(rank)) return null;
    return { reads, sources: this.#news(rank, reads), isDone };
  }

  /** Why the receiver, which waits for something to read, waits in vain; null while it need not. */
  starves(rank: number, now: number): PeerLostError | null {
    const receiver = this.#receivers.get(rank)!;
    const piece = this.#plan.unobtainable(rank);
    if (piece === null) return null;
    receiver.starvingSince ??= now;
    const isAvoiding = this.#plan.avoidedBy(rank).size > 0;
    const patience = this.#returning.size > 0 ? returnMilliseconds : isAvoiding ? starvationMilliseconds : 0;
    if (now - receiver.starvingSince < patience) return null;
    const { segment: slice } = this.#pieces.at(piece);
    return new PeerLostError(`nobody is left who holds slice ${slice} of the checkpoint; ${this.#lastLoss}`);
  }

  /** Descriptions of the sources that the receiver has not been told of. */
  #news(rank: number, reads: NextReads['reads']): FabricSource[] {
    const { known } = this.#receivers.get(rank)!;
    const unknown = new Set(reads.map(({ source }) => source).filter((source) => !known.has(source)));
    for (const source of unknown) known.add(source);
    return [...unknown].map((source) => this.#sources.get(source)!);
  }
}
