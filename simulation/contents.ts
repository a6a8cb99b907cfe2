/** Bytes `[start, end)` of some memory; they are those of `source` from `from` on. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly source: string;
  readonly from: number;
}

/**
 * Memory of a simulation. Its bytes do not exist; it knows where each would have come from, and that is enough to
 * tell whether an engine worker was given the right ones at the right moment.
 */
export class Contents {
  /** Ascending, without overlap; what lies between them was never written. */
  #pieces: Piece[] = [];

  /** The pieces of a range, their positions counted from its start. */
  read(start: number, bytes: number): Piece[] {
    const end = start + bytes;
    const found: Piece[] = [];
    if (bytes === 0) return found;
    for (const piece of this.#pieces) {
      if (piece.end <= start) continue;
      if (piece.start >= end) break;
      append(found, shifted(clipped(piece, start, end), -start));
    }
    return found;
  }

  /** Fills a range with pieces whose positions are counted from its start. */
  write(start: number, bytes: number, pieces: readonly Piece[]): void {
    const end = start + bytes;
    const before: Piece[] = [];
    const after: Piece[] = [];
    for (const piece of this.#pieces) {
      if (piece.start < start) before.push(clipped(piece, piece.start, start));
      if (piece.end > end) after.push(clipped(piece, end, piece.end));
    }
    this.#pieces = [...before, ...pieces.map((piece) => shifted(piece, start)), ...after];
  }

  erase(start: number, bytes: number): void {
    this.write(start, bytes, []);
  }
}

export function samePieces(one: readonly Piece[], other: readonly Piece[]): boolean {
  return one.length === other.length && one.every((piece, index) => same(piece, other[index]!));
}

/** Stands for the digest of a tensor with these bytes: equal for equal pieces, and for no others but by accident. */
export function digestOf(pieces: readonly Piece[], bytes: number): bigint {
  let low = 0x811c9dc5 ^ bytes;
  let high = 0x01234567;
  for (const { start, end, source, from } of pieces) {
    const text = `${start} ${end} ${source} ${from};`;
    for (let at = 0; at < text.length; at += 1) {
      low = Math.imul(low ^ text.charCodeAt(at), 0x01000193);
      high = Math.imul(high ^ text.charCodeAt(at), 0x5bd1e995) + 1;
    }
  }
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function clipped(piece: Piece, start: number, end: number): Piece {
  const first = Math.max(piece.start, start);
  if (first === piece.start && piece.end <= end) return piece;
  const { source, from } = piece;
  return { start: first, end: Math.min(piece.end, end), source, from: from + first - piece.start };
}

function shifted({ start, end, source, from }: Piece, by: number): Piece {
  return { start: start + by, end: end + by, source, from };
}

/** Pieces that go on where the last one ends become one, so that equal memory reads equal. */
function append(pieces: Piece[], piece: Piece): void {
  const last = pieces.at(-1);
  const goesOn =
    last !== undefined &&
    last.end === piece.start &&
    last.source === piece.source &&
    last.from + last.end - last.start === piece.from;
  if (goesOn) pieces[pieces.length - 1] = { ...last, end: piece.end };
  else pieces.push(piece);
}

function same(one: Piece, other: Piece): boolean {
  return (
    one.start === other.start &&
    one.end === other.end &&
    one.source === other.source &&
    one.from === other.from
  );
}
