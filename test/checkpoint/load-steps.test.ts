import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { loadSteps } from '../../src/checkpoint/load-steps.ts';
import { checkProperty } from '../check-property.ts';

const stepBytes = 1_000;
const tensor = fc.record({
  file: fc.nat(3),
  bytes: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 3_500 })),
  /** Before it, in its file and in the segment. */
  gaps: fc.tuple(fc.nat(2), fc.nat(2)),
});

test('the steps of a load bring each byte once, and none before its pages are there', () => {
  checkProperty(
    fc.property(fc.array(tensor, { maxLength: 60 }), (drawn) => {
      const ends = [0, 0, 0, 0];
      const rangesOf: number[][] = [[], [], [], []];
      const places: number[] = [];
      const expected = new Map<number, string>();
      let place = 0;
      for (const { file, bytes, gaps } of drawn) {
        const from = ends[file]! + gaps[0];
        place += gaps[1];
        // A range goes on where file and segment both do.
        const ranges = rangesOf[file]!;
        const isNext = ranges.at(-3)! + ranges.at(-1)! === from && ranges.at(-2)! + ranges.at(-1)! === place;
        if (isNext) ranges[ranges.length - 1]! += bytes;
        else ranges.push(from, place, bytes);
        for (let at = 0; at < bytes; at += 1) expected.set(place + at, `${file}: ${from + at}`);
        places.push(place, bytes);
        ends[file] = from + bytes;
        place += bytes;
      }
      const files = rangesOf.map((ranges, file) => ({
        path: String(file),
        ranges: Float64Array.from(ranges),
      }));
      const steps = loadSteps(files, places, stepBytes);
      const brought = new Map<number, string>();
      for (const { step, files: parts } of steps) {
        for (const { path, ranges } of parts) {
          for (let at = 0; at < ranges.length; at += 3) {
            const [from, to, bytes] = [ranges[at]!, ranges[at + 1]!, ranges[at + 2]!];
            assert(bytes > 0 && to + bytes <= (step + 1) * stepBytes);
            for (let byte = 0; byte < bytes; byte += 1) {
              assert(!brought.has(to + byte));
              brought.set(to + byte, `${path}: ${from + byte}`);
            }
          }
        }
      }
      assert.deepEqual([...brought].sort(), [...expected].sort());
      assert.deepEqual(
        steps.flatMap(({ tensors }) => tensors),
        places,
      );
      const numbers = steps.map(({ step }) => step);
      assert.deepEqual(
        numbers,
        [...new Set(numbers)].sort((one, other) => one - other),
      );
    }),
  );
});
