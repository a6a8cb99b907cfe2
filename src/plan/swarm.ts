import assert from 'node:assert/strict';

/**
 * Reads that one source serves, and that one receiver has under way, at a time: enough to keep a link busy while one of
 * them ends. With more of them receivers get pieces late that others wait for: sixty-four hosts that join at once take
 * 1.5 times as long as one with 4, and 2.4 times with 8 (test/plan/swarm.test.ts).
 */
export const READS_AT_A_TIME = 4;
/**
 * Pieces that are looked at for one read; looking at all would cost more than the better choice gains. Among fewer each
 * receiver sees too little of what the others began with: eight hosts that join at once take 1.56 times as long as one
 * with 128, and 1.41 times with 256 (bench/join-storm-simulated.ts).
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
  /** Pieces that are neither here nor on their way, in the order in which they are wanted. */
  readonly missing: number[];
  /** Piece to the source that it is read from. */
  readonly reading: Map<number, number>;
  /** Sources that it does not read from for a while. */
  readonly avoided: Set<number>;
}

/**
 * Who reads which piece of a checkpoint from whom, while several join at once. Whoever joins serves what it
 * has received, so that many that join together take hardly longer than one.
 *
 * A receiver reads the rarest of its missing pieces from the idlest source that holds it. Each receiver begins to look
 * at another place, so that a few sources give different pieces to different receivers, who then exchange them; one
 * that joins alone gets its pieces in the order in which it wants them.
 *
 * Pure: it is told what happened, and says what to do next. Sources and receivers are numbers of the caller's choice.
 */
export class Swarm {
  readonly #pieceCount: number;
  readonly #sources = new Map<number, Source>();
  readonly #receivers = new Map<number, Receiver>();
  /** How many sources hold each piece. */
  readonly #copies: Uint32Array;
  /** Copies, and reads that are going to be copies: by these a piece is rare, or everyone would read the same one. */
  readonly #spread: Uint32Array;

  constructor(pieceCount: number) {
    this.#pieceCount = pieceCount;
    this.#copies = new Uint32Array(pieceCount);
    this.#spread = new Uint32Array(pieceCount);
  }

  /** Someone who can be read from, and what they hold already. */
  addSource(source: number, pieces: Iterable<number>): void {
    assert(!this.#sources.has(source), `source ${source} is there already`);
    this.#sources.set(source, { pieces: new Uint8Array(this.#pieceCount), reading: 0 });
    for (const piece of pieces) this.#gain(source, piece);
  }

  /** A source holds more than was known. */
  extendSource(source: number, pieces: Iterable<number>): void {
    for (const piece of pieces) this.#gain(source, piece);
  }

  /** A source does not hold these any more; what of them was being read from it is missing again. */
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

  /** It is gone, and with it what was being read from it: that is missing again. */
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

  /** Someone who lacks pieces, in the order in which they are wanted. It is a source of the same number as well. */
  addReceiver(receiver: number, wanted: readonly number[]): void {
    assert(!this.#receivers.has(receiver), `receiver ${receiver} is there already`);
    assert(this.#sources.has(receiver), `receiver ${receiver} is no source`);
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

  /** Reads for a receiver to begin now; none while it has enough under way, or sources are busy or hold nothing it lacks. */
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
   * The piece is with the receiver, from where it may be read on. Returns the source that it came from; null for a read
   * that had been given up.
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

  /** The read came to nothing; the piece is missing again. */
  failed(receiver: number, piece: number): void {
    const entry = this.#receiver(receiver);
    if (entry.reading.has(piece)) this.#giveUp(entry, piece);
  }

  /** A piece that the receiver lacks and nobody holds but sources that it avoids; null if there is none. */
  unobtainable(receiver: number): number | null {
    const { missing, avoided } = this.#receiver(receiver);
    const avoidedSources = [...avoided].map((source) => this.#sources.get(source)!);
    const holders = (piece: number) =>
      avoidedSources.reduce((count, { pieces }) => count - pieces[piece]!, this.#copies[piece]!);
    return missing.find((piece) => holders(piece) === 0) ?? null;
  }

  /** The sources that the receiver leaves alone for now. */
  backedOffFrom(receiver: number): ReadonlySet<number> {
    return this.#receiver(receiver).avoided;
  }

  isReading(receiver: number): boolean {
    return this.#receiver(receiver).reading.size > 0;
  }

  /** Whether everything that the receiver wanted has arrived. */
  isDone(receiver: number): boolean {
    const { missing, reading } = this.#receiver(receiver);
    return missing.length === 0 && reading.size === 0;
  }

  /** The rarest of the first missing pieces that an idle source holds; of equally rare ones the first. */
  #choose({ missing, avoided }: Receiver): (Read & { readonly index: number }) | null {
    let best: (Read & { readonly index: number }) | null = null;
    // When many join, few of them are.
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
    // It may have been removed.
    if (source !== undefined) source.reading -= 1;
    reading.delete(piece);
    this.#spread[piece]! -= 1;
  }

  #receiver(receiver: number): Receiver {
    const entry = this.#receivers.get(receiver);
    assert(entry !== undefined, `there is no receiver ${receiver}`);
    return entry;
  }
}

/** Of equally idle ones the one that came last: the first ones alone hold the rarest pieces. */
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

/** Where the n-th comer begins, in [0, 1): multiples of the golden ratio fall far from all earlier ones. */
function goldenTurn(number: number): number {
  return (number * 0.6180339887498949) % 1;
}
