import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  LEAST_PIECE_BYTES,
  LEAST_PIECES,
  MOST_PIECES,
  Pieces,
  USUAL_PIECE_BYTES,
} from '../../src/plan/pieces.ts';
import { checkProperty } from '../check-property.ts';

test('pieces cover every byte of every segment once, in order', () => {
  const segmentSizes = fc.oneof(
    { weight: 1, arbitrary: fc.constant(0) },
    { weight: 4, arbitrary: fc.integer({ min: 1, max: 5 * LEAST_PIECE_BYTES }) },
  );
  checkProperty(
    fc.property(fc.array(segmentSizes, { minLength: 1, maxLength: 9 }), (sizes) => {
      const pieces = new Pieces(sizes);
      const reached = sizes.map(() => 0);
      for (let piece = 0; piece < pieces.count; piece += 1) {
        const { segment, offset, bytes } = pieces.at(piece);
        assert.equal(offset, reached[segment], 'no gap and no overlap');
        assert.ok(bytes > 0);
        reached[segment]! += bytes;
      }
      assert.deepEqual(reached, sizes);
    }),
  );
});

test('the pieces that cover a range are those with bytes of it', () => {
  const sizes = [3 * LEAST_PIECE_BYTES, 0, 100, 2 * LEAST_PIECE_BYTES + 1];
  const pieces = new Pieces(sizes);
  checkProperty(
    fc.property(fc.constantFrom(0, 2, 3), fc.nat(), fc.nat(), (segment, place, length) => {
      const offset = place % sizes[segment]!;
      const bytes = length % (sizes[segment]! - offset + 1);
      const { first, end } = pieces.covering(segment, offset, bytes);
      for (let piece = 0; piece < pieces.count; piece += 1) {
        const one = pieces.at(piece);
        const overlaps =
          bytes > 0 &&
          one.segment === segment &&
          one.offset < offset + bytes &&
          offset < one.offset + one.bytes;
        assert.equal(piece >= first && piece < end, overlaps);
      }
    }),
    500,
  );
});

test('a checkpoint of terabytes has longer pieces, not more', () => {
  const sizes = Array.from({ length: 64 }, () => 2 ** 35 + 12_345);
  const { count } = new Pieces(sizes);
  assert.ok(count <= MOST_PIECES + sizes.length, `${count}`);
  assert.equal(new Pieces([LEAST_PIECE_BYTES * 10]).count, 10);
  assert.equal(new Pieces([0]).count, 0);
  assert.throws(() => new Pieces([0]).at(0), /no piece 0: there are 0/);
});

test('a small checkpoint has shorter pieces, so that joiners soon have some to serve', () => {
  assert.equal(new Pieces([LEAST_PIECES * LEAST_PIECE_BYTES * 4]).count, LEAST_PIECES);
  assert.equal(new Pieces([LEAST_PIECES * USUAL_PIECE_BYTES * 4]).at(0).bytes, USUAL_PIECE_BYTES);
});
