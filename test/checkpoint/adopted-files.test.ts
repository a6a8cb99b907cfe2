import assert from 'node:assert/strict';
import {
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { adoptedSegment } from '../../src/checkpoint/file-identity.ts';
import { encodeManifest, type Manifest } from '../../src/checkpoint/manifest.ts';
import { readHeader, readIdentity } from '../../src/checkpoint/safetensors.ts';
import type { LoadOrder } from '../../src/checkpoint/segment-store.ts';
import { SharedSegments } from '../../src/checkpoint/shared-segments.ts';
import { ThreadPool } from '../../src/native-bridge/memory.ts';
import { CudaTest, fake, pinned } from '../native/cuda-harness.ts';
import { f32, temporaryDirectory, writeSafetensors } from './safetensors-files.ts';

const elements = 2_000;

/** Other threads of a pool, which call `interrupt` after each job. */
class Interrupted extends ThreadPool {
  interrupt: () => void = () => {};

  override load(...order: Parameters<ThreadPool['load']>): ReturnType<ThreadPool['load']> {
    return super.load(...order).finally(this.interrupt);
  }

  override digest(...order: Parameters<ThreadPool['digest']>): ReturnType<ThreadPool['digest']> {
    return super.digest(...order).finally(this.interrupt);
  }
}

function setUp(t: TestContext) {
  const cuda = new CudaTest(t);
  const directory = `/dev/shm/${cuda.host.namespace}`;
  mkdirSync(directory);
  const file = join(temporaryDirectory(t, '/dev/shm'), 'model.safetensors');
  write(file, 1);
  const pool = new Interrupted(2);
  const segments = new SharedSegments({ directory, host: 'h' }, { pool, readers: pool }, cuda.device());
  t.after(() => segments.close());
  return { segments, pool, file, directory };
}

/** One tensor, all bytes of which are `value`. */
function write(path: string, value: number): void {
  writeSafetensors(path, [f32('w', elements)]);
  const content = readFileSync(path);
  content.fill(value, content.length - 4 * elements);
  writeFileSync(path, content);
}

function replace(path: string, value: number): void {
  write(`${path}.tmp`, value);
  renameSync(`${path}.tmp`, path);
}

const nameOf = async (path: string) => adoptedSegment(path, await readIdentity(path));

async function manifestOf(segment: string, file: string): Promise<Manifest> {
  const { offsets, fileBytes } = (await readHeader(file)).columns;
  return {
    checkpoint: 'c',
    names: ['w'],
    dtypes: Uint8Array.of(4),
    shapeStarts: Uint32Array.of(0, 1),
    dimensions: Float64Array.of(4 * elements),
    bytes: Float64Array.of(4 * elements),
    segments: [{ path: segment, bytes: fileBytes, host: 'h', rank: 0 }],
    segmentOf: Uint32Array.of(0),
    offsets,
    digests: new BigUint64Array(1),
  };
}

async function adopting(segment: string, file: string): Promise<LoadOrder> {
  const manifest = encodeManifest(await manifestOf(segment, file));
  return { manifest, segment: null, exists: false, reads: [], digest: true };
}

test('two files of one path are two segments, each mapped and pinned for itself until it is forgotten', async (t) => {
  const { segments, file } = setUp(t);
  const { size } = statSync(file);
  const first = await nameOf(file);
  const [one] = await segments.load(await adopting(first, file)).digests;
  replace(file, 2);
  const second = await nameOf(file);
  const [other] = await segments.load(await adopting(second, file)).digests;
  assert.notEqual(one, other);
  assert.equal(fake.census().pinnedBytes, 2 * size);
  assert.equal(segments.attach(first).read(size - 1, 1)[0], 1);
  assert.equal(segments.attach(second).read(size - 1, 1)[0], 2);
  await segments.forget([first]);
  await pinned(size);
  assert.throws(() => segments.attach(first), {
    name: 'CheckpointError',
    message: `${file} on host h was replaced by another file since it was registered; register it again`,
  });
  assert.equal(segments.attach(second).read(size - 1, 1)[0], 2);
});

test('a file that is rewritten in place is pinned again under its new identity, and refused under its old one', async (t) => {
  const { segments, file } = setUp(t);
  const { size } = statSync(file);
  const first = await nameOf(file);
  const [one] = await segments.load(await adopting(first, file)).digests;
  write(file, 2);
  assert.equal(statSync(file).size, size);
  const isChanged = { name: 'CheckpointError', message: /on host h was changed since it was registered/ };
  assert.throws(() => segments.attach(first), isChanged);
  const manifest = await manifestOf(first, file);
  await assert.rejects(segments.confirm(manifest, new Set([first])), isChanged);
  const second = await nameOf(file);
  const [other] = await segments.load(await adopting(second, file)).digests;
  assert.notEqual(one, other);
  assert.equal(fake.census().pinnedBytes, 2 * size, 'the pages that the GPU reads are the new ones');
});

test('the file of a session stays pinned from one content to the next, and until it is removed', async (t) => {
  const { segments, directory } = setUp(t);
  const shared = directory.replace('/dev/shm/', '/dev/shm/weightcast-');
  mkdirSync(shared);
  t.after(() => rmSync(shared, { recursive: true, force: true }));
  const file = join(shared, 'session-1-0.safetensors');
  write(file, 1);
  const { size } = statSync(file);
  const first = await nameOf(file);
  const [one] = await segments.load(await adopting(first, file)).digests;
  await segments.forget([first]);
  assert.equal(fake.census().pinnedBytes, size);
  write(file, 2);
  assert.throws(() => segments.attach(first), { name: 'CheckpointError' }, 'its old content is gone');
  const second = await nameOf(file);
  const [other] = await segments.load(await adopting(second, file)).digests;
  assert.notEqual(one, other);
  assert.equal(segments.attach(second).read(size - 1, 1)[0], 2);
  assert.equal(fake.census().pinnedBytes, size, 'the same pages');
  unlinkSync(file);
  await segments.forget([second]);
  await pinned(0);
});

test('a truncated file, and one that is gone, are errors that name it, before anything touches its memory', async (t) => {
  const { segments, file } = setUp(t);
  const mapped = await nameOf(file);
  segments.attach(mapped);
  const { size } = statSync(file);
  truncateSync(file, 10);
  assert.throws(() => segments.attach(mapped), {
    name: 'CheckpointError',
    message: `${file} on host h has 10 bytes now and had ${size} when it was registered; register it again`,
  });
  write(file, 1);
  const gone = await nameOf(file);
  unlinkSync(file);
  assert.throws(() => segments.attach(gone), {
    name: 'CheckpointError',
    message: `${file} on host h does not exist`,
  });
});

test('a file that changes while its digests are computed is an error', async (t) => {
  const { segments, pool, file } = setUp(t);
  pool.interrupt = () => write(file, 2);
  await assert.rejects(segments.load(await adopting(await nameOf(file), file)).digests, {
    name: 'CheckpointError',
    message: /model\.safetensors on host h was changed since it was registered/,
  });
});

test('a file that changes before or while it is read is an error, and leaves no segment', async (t) => {
  const { segments, pool, file, directory } = setUp(t);
  const segment = `${directory}/segment`;
  const { offsets } = (await readHeader(file)).columns;
  const order = async (): Promise<LoadOrder> => {
    const manifest = await manifestOf(segment, file);
    const identity = await readIdentity(file);
    const ranges = Float64Array.of(offsets[0]!, 0, 4 * elements);
    return {
      manifest: encodeManifest({ ...manifest, offsets: Float64Array.of(0) }),
      segment,
      exists: false,
      reads: [{ path: file, identity, ranges }],
      digest: true,
    };
  };
  await segments.load(await order()).digests;
  await segments.forget([segment]);
  const [isChanged, isReplaced] = [/on host h was changed since/, /on host h was replaced by another file/];
  const early = await order();
  write(file, 2);
  await assert.rejects(segments.load(early).digests, { name: 'CheckpointError', message: isChanged });
  const replaced = await order();
  replace(file, 3);
  await assert.rejects(segments.load(replaced).digests, { name: 'CheckpointError', message: isReplaced });
  pool.interrupt = () => write(file, 4);
  await assert.rejects(segments.load(await order()).digests, { name: 'CheckpointError', message: isChanged });
  assert.throws(() => statSync(segment), { code: 'ENOENT' });
  await pinned(0);
});

test('examining a file says its identity as it is now, or why there is none', async (t) => {
  const { segments, file } = setUp(t);
  const known = await readIdentity(file);
  assert.deepEqual(await segments.examine([{ path: file, known }]), [{ identity: known, problem: null }]);
  replace(file, 2);
  const now = await readIdentity(file);
  assert.notEqual(now, known);
  truncateSync(`${file}`, 5);
  const [found] = await segments.examine([{ path: file, known: now }]);
  assert.equal(found!.identity, null);
  assert.match(found!.problem!, /model\.safetensors is truncated/);
  assert.deepEqual(await segments.examine([{ path: '/dev/shm/never', known }]), [
    { identity: null, problem: '/dev/shm/never does not exist' },
  ]);
});

test('the identity of a new file is taken when a further write is bound to leave another time stamp', async (t) => {
  const file = join(temporaryDirectory(t), 'model.safetensors');
  write(file, 0);
  await readIdentity(file);
  const age = Date.now() - statSync(file).ctimeMs;
  assert.ok(age >= 19, `the file was ${age} ms old`);
});
