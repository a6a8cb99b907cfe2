import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProtocolError } from '../../src/errors.ts';
import { decode, encode } from '../../src/transport/codec.ts';
import { maximumDepth, maximumValues } from '../../src/transport/messagepack-limits.ts';

/** A generator of repeatable random numbers in [0, 1): mulberry32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const wholeNumbers = [
  0,
  1,
  31,
  32,
  127,
  128,
  255,
  256,
  65_535,
  65_536,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53 - 1,
];
const bigints = [0n, 1n, -1n, 2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 64n - 1n];

function randomScalar(next: () => number): unknown {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!;
  const words = () => Array.from({ length: Math.floor(next() * 20) }, () => Math.floor(next() * 2 ** 32));
  return pick([
    () => null,
    () => next() < 0.5,
    () => pick(wholeNumbers),
    () => -pick(wholeNumbers.slice(1)),
    () => next() * 10 ** Math.floor(next() * 15) - 0.5,
    () => pick([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, -0.5]),
    () => pick(bigints),
    () => pick(['', 'a', 'Wägung 重み 🏋', 'x'.repeat(Math.floor(next() ** 8 * 100_000))]),
    () => new Uint8Array(words()),
    () => new Uint8Array(Math.floor(next() ** 8 * 100_000)).fill(3),
    () => new Uint16Array(words()),
    () => new Int32Array(words()),
    () => new Uint32Array(words()),
    () => new Float64Array(words()),
    () => new BigUint64Array(words().map((word) => BigInt(word) << 32n)),
    // Views into the middle of other memory.
    () => new Float64Array(new Float64Array([1, 2, 3, 4]).buffer, 8, 2),
    () => new Uint8Array([1, 2, 3, 4]).subarray(1, 3),
  ])();
}

function randomValue(next: () => number, depth: number): unknown {
  const kind = depth === 0 ? 1 : next();
  const length = Math.floor(next() * (next() < 0.02 ? 40 : 6));
  if (kind < 0.3) return Array.from({ length }, () => randomValue(next, depth - 1));
  if (kind < 0.6) {
    return Object.fromEntries(
      Array.from({ length }, (_, index) => [`k${index}`, randomValue(next, depth - 1)]),
    );
  }
  return randomScalar(next);
}

test('every value comes back as it was, with its type, from memory that starts at any address', () => {
  const next = random(1);
  for (let round = 0; round < 400; round += 1) {
    const value = randomValue(next, 4);
    const encoded = encode(value);
    assert.deepEqual(decode(encoded), value, `round ${round}`);
    const moved = Buffer.alloc(encoded.length + 8);
    moved.set(encoded, (round % 7) + 1);
    assert.deepEqual(decode(moved.subarray((round % 7) + 1, (round % 7) + 1 + encoded.length)), value);
  }
});

test('properties that are undefined are left out, and undefined itself arrives as null', () => {
  assert.deepEqual(decode(encode({ a: undefined, b: 1 })), { b: 1 });
  assert.equal(decode(encode(undefined)), null);
});

test('an encoded value has memory of its own', () => {
  const array = new Float64Array([1, 2, 3]);
  const encoded = encode([array, 'x']);
  array.fill(0);
  encode(['something else entirely', new Float64Array(3)]);
  assert.deepEqual(decode(encoded), [new Float64Array([1, 2, 3]), 'x']);
});

test('a decoded typed array may be changed without harm to the bytes it came from', () => {
  const encoded = encode(new Uint32Array([1, 2, 3]));
  const before = encoded.slice();
  (decode(encoded) as Uint32Array).fill(0);
  assert.deepEqual(encoded, before);
});

test('what would not come back as it was is refused when it is sent', () => {
  const cases: [unknown, RegExp][] = [
    [2 ** 53, /beyond 2\^53/],
    [-(2 ** 53), /beyond 2\^53/],
    [{ deep: [1e300] }, /beyond 2\^53/],
    [2n ** 64n, /beyond 64 bits/],
    [-(2n ** 63n) - 1n, /beyond 64 bits/],
    [() => {}, /a function cannot be sent/],
    [Symbol('s'), /a symbol cannot be sent/],
    [new Map(), /class Map cannot be sent/],
    [new Date(), /class Date cannot be sent/],
    [new Error('x'), /class Error cannot be sent/],
    [new Float32Array(2), /class Float32Array cannot be sent/],
    [new ArrayBuffer(2), /class ArrayBuffer cannot be sent/],
    [[1, undefined], /undefined in an array/],
    [new Array(3), /undefined in an array/],
    [JSON.parse('{"__proto__": 1}'), /__proto__/],
  ];
  for (const [value, message] of cases) {
    assert.throws(
      () => encode(value),
      (error) => error instanceof ProtocolError && message.test(error.message),
    );
  }
  const circle: unknown[] = [];
  circle.push(circle);
  assert.throws(() => encode(circle), ProtocolError);
});

test('depth and number of values are limited on both sides', () => {
  const nest = (depth: number) => {
    let value: unknown = 1;
    for (let level = 0; level < depth; level += 1) value = [value];
    return value;
  };
  assert.deepEqual(decode(encode(nest(maximumDepth))), nest(maximumDepth));
  assert.throws(() => encode(nest(maximumDepth + 1)), ProtocolError);
  const deep = new Uint8Array(maximumDepth + 2).fill(0x91);
  deep[maximumDepth + 1] = 0;
  assert.throws(() => decode(deep), /nested deeper/);
  const many = new Array(maximumValues).fill(0);
  assert.throws(() => encode(many), /more than \d+ values/);
  assert.equal((decode(encode(many.slice(1))) as unknown[]).length, maximumValues - 1);
});

test('bytes that are no value of ours are refused before memory is allocated for them', () => {
  const cases: [number[], RegExp][] = [
    [[], /ends before/],
    [[0xc1], /0xc1/],
    [[1, 2], /1 bytes after the end/],
    [[0xdd, 0xff, 0xff, 0xff, 0xff], /ends before/],
    [[0xdf, 0x7f, 0xff, 0xff, 0xff], /ends before/],
    [[0x92, 0xdd, 0, 0, 0, 2, 1, 1], /ends before/],
    [[0xc6, 0xff, 0xff, 0xff, 0xff, 0], /ends before/],
    [[0xdb, 0, 0, 0], /ends before/],
    [[0x81, 1, 1], /key that is not a string/],
    [[0xcf, 0, 0x20, 0, 0, 0, 0, 0, 0], /beyond 2\^53/],
    [[0xd3, 0xff, 0xe0, 0, 0, 0, 0, 0, 0], /beyond 2\^53/],
    [[0xd4, 99, 0], /unknown extension type 99/],
    [[0xd6, 4, 0, 0, 0, 0], /a Float64Array of 4 bytes/],
    [[0xd6, 6, 0, 0, 0, 0], /a bigint of 4 bytes/],
    [[0xd6, 0xff, 0, 0, 0, 0], /unknown extension type -1/],
    [[0x81, 0xa9, ...Buffer.from('__proto__'), 0x80], /__proto__/],
  ];
  for (const [bytes, message] of cases) {
    assert.throws(
      () => decode(new Uint8Array(bytes)),
      (error) => error instanceof ProtocolError && message.test(error.message),
      Buffer.from(bytes).toString('hex'),
    );
  }
});

test('every truncation of a valid message is refused, and random bytes do no harm', () => {
  const next = random(2);
  const encoded = encode([randomValue(next, 3), 'end', 2n ** 60n, new Float64Array(3), { a: [1.5] }]);
  for (let length = 0; length < Math.min(encoded.length, 3_000); length += 1) {
    assert.throws(() => decode(encoded.subarray(0, length)), ProtocolError);
  }
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Uint8Array.from({ length: 1 + Math.floor(next() * 40) }, () => Math.floor(next() * 256));
    try {
      decode(bytes);
    } catch (error) {
      assert.ok(error instanceof ProtocolError, `${Buffer.from(bytes).toString('hex')}: ${error}`);
    }
  }
});
