import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import { decode, encode } from '../../src/transport/codec.ts';
import { checkProperty } from '../check-property.ts';

/** Numbers where MessagePack changes from one form to the next. */
const boundaries = [
  0,
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
const integers = fc.oneof(
  fc.constantFrom(...boundaries, ...boundaries.slice(1).map((number) => -number)),
  fc.maxSafeInteger(),
);
const typedArrays = fc.oneof(
  fc.uint16Array(),
  fc.int32Array(),
  fc.uint32Array(),
  fc.float64Array(),
  fc.bigUint64Array(),
  // Views into the middle of other memory.
  fc.float64Array({ minLength: 2 }).map((array) => array.subarray(1)),
  fc.uint8Array({ minLength: 2 }).map((array) => array.subarray(1)),
);
const values = fc.letrec((tie) => ({
  value: fc.oneof({ depthSize: 'small', withCrossShrink: true }, tie('scalar'), tie('array'), tie('object')),
  scalar: fc.oneof(
    fc.constantFrom(null, true, false),
    integers,
    fc.double().filter((number) => !Object.is(number, -0)),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
    fc.string({ unit: 'grapheme' }),
    typedArrays,
  ),
  array: fc.array(tie('value'), { maxLength: 8 }),
  object: fc.dictionary(
    fc.string({ unit: 'grapheme' }).filter((key) => key !== '__proto__'),
    tie('value'),
    {
      maxKeys: 6,
      noNullPrototype: true,
    },
  ),
})).value;

test('every value arrives as it was, with its type, from memory that starts at any address', () => {
  checkProperty(
    fc.property(values, fc.integer({ min: 0, max: 7 }), (value, start) => {
      const encoded = encode(value);
      const moved = Buffer.alloc(start + encoded.length);
      moved.set(encoded, start);
      assert.deepEqual(decode(moved.subarray(start)), value);
    }),
    1_000,
  );
});

test('strings, bytes, arrays and objects of every form of length arrive as they were', () => {
  for (const length of [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536]) {
    const array = new Array(length).fill(1);
    const value = [
      'x'.repeat(length),
      new Uint8Array(length).fill(3),
      new Uint16Array(length).fill(7),
      array,
      Object.fromEntries(array.entries()),
    ];
    assert.deepEqual(decode(encode(value)), value);
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

test('what would not arrive as it was is refused when it is sent', () => {
  const cases: [unknown, RegExp][] = [
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

test('a value of 64 levels is encoded, one level more is refused', () => {
  const nest = (depth: number) => {
    let value: unknown = 1;
    for (let level = 1; level < depth; level += 1) value = [value];
    return value;
  };
  assert.deepEqual(decode(encode(nest(64))), nest(64));
  assert.throws(() => encode(nest(65)), ProtocolError);
});

test('bytes that encode did not make are refused', () => {
  const cases: [number[], RegExp][] = [
    [[], /cannot be decoded/],
    [[0xc1], /0xc1/],
    [[1, 2], /Extra 1 of 2 byte/],
    [[0x92, 0xdd, 0, 0, 0, 2, 1, 1], /cannot be decoded/],
    [[0xdf, 0x7f, 0xff, 0xff, 0xff], /cannot be decoded/],
    [[0xc6, 0xff, 0xff, 0xff, 0xff, 0], /Insufficient data/],
    [[0xdb, 0, 0, 0], /cannot be decoded/],
    [[0x81, 1, 1], /key that is a number/],
    [[0x81, 0xc0, 1], /key that is a object/],
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

test('an array that claims more elements than there are bytes is refused before memory is allocated', () => {
  const claims = [
    [0xdd, 0xff, 0xff, 0xff, 0xff],
    [0xdc, 0xff, 0xff, 1, 2],
    [0x91, 0xdd, 0, 0, 0, 9, 1, 2],
  ];
  for (const bytes of claims) assert.throws(() => decode(new Uint8Array(bytes)), /array length/);
  assert.deepEqual(decode(new Uint8Array([0xdc, 0, 2, 1, 2])), [1, 2]);
});

test('every truncation of a message is refused, and random bytes cause no other error', () => {
  checkProperty(
    fc.property(values, fc.nat(), (value, cut) => {
      const encoded = encode([value, 'end', 2n ** 60n, new Float64Array(3), { a: [1.5] }]);
      assert.throws(() => decode(encoded.subarray(0, cut % encoded.length)), ProtocolError);
    }),
    1_000,
  );
  checkProperty(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (bytes) => {
      try {
        decode(bytes);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
    3_000,
  );
});
