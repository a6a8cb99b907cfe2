import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Contents, digestOf, type Piece } from '../../simulation/contents.ts';
import { forSeeds } from '../plan/seeded-random.ts';

const size = 64;

function spell(pieces: readonly Piece[], bytes: number): string[] {
  const spelt = new Array<string>(bytes).fill('?');
  for (const { start, end, source, from } of pieces) {
    for (let at = start; at < end; at += 1) spelt[at] = `${source}${from + at - start}`;
  }
  return spelt;
}

test('reads return what was written, byte for byte, and equal memory gives equal pieces', () => {
  forSeeds(300, (random) => {
    const contents = new Contents();
    let bytes = new Array<string>(size).fill('?');
    for (let write = 0; write < 12; write += 1) {
      const start = random.whole(0, size - 1);
      const length = random.whole(0, size - start);
      const source = random.pick(['a', 'b']);
      const from = random.whole(0, 3);
      const erases = random.chance(0.2);
      if (erases) contents.erase(start, length);
      else contents.write(start, length, length === 0 ? [] : [{ start: 0, end: length, source, from }]);
      bytes = bytes.map((byte, at) => {
        if (at < start || at >= start + length) return byte;
        return erases ? '?' : `${source}${from + at - start}`;
      });
      const first = random.whole(0, size - 1);
      const count = random.whole(0, size - first);
      const read = contents.read(first, count);
      assert.deepEqual(spell(read, count), bytes.slice(first, first + count));
      const copy = new Contents();
      for (const piece of random.shuffled(read)) {
        copy.write(piece.start, piece.end - piece.start, [
          { ...piece, start: 0, end: piece.end - piece.start },
        ]);
      }
      assert.equal(digestOf(copy.read(0, count)), digestOf(read));
    }
  });
});

test('different bytes of the same length have different digests', () => {
  const digests = new Set<bigint>();
  for (const source of ['a', 'b']) {
    for (let from = 0; from < 500; from += 1) digests.add(digestOf([{ start: 0, end: 8, source, from }]));
  }
  assert.equal(digests.size, 1_000);
});

test('digests of the parts of a tensor add up to its digest, wherever it is cut', () => {
  const whole = (start: number, end: number) => ({ start, end, source: 'a', from: 100 + start });
  const all = digestOf([whole(0, 64)]);
  for (let cut = 1; cut < 64; cut += 1) {
    const sum = digestOf([whole(0, cut)]) + digestOf([whole(cut, 64)]);
    assert.equal(BigInt.asUintN(64, sum), all);
  }
  const shifted = { start: 32, end: 64, source: 'a', from: 100 };
  assert.notEqual(BigInt.asUintN(64, digestOf([whole(0, 32)]) + digestOf([shifted])), all);
});
