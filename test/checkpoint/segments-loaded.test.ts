import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { type TestContext, test } from 'node:test';
import { encodeIdentity, identityOf } from '../../src/checkpoint/file-identity.ts';
import { stepBytes } from '../../src/checkpoint/file-loader.ts';
import { encodeManifest, type Manifest } from '../../src/checkpoint/manifest.ts';
import type { LoadOrder } from '../../src/checkpoint/segment-store.ts';
import { SharedSegments } from '../../src/checkpoint/shared-segments.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { CudaTest, fake, pinned } from '../native/cuda-harness.ts';

const bytes = 3_000_000;

/** A store on a GPU that is none, a file to load, and the order to load it into a segment. */
function setUp(t: TestContext) {
  const cuda = new CudaTest(t);
  const directory = `/dev/shm/${cuda.host.namespace}`;
  mkdirSync(directory);
  const segment = `${directory}/segment`;
  const source = `${directory}-source`;
  const content = randomBytes(bytes);
  writeFileSync(source, content);
  const store = () => {
    const pools = { pool: new ThreadPool(2), readers: new ThreadPool(4) };
    const made = new SharedSegments({ directory, host: 'h' }, pools, cuda.device());
    t.after(() => made.close());
    return made;
  };
  const order = (exists: boolean): LoadOrder => ({
    manifest: encodeManifest(manifestOf(segment)),
    segment,
    exists,
    reads: [{ path: source, identity: identityNow(source), ranges: Float64Array.of(0, 0, bytes) }],
    digest: true,
  });
  return { store, order, segment, source, content };
}

/** Two tensors that make up a segment. */
function manifestOf(path: string): Manifest {
  return {
    checkpoint: 'c',
    names: ['one', 'other'],
    dtypes: Uint8Array.of(4, 4),
    shapeStarts: Uint32Array.of(0, 1, 2),
    dimensions: Float64Array.of(bytes - 1000, 1000),
    bytes: Float64Array.of(bytes - 1000, 1000),
    segments: [{ path, bytes, host: 'h', rank: 0 }],
    segmentOf: new Uint32Array(2),
    offsets: Float64Array.of(0, bytes - 1000),
    digests: BigUint64Array.of(11n, 12n),
  };
}

async function digestsOf(path: string): Promise<BigUint64Array> {
  const pool = new ThreadPool(1);
  const { offsets, bytes: sizes } = manifestOf(path);
  const digests = await digestTensors(pool, Mapping.open(path, false), offsets, sizes);
  pool.close();
  return digests;
}

const identityNow = (path: string) => encodeIdentity(identityOf(statSync(path, { bigint: true }), ''));
const inode = (path: string) => statSync(path).ino;
const isMapped = (path: string) => readFileSync('/proc/self/maps', 'utf8').includes(path);

test('a segment that is there is filled again: the same file, still pinned, nothing registered anew', async (t) => {
  const { store, order, segment, source, content } = setUp(t);
  const segments = store();
  const job = segments.load(order(false));
  const first = await job.digests;
  assert.equal(job.totalBytes, 2 * bytes, 'made, and read');
  assert.equal(job.doneBytes(), job.totalBytes);
  assert(readFileSync(segment).equals(content));
  assert.equal(fake.census().pinnedBytes, bytes);

  const [before, registrations] = [inode(segment), fake.calls('cuMemHostRegister_v2')];
  const next = randomBytes(bytes);
  writeFileSync(source, next);
  const again = segments.load(order(true));
  const second = await again.digests;
  assert.equal(again.totalBytes, bytes);
  assert.equal(again.doneBytes(), again.totalBytes);
  assert(readFileSync(segment).equals(next));
  assert.notDeepEqual(second, first);
  assert.deepEqual(second, await digestsOf(segment));
  assert.equal(inode(segment), before);
  assert.equal(fake.calls('cuMemHostRegister_v2'), registrations);
  assert.equal(fake.census().pinnedBytes, bytes);
});

test('another life of a rank fills the segment that the last one made', async (t) => {
  const { store, order, segment, source } = setUp(t);
  const last = store();
  await last.load(order(false)).digests;
  last.close();
  await pinned(0);
  const segments = store();
  await segments.ready([segment]);
  const before = inode(segment);
  const next = randomBytes(bytes);
  writeFileSync(source, next);
  await segments.load(order(true)).digests;
  assert(readFileSync(segment).equals(next));
  assert.equal(inode(segment), before);
  await pinned(bytes);
});

test('what was written before is made ready, and keeps its digests', async (t) => {
  const { store, order, segment } = setUp(t);
  Mapping.create(segment, bytes);
  const job = store().load({ ...order(true), segment: null, reads: [], digest: false });
  assert.equal(job.totalBytes, 0);
  assert.deepEqual(await job.digests, BigUint64Array.of(11n, 12n));
  assert.equal(fake.census().pinnedBytes, bytes);
});

test('once a segment is said to be forgotten its file is gone, unmapped and unpinned', async (t) => {
  const { store, order, segment, source } = setUp(t);
  const segments = store();
  await segments.load(order(false)).digests;
  await segments.ready([source]);
  await segments.forget([segment, source, `${segment}-never-made`]);
  assert.equal(fake.census().pinnedBytes, 0);
  assert(!isMapped(segment));
  assert(!existsSync(segment));
  assert(existsSync(source), 'what others made stays');
});

test('a segment that is forgotten while it is filled is waited for, and leaves nothing', async (t) => {
  const { store, order, segment } = setUp(t);
  const segments = store();
  const job = segments.load(order(false));
  const refused = assert.rejects(job.digests);
  await segments.forget([segment]);
  assert(!isMapped(segment));
  assert(!existsSync(segment));
  await refused;
  await pinned(0);
});

test('a segment is filled while its last pages are still to come, and no further when it is forgotten', async (t) => {
  const { store, order, segment, source } = setUp(t);
  const [first, other] = [stepBytes + 20_000_001, 3_000];
  // Mostly a hole, with something around the end of the first step.
  writeFileSync(source, '');
  truncateSync(source, first + other);
  const file = openSync(source, 'r+');
  for (const at of [0, stepBytes - 500, first - 500]) writeSync(file, randomBytes(1_000), 0, 1_000, at);
  closeSync(file);
  const sizes = Float64Array.of(first, other);
  const offsets = Float64Array.of(0, first);
  const manifest = {
    ...manifestOf(segment),
    bytes: sizes,
    offsets,
    dimensions: sizes,
    segments: [{ path: segment, bytes: first + other, host: 'h', rank: 0 }],
  };
  const large = (): LoadOrder => ({
    ...order(false),
    manifest: encodeManifest(manifest),
    reads: [{ path: source, identity: identityNow(source), ranges: Float64Array.of(0, 0, first + other) }],
  });
  const segments = store();
  const job = segments.load(large());
  const pool = new ThreadPool(2);
  t.after(() => pool.close());
  assert.deepEqual(await job.digests, await digestTensors(pool, Mapping.open(source, false), offsets, sizes));
  assert.equal(job.doneBytes(), job.totalBytes);
  await segments.forget([segment]);
  const forgotten = segments.load(large());
  const refused = assert.rejects(forgotten.digests, { name: 'AbortedError' });
  await segments.forget([segment]);
  await refused;
  assert(!existsSync(segment) && !isMapped(segment));
  await pinned(0);
});

test('a load that fails takes away what it made, and leaves what was there', async (t) => {
  const { store, order, segment, source } = setUp(t);
  const segments = store();
  writeFileSync(source, randomBytes(bytes - 1));
  await assert.rejects(segments.load(order(false)).digests, /has 2999999 bytes/);
  assert(!existsSync(segment));
  await pinned(0);

  writeFileSync(source, randomBytes(bytes));
  await segments.load(order(false)).digests;
  writeFileSync(source, randomBytes(bytes - 1));
  await assert.rejects(segments.load(order(true)).digests, /has 2999999 bytes/);
  assert(existsSync(segment));
  assert.equal(fake.census().pinnedBytes, bytes);
});

test('a segment of another size, or none, is no segment to fill', async (t) => {
  const { store, order, segment } = setUp(t);
  await assert.rejects(store().load(order(true)).digests, /No such file or directory/);
  Mapping.create(segment, 10);
  await assert.rejects(store().load(order(true)).digests, {
    message: `${segment} has 10 bytes, not ${bytes}`,
  });
});
