import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { digestPart, type TensorPart } from '../../src/native-bridge/digest-parts.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

const mask = 2n ** 64n - 1n;
const salt = 0x5745_4947_4854_4341n;

function splitmix64(index: bigint): bigint {
  let z = (index + 0x9e37_79b9_7f4a_7c15n) & mask;
  z = ((z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn) & mask;
  return z ^ (z >> 31n);
}

/** The definition, word by word. */
function digestOf(tensor: Uint8Array): bigint {
  const words = Math.ceil(tensor.length / 8);
  const padded = Buffer.alloc(words * 8);
  padded.set(tensor);
  let sum = 0n;
  for (let index = 0; index < words; index += 1) {
    sum += (padded.readBigUInt64LE(index * 8) ^ salt) * (splitmix64(BigInt(index)) | 1n);
  }
  return sum & mask;
}

function setUp(t: TestContext, content: Uint8Array, threads = 3) {
  const mapping = Mapping.create(`/dev/shm/${new TestHost(t).namespace}`, content.length);
  mapping.write(0, content);
  const pool = new ThreadPool(threads);
  t.after(() => pool.close());
  return { mapping, pool };
}

const sum = (digests: BigUint64Array) => digests.reduce((left, right) => (left + right) & mask, 0n);

test('the salt is the letters WEIGHTCA', () => {
  assert.equal(Buffer.from(salt.toString(16), 'hex').toString(), 'WEIGHTCA');
});

test('known tensors have known digests', async (t) => {
  // Computed once with Python integers, so that the definition itself cannot drift.
  const { mapping, pool } = setUp(
    t,
    Uint8Array.from({ length: 256 }, (_, index) => index),
  );
  const digests = await digestTensors(
    pool,
    mapping,
    Float64Array.of(0, 0, 1, 0),
    Float64Array.of(0, 8, 5, 256),
  );
  assert.deepEqual([...digests], [0n, 14318183912535381871n, 3852623804679707328n, 11106700762658863896n]);
});

test('tensors of every size and alignment have the digest of the definition', async (t) => {
  const content = randomBytes(4096);
  const { mapping, pool } = setUp(t, content);
  const sizes = [...Array(140).keys(), 1000, 1001, 2047, 4000];
  const offsets = Float64Array.from(sizes, (size) => (size * 31) % (4097 - size));
  const digests = await digestTensors(pool, mapping, offsets, Float64Array.from(sizes));
  for (const [index, size] of sizes.entries()) {
    const tensor = content.subarray(offsets[index]!, offsets[index]! + size);
    assert.equal(digests[index], digestOf(tensor), `${size} bytes at ${offsets[index]}`);
  }
});

for (const threads of [1, 2, 5]) {
  test(`a tensor spread over ${threads} threads has the digest of the definition`, async (t) => {
    const content = randomBytes(3_000_005);
    const { mapping, pool } = setUp(t, content, threads);
    const [digest] = await digestTensors(
      pool,
      mapping,
      Float64Array.of(3),
      Float64Array.of(content.length - 3),
    );
    assert.equal(digest, digestOf(content.subarray(3)));
  });
}

test('every single changed bit changes the digest', async (t) => {
  const content = randomBytes(45);
  const { mapping, pool } = setUp(t, content);
  const digest = async () =>
    (await digestTensors(pool, mapping, Float64Array.of(0), Float64Array.of(45)))[0]!;
  const unchanged = await digest();
  for (let bit = 0; bit < 45 * 8; bit += 1) {
    const byte = bit >> 3;
    mapping.write(byte, Uint8Array.of(content[byte]! ^ (1 << (bit & 7))));
    assert.notEqual(await digest(), unchanged, `bit ${bit}`);
    mapping.write(byte, content.subarray(byte, byte + 1));
  }
  assert.equal(await digest(), unchanged);
});

test('the digest depends on the order of the words', async (t) => {
  const words = Array.from({ length: 16 }, () => randomBytes(8));
  const swapped = [...words];
  [swapped[3], swapped[11]] = [words[11]!, words[3]!];
  const { mapping, pool } = setUp(t, Buffer.concat([...words, ...swapped]));
  const digests = await digestTensors(pool, mapping, Float64Array.of(0, 128), Float64Array.of(128, 128));
  assert.notEqual(digests[0], digests[1]);
});

test('tensors of zeros differ by their length', async (t) => {
  const { mapping, pool } = setUp(t, new Uint8Array(64));
  const sizes = Float64Array.of(8, 16, 24, 64);
  const digests = await digestTensors(pool, mapping, new Float64Array(4), sizes);
  assert.equal(new Set(digests).size, 4);
});

test('a tensor without bytes has digest 0, wherever it is said to lie', async (t) => {
  const { mapping, pool } = setUp(t, randomBytes(16));
  const digests = await digestTensors(pool, mapping, Float64Array.of(0, 16, 1000), new Float64Array(3));
  assert.deepEqual([...digests], [0n, 0n, 0n]);
});

test('the parts of a tensor cut at any byte sum up to its digest', async (t) => {
  const content = randomBytes(61);
  const { mapping, pool } = setUp(t, content);
  const whole = digestOf(content);
  const part = (from: number, to: number): TensorPart => ({
    offset: from,
    rowBytes: to - from,
    rows: 1,
    pitch: 0,
    tensorOffset: from,
    tensorPitch: 0,
    tensorBytes: 61,
  });
  for (let first = 0; first <= 61; first += 1) {
    for (const second of [first, Math.min(61, first + 3), 61]) {
      const parts = [part(0, first), part(first, second), part(second, 61)];
      assert.equal(sum(await pool.digest(mapping, Float64Array.from(parts.flatMap(digestPart)))), whole);
    }
  }
});

test('the columns of a matrix, each packed on its own, sum up to the digest of the matrix', async (t) => {
  const rows = 1237;
  const widths = [5, 16, 1, 30, 11];
  const rowBytes = widths.reduce((left, right) => left + right);
  const matrix = randomBytes(rows * rowBytes);
  // As ranks hold it: each one's columns packed, one after the other, with a gap behind each row.
  const gap = 3;
  const memory = Buffer.alloc(rows * (rowBytes + gap * widths.length), 0xee);
  const parts: number[] = [];
  let column = 0;
  let offset = 0;
  for (const width of widths) {
    const pitch = width + gap;
    for (let row = 0; row < rows; row += 1) {
      matrix.copy(memory, offset + row * pitch, row * rowBytes + column, row * rowBytes + column + width);
    }
    parts.push(
      ...digestPart({
        offset,
        rowBytes: width,
        rows,
        pitch,
        tensorOffset: column,
        tensorPitch: rowBytes,
        tensorBytes: matrix.length,
      }),
    );
    column += width;
    offset += rows * pitch;
  }
  const { mapping, pool } = setUp(t, memory);
  assert.equal(sum(await pool.digest(mapping, Float64Array.from(parts))), digestOf(matrix));
});

test('70,000 small tensors are digested in one job', async (t) => {
  const content = randomBytes(70_000 * 16);
  const { mapping, pool } = setUp(t, content);
  const offsets = Float64Array.from({ length: 70_000 }, (_, index) => index * 16);
  const digests = await digestTensors(pool, mapping, offsets, new Float64Array(70_000).fill(16));
  for (const index of [0, 1, 34_567, 69_999]) {
    assert.equal(digests[index], digestOf(content.subarray(index * 16, index * 16 + 16)));
  }
  assert.equal(new Set(digests).size, 70_000);
});

test('parts outside the mapping or outside their tensor are refused', async (t) => {
  const { mapping, pool } = setUp(t, new Uint8Array(100));
  const good = {
    offset: 0,
    rowBytes: 10,
    rows: 2,
    pitch: 50,
    tensorOffset: 0,
    tensorPitch: 10,
    tensorBytes: 20,
  };
  const digest = (part: TensorPart) => pool.digest(mapping, Float64Array.from(digestPart(part)));
  await digest(good);
  await assert.rejects(digest({ ...good, offset: 41 }), /the place in memory of rectangle 0 .* 100 bytes$/);
  await assert.rejects(
    digest({ ...good, tensorBytes: 19 }),
    /the place in the tensor of rectangle 0 .* 19 bytes$/,
  );
  await assert.rejects(digest({ ...good, tensorPitch: 9 }), /smaller than its rows/);
  await assert.rejects(pool.digest(mapping, new Float64Array(8)), /groups of 7 numbers/);
});
