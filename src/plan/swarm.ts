import assert from 'node:assert/strict';

/**
 * Concurrent reads that one source serves, and that one receiver has: enough to keep a link busy while one of them
 * ends. With more, receivers get pieces late that others wait for: sixty-four hosts that join at once take
 * 1.5 times as long as one with 4, and 2.4 times with 8 (test/plan/swarm.test.ts).
 */
export const READS_AT_A_TIME = 4;
/**
 * Pieces that are considered for one read; considering all would cost more than the better choice gains. With fewer,
 * each receiver sees too little of what the others began with: eight hosts that join at once take 1.56 times as long
 * as one with 128, and 1.41 times with 256 (bench/join-storm-simulated.ts).
 */
const CANDIDATES = 256;

/** Read `piece` from `source`. */
export interface Read {
  readonly piece: number;
  readonly source: number;
}

interface Source {
  readonly pieces: Uint8Array;
  reading: number;
}

interface Receiver {
  /** Pieces neither received nor being read, in the order in which they are wanted. */
  readonly missing: number[];
  /** Piece to the source that it is read from. */
  readonly reading: Map<number, number>;
  /** Sources that it does not read from for now. */
  readonly avoided: Set<number>;
}

/**
 * Which receiver reads which piece of a checkpoint from which source, while several join at once. Receivers serve
 * what they have received, so that many that join together take hardly longer than one.
 *
 * A receiver reads the rarest of its missing pieces from the idlest source that holds it. Each receiver begins at a
 * different place, so that a few sources send different pieces to different receivers, which then exchange them; a
 * receiver that joins alone gets its pieces in the order in which it wants them.
 *
 * Pure: it takes events and returns the reads to begin. Sources and receivers are numbers of the caller's choice.
 */
export class Swarm {
  readonly #pieceCount: number;
  readonly #sources = new Map<number, Source>();
  readonly #receivers = new Map<number, Receiver>();
  /** How many sources hold each piece. */
  readonly #copies: Uint32Array;
  /** Copies, and reads that will become copies. Rarity counts both, or all receivers would read the same piece. */
  readonly #spread: Uint32Array;

  constructor(pieceCount: number) {
    this.#pieceCount = pieceCount;
    this.#copies = new Uint32Array(pieceCount);
    this.#spread = new Uint32Array(pieceCount);
  }

  /** Adds a source and the pieces that it holds already. */
  addSource(source: number, pieces: Iterable<number>): void {
    assert(!this.#sources.has(source), `source ${source} was added already`);
    this.#sources.set(source, { pieces: new Uint8Array(this.#pieceCount), reading: 0 });
    for (const piece of pieces) this.#gain(source, piece);
  }

  /** A source holds more than was known. */
  extendSource(source: number, pieces: Iterable<number>): void {
    for (const piece of pieces) this.#gain(source, piece);
  }

  /** A source no longer holds these; those being read from it are missing again. */
  reduceSource(source: number, pieces: Iterable<number>): void {
    const entry = this.#sources.get(source);
    if (entry === undefined) return;
    const lost = new Set(pieces);
    for (const piece of lost) {
      this.#copies[piece]! -= entry.pieces[piece]!;
      this.#spread[piece]! -= entry.pieces[piece]!;
      entry.pieces[piece] = 0;
    }
    for (const receiver of this.#receivers.values()) {
      for (const [piece, from] of receiver.reading) {
        if (from === source && lost.has(piece)) this.#giveUp(receiver, piece);
      }
    }
  }

  /** A source is gone; pieces being read from it are missing again. */
  removeSource(source: number): void {
    this.reduceSource(source, Array(this.#pieceCount).keys());
    this.#sources.delete(source);
    for (const { avoided } of this.#receivers.values()) avoided.delete(source);
  }

  /** The receiver reads nothing from the source until {@link retrySource}. */
  backOffFrom(receiver: number, source: number): void {
    if (this.#sources.has(source)) this.#receiver(receiver).avoided.add(source);
  }

  retrySource(receiver: number, source: number): void {
    this.#receivers.get(receiver)?.avoided.delete(source);
  }

  /** Adds a receiver and the pieces that it lacks, in the order in which it wants them. It must be a source too. */
  addReceiver(receiver: number, wanted: readonly number[]): void {
    assert(!this.#receivers.has(receiver), `receiver ${receiver} was added already`);
    assert(this.#sources.has(receiver), `receiver ${receiver} is not a source`);
    const turn =
      this.#receivers.size === 0 ? 0 : Math.floor(wanted.length * goldenTurn(this.#receivers.size));
    const missing = [...wanted.slice(turn), ...wanted.slice(0, turn)];
    this.#receivers.set(receiver, { missing, reading: new Map(), avoided: new Set() });
  }

  removeReceiver(receiver: number): void {
    const entry = this.#receivers.get(receiver);
    if (entry === undefined) return;
    for (const piece of entry.reading.keys()) this.#giveUp(entry, piece);
    this.#receivers.delete(receiver);
  }

  /**
   * Reads for a receiver to begin now; none while it has enough, or sources are busy or hold nothing that it lacks.
   */
  next(receiver: number): Read[] {
    const entry = this.#receiver(receiver);
    const reads: Read[] = [];
    while (entry.reading.size < READS_AT_A_TIME) {
      const read = this.#choose(entry);
      if (read === null) break;
      entry.missing.splice(read.index, 1);
      entry.reading.set(read.piece, read.source);
      this.#sources.get(read.source)!.reading += 1;
      this.#spread[read.piece]! += 1;
      reads.push({ piece: read.piece, source: read.source });
    }
    return reads;
  }

  /**
   * The receiver has the piece and serves it from now on. Returns the source that it was read from; null for a read
   * that was cancelled.
   */
  arrived(receiver: number, piece: number): number | null {
    const { reading, missing } = this.#receiver(receiver);
    const source = reading.get(piece) ?? null;
    const place = missing.indexOf(piece);
    if (source !== null) this.#endRead({ reading }, piece);
    else if (place >= 0) missing.splice(place, 1);
    this.#gain(receiver, piece);
    return source;
  }

  /** The read failed; the piece is missing again. */
  failed(receiver: number, piece: number): void {
    const entry = this.#receiver(receiver);
    if (entry.reading.has(piece)) this.#giveUp(entry, piece);
  }

  /** A piece that the receiver lacks and that only sources which it avoids hold, or none; null for none. */
  unobtainable(receiver: number): number | null {
    const { missing, avoided } = this.#receiver(receiver);
    const avoidedSources = [...avoided].map((source) => this.#sources.get(source)!);
    const holders = (piece: number) =>
      avoidedSources.reduce((count, { pieces }) => count - pieces[piece]!, this.#copies[piece]!);
    return missing.find((piece) => holders(piece) === 0) ?? null;
  }

  /** The sources that the receiver does not read from for now. */
  backedOffFrom(receiver: number): ReadonlySet<number> {
    return this.#receiver(receiver).avoided;
  }

  /** Whether everything that the receiver wanted has arrived. */
  isDone(receiver: number): boolean {
    const { missing, reading } = this.#receiver(receiver);
    return missing.length === 0 && reading.size === 0;
  }

  /** The rarest of the first missing pieces that an idle source holds; of equally rare ones the first. */
  #choose({ missing, avoided }: Receiver): (Read & { readonly index: number }) | null {
    let best: (Read & { readonly index: number }) | null = null;
    // When many join, few are idle.
    const idle = [...this.#sources].filter(([source, { reading }]) => {
      return reading < READS_AT_A_TIME && !avoided.has(source);
    });
    const end = idle.length === 0 ? 0 : Math.min(missing.length, CANDIDATES);
    for (let index = 0; index < end; index += 1) {
      const piece = missing[index]!;
      if (best !== null && this.#spread[piece]! >= this.#spread[best.piece]!) continue;
      const source = idlest(idle, piece);
      if (source !== null) best = { piece, source, index };
    }
    return best;
  }

  #gain(source: number, piece: number): void {
    const entry = this.#sources.get(source);
    if (entry === undefined || entry.pieces[piece] === 1) return;
    entry.pieces[piece] = 1;
    this.#copies[piece]! += 1;
    this.#spread[piece]! += 1;
  }

  #giveUp(receiver: Receiver, piece: number): void {
    this.#endRead(receiver, piece);
    receiver.missing.unshift(piece);
  }

  #endRead({ reading }: Pick<Receiver, 'reading'>, piece: number): void {
    const source = this.#sources.get(reading.get(piece)!);
    // The source may have been removed.
    if (source !== undefined) source.reading -= 1;
    reading.delete(piece);
    this.#spread[piece]! -= 1;
  }

  #receiver(receiver: number): Receiver {
    const entry = this.#receivers.get(receiver);
    assert(entry !== undefined, `receiver ${receiver} was not added`);
    return entry;
  }
}

/** Of equally idle sources the one added last: the first ones alone hold the rarest pieces. */
function idlest(sources: readonly (readonly [number, Source])[], piece: number): number | null {
  let idlest: number | null = null;
  let fewest = READS_AT_A_TIME - 1;
  for (const [number, { pieces, reading }] of sources) {
    if (pieces[piece] === 0 || reading > fewest) continue;
    idlest = number;
    fewest = reading;
  }
  return idlest;
}

/** Where the n-th receiver begins, in [0, 1): multiples of the golden ratio are far from all earlier ones. */
function goldenTurn(number: number): number {
  return (number * 0.6180339887498949) % 1;
}
