import { ProtocolError } from '../errors.ts';

/**
 * What one engine worker holds after an update, a row for each tensor in an agreed order. A worker may hold a tensor
 * whole (`parts` 1), one of several parts of it (`part` counts from 0), or nothing of it (`parts` 0). The digests
 * of a tensor's parts add up to the tensor's digest, modulo 2^64 (native/memory/digest.h).
 */
export interface PartReport {
  readonly rank: number;
  readonly digests: BigUint64Array;
  readonly part: Uint16Array;
  readonly parts: Uint16Array;
}

export interface BadTensor {
  /** Index into the agreed order. */
  readonly row: number;
  /** What is wrong, to follow the tensor's name: "…is held by no worker". */
  readonly reason: string;
}

export interface PartsVerdict {
  readonly ok: boolean;
  /** How many tensors are bad. */
  readonly badCount: number;
  /** The first of them. */
  readonly bad: readonly BadTensor[];
}

const NAMED = 8;

/**
 * Whether the workers of an instance together hold exactly the expected tensors. Workers that hold the same part must
 * agree; the parts of a tensor must be complete and add up. Workers may cut a tensor into different numbers of
 * parts: then each way of cutting must be complete and right for itself, so that no worker's bytes go unchecked.
 *
 * Throws a ProtocolError for a report that is not of the form declared above.
 */
export function combineParts(reports: readonly PartReport[], expected: BigUint64Array): PartsVerdict {
  for (const report of reports) checkReport(report, expected.length);
  const columns = reports.map(({ rank, digests, part, parts }) => ({
    rank,
    part,
    parts,
    words: wordsOf(digests),
  }));
  const expectedWords = wordsOf(expected);
  const scratch = new PartSum();
  const bad: BadTensor[] = [];
  let badCount = 0;
  for (let row = 0; row < expected.length; row += 1) {
    const reason = findFault(columns, row, expectedWords, scratch);
    if (reason === null) continue;
    badCount += 1;
    if (bad.length < NAMED) bad.push({ row, reason });
  }
  return { ok: badCount === 0, badCount, bad };
}

interface Column {
  readonly rank: number;
  readonly part: Uint16Array;
  readonly parts: Uint16Array;
  /** Low and high half of each digest: sums of BigInts would take most of the time of a verification. */
  readonly words: Uint32Array;
}

function wordsOf(digests: BigUint64Array): Uint32Array {
  return new Uint32Array(digests.buffer, digests.byteOffset, digests.length * 2);
}

function checkReport({ rank, digests, part, parts }: PartReport, rows: number): void {
  if (digests.length !== rows || part.length !== rows || parts.length !== rows) {
    const lengths = `${digests.length}, ${part.length} and ${parts.length}`;
    throw new ProtocolError(`the engine worker of rank ${rank} reports ${lengths} rows instead of ${rows}`);
  }
  for (let row = 0; row < rows; row += 1) {
    if (parts[row] !== 0 && part[row]! >= parts[row]!) {
      throw new ProtocolError(
        `the engine worker of rank ${rank} reports part ${part[row]} of ${parts[row]} (row ${row}), counted from 0`,
      );
    }
  }
}

/** What is wrong with a row, or null. */
function findFault(
  columns: readonly Column[],
  row: number,
  expected: Uint32Array,
  sum: PartSum,
): string | null {
  let checkedUpTo = 0;
  // Each way of cutting in turn, by rising number of parts; nearly always there is one.
  for (;;) {
    let parts = 0;
    for (const column of columns) {
      const count = column.parts[row]!;
      if (count > checkedUpTo && (parts === 0 || count < parts)) parts = count;
    }
    if (parts === 0) return checkedUpTo === 0 ? 'is held by no worker' : null;
    const fault = sum.check(columns, row, parts, expected);
    if (fault !== null) return fault;
    checkedUpTo = parts;
  }
}

/** Adds up the parts of one row cut into a certain number of parts; kept over rows for its table. */
class PartSum {
  /** For each part number, the column that reported it first, plus one; 0 for none. All 0 between two checks. */
  readonly #holder = new Uint16Array(65_536);

  check(columns: readonly Column[], row: number, parts: number, expected: Uint32Array): string | null {
    const holder = this.#holder;
    let [low, high, distinct] = [0, 0, 0];
    let fault: string | null = null;
    for (let index = 0; index < columns.length; index += 1) {
      const { part: partColumn, parts: partsColumn, words, rank } = columns[index]!;
      if (partsColumn[row] !== parts) continue;
      const part = partColumn[row]!;
      const first = holder[part]!;
      if (first === 0) {
        holder[part] = index + 1;
        distinct += 1;
        low += words[row * 2]!;
        high += words[row * 2 + 1]!;
      } else if (!equalWords(columns[first - 1]!.words, words, row)) {
        const where = parts === 1 ? 'it' : `its part ${part} of ${parts}`;
        fault ??= `differs between ranks ${columns[first - 1]!.rank} and ${rank}, which both hold ${where}`;
      }
    }
    if (distinct < parts)
      fault ??= `is incomplete: ${distinct} of its ${parts} parts are held (${this.#missing(parts)} is missing)`;
    holder.fill(0, 0, parts);
    if (fault !== null) return fault;
    const carry = Math.floor(low / 2 ** 32);
    if (low >>> 0 === expected[row * 2] && (high + carry) >>> 0 === expected[row * 2 + 1]) return null;
    return `has another digest than the checkpoint${parts === 1 ? '' : ` (sum of ${parts} parts)`}`;
  }

  #missing(parts: number): string {
    return `part ${this.#holder.subarray(0, parts).indexOf(0)}`;
  }
}

function equalWords(a: Uint32Array, b: Uint32Array, row: number): boolean {
  return a[row * 2] === b[row * 2] && a[row * 2 + 1] === b[row * 2 + 1];
}
