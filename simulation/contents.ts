import { strict as assert } from 'node:assert';
import type { Mapping } from '../src/native-bridge/memory.ts';

/** Bytes `[start, end)` of some memory; they equal the bytes of `source` that start at `from`. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly source: string;
  readonly from: number;
}

/**
 * Simulated memory. It stores no bytes, only where each byte came from, which is enough to tell whether an engine worker
 * got the right bytes at the right moment.
 */
export class Contents {
  /** Ascending, without overlap; gaps were never written, or erased. */
  #pieces: Piece[] = [];

  /** The pieces of a range, with positions relative to its start. */
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

  /** Replaces a range by pieces with positions relative to its start. */
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

/** A named shared-memory segment of a simulated host. */
export class SimulatedSegment {
  readonly path: string;
  readonly bytes: number;
  readonly contents = new Contents();

  constructor(path: string, bytes: number) {
    this.path = path;
    this.bytes = bytes;
  }
}

/** The segment as the ports' interfaces pass it around: actors never look into a mapping. */
export function asMapping(segment: SimulatedSegment): Mapping {
  return segment as unknown as Mapping;
}

/** The reverse of {@link asMapping}. Throws if the mapping is not simulated. */
export function asSegment(mapping: object): SimulatedSegment {
  assert(mapping instanceof SimulatedSegment, 'the mapping is simulated');
  return mapping;
}

export function samePieces(one: readonly Piece[], other: readonly Piece[]): boolean {
  return one.length === other.length && one.every((piece, index) => same(piece, other[index]!));
}

/**
 * Stands in for the digest of a tensor, or of a part of one, with these bytes; positions are those in the tensor. Equal for
 * equal bytes and different for others (64-bit hash), and digests of parts add up to that of the tensor.
 */
export function digestOf(pieces: readonly Piece[]): bigint {
  let sum = 0n;
  for (const { start, end, source, from } of pieces) {
    // As far as a piece reaches it does not matter where it was cut.
    const origin = `${source} ${from - start}`;
    sum += hash(`${origin} ${end}`) - hash(`${origin} ${start}`);
  }
  return BigInt.asUintN(64, sum);
}

function hash(text: string): bigint {
  let low = 0x811c9dc5;
  let high = 0x01234567;
  for (let at = 0; at < text.length; at += 1) {
    low = Math.imul(low ^ text.charCodeAt(at), 0x01000193);
    high = Math.imul(high ^ text.charCodeAt(at), 0x5bd1e995) + 1;
  }
  return (BigInt(mixed(high ^ low)) << 32n) | BigInt(mixed(low));
}

/** Texts that differ in their last character differ in few bits until here. */
function mixed(word: number): number {
  const half = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  const all = Math.imul(half ^ (half >>> 13), 0xc2b2ae35);
  return (all ^ (all >>> 16)) >>> 0;
}

/** What of a piece lies in a range; nothing or one piece. */
export function clippedTo(piece: Piece, start: number, end: number): Piece[] {
  return piece.end <= start || piece.start >= end ? [] : [clipped(piece, start, end)];
}

function clipped(piece: Piece, start: number, end: number): Piece {
  const first = Math.max(piece.start, start);
  if (first === piece.start && piece.end <= end) return piece;
  const { source, from } = piece;
  return { start: first, end: Math.min(piece.end, end), source, from: from + first - piece.start };
}

export function shifted({ start, end, source, from }: Piece, by: number): Piece {
  return { start: start + by, end: end + by, source, from };
}

/** Merges a piece that continues the last one, so that equal memory always reads as equal pieces. */
function append(pieces: Piece[], piece: Piece): void {
  const last = pieces.at(-1);
  const continues =
    last !== undefined &&
    last.end === piece.start &&
    last.source === piece.source &&
    last.from + last.end - last.start === piece.from;
  if (continues) pieces[pieces.length - 1] = { ...last, end: piece.end };
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
