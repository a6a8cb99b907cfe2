import assert from 'node:assert/strict';

/** Shorter pieces would cost more messages than reading. */
export const LEAST_PIECE_BYTES = 2 ** 20;
/** Long enough to keep the fastest link busy, short enough that a lost piece is soon read again. */
export const USUAL_PIECE_BYTES = 16 * 2 ** 20;
/** Below this number pieces get shorter: joiners serve only whole pieces, and need some while others still join. */
export const LEAST_PIECES = 256;
/** Above this number pieces get longer: holders are tracked piece by piece. */
export const MOST_PIECES = 4096;

/** Bytes of a segment that are read from another host as one unit. */
export interface Piece {
  readonly segment: number;
  /** In the segment. */
  readonly offset: number;
  readonly bytes: number;
}

/**
 * The pieces of a checkpoint's segments, numbered from 0. They follow from the sizes of the segments alone, so that a
 * number means the same piece on all hosts that hold or receive the checkpoint.
 */
export class Pieces {
  readonly count: number;
  readonly #pieceBytes: number;
  readonly #segmentBytes: readonly number[];
  /** Number of the first piece of each segment; one entry more than segments. */
  readonly #starts: Uint32Array;

  constructor(segmentBytes: readonly number[]) {
    const total = segmentBytes.reduce((sum, bytes) => sum + bytes, 0);
    const short = Math.max(LEAST_PIECE_BYTES, Math.ceil(total / LEAST_PIECES));
    this.#pieceBytes = Math.max(Math.min(short, USUAL_PIECE_BYTES), Math.ceil(total / MOST_PIECES));
    this.#segmentBytes = segmentBytes;
    this.#starts = new Uint32Array(segmentBytes.length + 1);
    for (const [segment, bytes] of segmentBytes.entries()) {
      this.#starts[segment + 1] = this.#starts[segment]! + Math.ceil(bytes / this.#pieceBytes);
    }
    this.count = this.#starts.at(-1)!;
  }

  at(piece: number): Piece {
    assert(piece >= 0 && piece < this.count, `no piece ${piece}: there are ${this.count}`);
    const segment = this.#segmentOf(piece);
    const offset = (piece - this.#starts[segment]!) * this.#pieceBytes;
    return { segment, offset, bytes: Math.min(this.#pieceBytes, this.#segmentBytes[segment]! - offset) };
  }

  /** The pieces of a whole segment: from `first` up to, not including, `end`. */
  ofSegment(segment: number): { readonly first: number; readonly end: number } {
    return { first: this.#starts[segment]!, end: this.#starts[segment + 1]! };
  }

  /** The pieces in which bytes of a segment lie: from `first` up to, not including, `end`. */
  covering(segment: number, offset: number, bytes: number): { readonly first: number; readonly end: number } {
    const start = this.#starts[segment]!;
    const first = start + Math.floor(offset / this.#pieceBytes);
    if (bytes === 0) return { first, end: first };
    return { first, end: start + Math.floor((offset + bytes - 1) / this.#pieceBytes) + 1 };
  }

  /** The last segment that begins at or before the piece. Segments without bytes have no pieces. */
  #segmentOf(piece: number): number {
    let low = 0;
    let high = this.#segmentBytes.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.#starts[middle]! <= piece) low = middle;
      else high = middle;
    }
    return low;
  }
}
