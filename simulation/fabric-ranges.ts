import { strict as assert } from 'node:assert';
import { NativeError } from '../src/errors.ts';
import type { Piece, SimulatedSegment } from './contents.ts';

/** One range of a read: offset in the source, offset in the destination, and length. */
export interface Range {
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

export function rangesOf(numbers: Float64Array): Range[] {
  assert(numbers.length % 3 === 0, 'a range is three numbers');
  const ranges: Range[] = [];
  for (let at = 0; at < numbers.length; at += 3) {
    ranges.push({ from: numbers[at]!, to: numbers[at + 1]!, bytes: numbers[at + 2]! });
  }
  return ranges;
}

/** Throws `NativeError` if a range lies outside the segment. */
export function checkRanges(
  { path, bytes: size }: SimulatedSegment,
  ranges: readonly Range[],
  offsetOf: (range: Range) => number,
): void {
  for (const range of ranges) {
    if (offsetOf(range) >= 0 && offsetOf(range) + range.bytes <= size) continue;
    throw new NativeError(`a range of a read lies outside ${path}, which has ${size} bytes`);
  }
}

/** What each range of the source holds. */
export function contentsOf({ contents }: SimulatedSegment, ranges: readonly Range[]): Piece[][] {
  return ranges.map(({ from, bytes }) => contents.read(from, bytes));
}
