import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { addon } from '../../src/native-bridge/addon.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

const mebibyte = 1 << 20;

interface Rectangle {
  readonly source: number;
  readonly destination: number;
  readonly rowBytes: number;
  readonly rows: number;
  readonly sourcePitch: number;
  readonly destinationPitch: number;
}

/** A pool, and two mappings of `bytes` bytes: one of random bytes, one of zeros. */
function setUp(t: TestContext, bytes: number, threads = 3) {
  const { namespace } = new TestHost(t);
  const pool = new ThreadPool(threads);
  const source = Mapping.create(`/dev/shm/${namespace}-source`, bytes);
  const destination = Mapping.create(`/dev/shm/${namespace}-destination`, bytes);
  const content = randomBytes(bytes);
  source.write(0, content);
  t.after(() => pool.close());
  return { pool, source, destination, content };
}

function flatten(rectangles: readonly Rectangle[]): Float64Array {
  return Float64Array.from(
    rectangles.flatMap((each) => [
      each.source,
      each.destination,
      each.rowBytes,
      each.rows,
      each.sourcePitch,
      each.destinationPitch,
    ]),
  );
}

/** What the rectangles make of zeros, row by row. */
function expected(content: Buffer, rectangles: readonly Rectangle[]): Buffer {
  const result = Buffer.alloc(content.length);
  for (const each of rectangles) {
    for (let row = 0; row < each.rows; row += 1) {
      const start = each.source + row * each.sourcePitch;
      content.copy(result, each.destination + row * each.destinationPitch, start, start + each.rowBytes);
    }
  }
  return result;
}

async function assertCopied(t: TestContext, bytes: number, rectangles: readonly Rectangle[], threads = 3) {
  const { pool, source, destination, content } = setUp(t, bytes, threads);
  const { startedAt, endedAt } = await pool.copy(source, destination, flatten(rectangles));
  assert(startedAt <= endedAt && endedAt <= addon.monotonicMilliseconds());
  assert(destination.read(0, bytes).equals(expected(content, rectangles)));
}

/** One run of bytes. */
const run = (source: number, destination: number, rowBytes: number): Rectangle => ({
  source,
  destination,
  rowBytes,
  rows: 1,
  sourcePitch: 0,
  destinationPitch: 0,
});

test('a run larger than many pieces arrives whole, whatever its alignment', async (t) => {
  await assertCopied(t, 24 * mebibyte, [run(3, 61, 24 * mebibyte - 77)]);
});

for (const threads of [1, 2, 7]) {
  test(`rectangles with pitches land where they belong, copied by ${threads} threads`, async (t) => {
    await assertCopied(
      t,
      3 * mebibyte,
      [
        { source: 5, destination: 0, rowBytes: 1000, rows: 900, sourcePitch: 1500, destinationPitch: 1000 },
        { source: 11, destination: mebibyte, rowBytes: 7, rows: 20_000, sourcePitch: 7, destinationPitch: 9 },
        {
          source: 0,
          destination: 2 * mebibyte,
          rowBytes: 64,
          rows: 16_000,
          sourcePitch: 64,
          destinationPitch: 64,
        },
      ],
      threads,
    );
  });
}

test('long rows are divided among the threads too', async (t) => {
  const rowBytes = 3 * mebibyte + 13;
  await assertCopied(t, 16 * mebibyte, [
    {
      source: 1,
      destination: 7,
      rowBytes,
      rows: 4,
      sourcePitch: 4 * mebibyte,
      destinationPitch: rowBytes + 1,
    },
  ]);
});

test('rows of every length and alignment around a cache line and a page arrive', async (t) => {
  // Enough bytes in each that the copy goes past the caches.
  const rectangles = [1023, 1024, 1025, 1087, 1151, 4095, 4160, 5000].map((rowBytes, index) => ({
    source: index * mebibyte + index,
    destination: index * mebibyte + 7 * index,
    rowBytes,
    rows: Math.ceil((260 * 1024) / rowBytes),
    sourcePitch: rowBytes + 3 * index,
    destinationPitch: rowBytes + index,
  }));
  await assertCopied(t, 8 * mebibyte, rectangles);
});

test('70,000 tiny rectangles between empty ones all arrive', async (t) => {
  const tiny = Array.from({ length: 70_000 }, (_, index) =>
    run(index * 16, (69_999 - index) * 16, index % 17),
  );
  await assertCopied(t, 70_000 * 16 + 16, tiny);
});

test('a rectangle of a million rows is copied', async (t) => {
  const rows = 1_000_000;
  await assertCopied(t, rows * 4, [
    { source: 0, destination: 1, rowBytes: 2, rows, sourcePitch: 3, destinationPitch: 4 },
  ]);
});

test('a job of no bytes still ends, in its turn', async (t) => {
  const { pool, source, destination } = setUp(t, 100);
  const none = { ...run(0, 0, 0), rows: 0 };
  await Promise.all([
    pool.copy(source, destination, new Float64Array(0)),
    pool.copy(source, destination, flatten([none, run(100, 100, 0), { ...run(0, 0, 5), rows: 0 }])),
    pool.copyIn(new Uint8Array(0), destination, 100),
  ]);
  assert(destination.read(0, 100).equals(Buffer.alloc(100)));
});

test('jobs on the same bytes run one after the other, in the order given', async (t) => {
  const { pool, source, destination } = setUp(t, 6 * mebibyte, 4);
  const whole = flatten([run(0, 0, 6 * mebibyte)]);
  const ended: number[] = [];
  const jobs = Array.from({ length: 40 }, (_, index) => {
    // Every other job writes what its successor reads.
    const job =
      index % 2 === 0
        ? pool.copyIn(Buffer.alloc(6 * mebibyte, index), source, 0)
        : pool.copy(source, destination, whole);
    return job.then((interval) => {
      ended.push(index);
      return interval;
    });
  });
  const intervals = await Promise.all(jobs);
  assert.deepEqual(ended, [...ended.keys()]);
  for (const [index, { startedAt }] of intervals.entries()) {
    assert(index === 0 || startedAt >= intervals[index - 1]!.endedAt);
  }
  assert(destination.read(0, 6 * mebibyte).equals(Buffer.alloc(6 * mebibyte, 38)));
});

test('of many jobs that write the same bytes the last one stays, and a job after it reads what it wrote', async (t) => {
  const { pool, source, destination } = setUp(t, 8 * mebibyte, 4);
  const fills = Array.from({ length: 20 }, (_, index) => Buffer.alloc(8 * mebibyte, index + 1));
  await Promise.all([
    ...fills.map((fill) => pool.copyIn(fill, source, 0)),
    pool.copy(source, destination, flatten([run(0, 0, 8 * mebibyte)])),
  ]);
  assert(destination.read(0, 8 * mebibyte).equals(fills.at(-1)!));
});

test('a buffer of JavaScript is copied in at its offset', async (t) => {
  const { pool, destination, content } = setUp(t, 5 * mebibyte);
  await pool.copyIn(content.subarray(10, 5 * mebibyte - 3), destination, 13);
  const result = destination.read(0, 5 * mebibyte);
  assert(result.subarray(13).equals(content.subarray(10, 5 * mebibyte - 3)));
  assert.deepEqual([...result.subarray(0, 13)], Array(13).fill(0));
});

test('memory that is closed while jobs use it stays until they are done', async (t) => {
  const { pool, source, destination, content } = setUp(t, 16 * mebibyte);
  const again = Mapping.open(destination.path, false);
  const copied = pool.copy(source, destination, flatten([run(0, 0, 16 * mebibyte)]));
  source.close();
  destination.close();
  source.unlink();
  await copied;
  assert(again.read(0, 16 * mebibyte).equals(content));
});

test('rectangles that reach outside their mappings are refused before a byte is copied', async (t) => {
  const { pool, source, destination } = setUp(t, 1000);
  const good = run(0, 0, 1000);
  const bad: [Rectangle, RegExp][] = [
    [run(1, 0, 1000), /the source of rectangle 1 \(offset 1, 1 rows of 1000 bytes/],
    [run(0, 1, 1000), /the destination of rectangle 1 .* lies outside 1000 bytes/],
    [{ ...good, rowBytes: 10, rows: 2, sourcePitch: 10, destinationPitch: 991 }, /the destination/],
    [
      { ...good, rowBytes: 10, rows: 2, sourcePitch: 9, destinationPitch: 10 },
      /the source .* smaller than its rows/,
    ],
    [{ ...good, rowBytes: 10, rows: 2, sourcePitch: 10, destinationPitch: 0 }, /smaller than its rows/],
    [{ ...good, rowBytes: 2 ** 40, rows: 2 ** 40, sourcePitch: 2 ** 40, destinationPitch: 0 }, /the source/],
    [{ ...good, rowBytes: 1, rows: 2 ** 52, sourcePitch: 2 ** 52, destinationPitch: 2 ** 52 }, /the source/],
    [run(Number.MAX_SAFE_INTEGER, 0, 1), /the source/],
  ];
  for (const [rectangle, message] of bad) {
    await assert.rejects(pool.copy(source, destination, flatten([good, rectangle])), {
      name: 'NativeError',
      message,
    });
  }
  await assert.rejects(
    pool.copy(source, destination, Float64Array.of(0, 0, 1)),
    /groups of 6 numbers, not 3/,
  );
  await assert.rejects(
    pool.copy(source, destination, Float64Array.of(0, 0, 1, 1.5, 0, 0)),
    /rectangles\[3\]/,
  );
  await assert.rejects(
    pool.copyIn(new Uint8Array(3), destination, 998),
    /offset 998 with 3 bytes lies outside/,
  );
  assert(destination.read(0, 1000).equals(Buffer.alloc(1000)));
});

test('closed mappings, mappings for reading only, and other objects are refused', async (t) => {
  const { pool, source, destination } = setUp(t, 1000);
  const all = flatten([run(0, 0, 1000)]);
  const readable = Mapping.open(destination.path, false);
  await assert.rejects(pool.copy(source, readable, all), /is mapped for reading only/);
  source.close();
  await assert.rejects(pool.copy(source, destination, all), /is closed/);
  const native = new addon.ThreadPool(1);
  for (const wrong of [undefined, null, {}, pool, native, Buffer.alloc(1000)]) {
    await assert.rejects(native.copy(wrong as never, destination.native, all), {
      code: 'ERR_INVALID_ARG_TYPE',
    });
  }
  await assert.rejects(native.copyIn('text' as never, destination.native, 0), {
    code: 'ERR_INVALID_ARG_TYPE',
  });
  native.close();
});

test('a closed pool ends what it was given and takes no more', async (t) => {
  const { pool, source, destination, content } = setUp(t, 16 * mebibyte, 2);
  const whole = flatten([run(0, 0, 16 * mebibyte)]);
  const given = [1, 2, 3].map(() => pool.copy(source, destination, whole));
  pool.close();
  pool.close();
  await assert.rejects(pool.copy(source, destination, whole), { message: 'the thread pool is closed' });
  await Promise.all(given);
  assert(destination.read(0, 16 * mebibyte).equals(content));
});

test('a pool has at least one thread and at most 256', () => {
  for (const threads of [0, 257, 1.5, -1])
    assert.throws(() => new ThreadPool(threads), { name: 'NativeError' });
  const pool = new ThreadPool(256);
  assert.equal(pool.threads, 256);
  pool.close();
});
