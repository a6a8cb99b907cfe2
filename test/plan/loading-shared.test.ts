import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeManifest, encodeManifest, mergeManifests } from '../../src/checkpoint/manifest.ts';
import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { dealFiles, dealManifest, planLoading } from '../../src/plan/loading.ts';
import { manifestOf, segmentOf } from './random-manifests.ts';
import { forSeeds, type SeededRandom } from './seeded-random.ts';

interface IndexedFile {
  readonly tensors: readonly number[];
  readonly shared?: boolean;
}

/** Files of U8 tensors with so many bytes each; data begins at byte 100 of a file. */
function indexOf(files: readonly IndexedFile[]): CheckpointIndex {
  const rows = files.flatMap(({ tensors }, file) =>
    tensors.map((bytes, position) => ({
      name: `f${file}.t${position}`,
      bytes,
      file,
      offset: 100 + tensors.slice(0, position).reduce((a, b) => a + b, 0),
    })),
  );
  return {
    files: files.map(({ tensors, shared }, file) => ({
      path: `${shared ? '/dev/shm' : '/data'}/f${file}`,
      bytes: 100 + tensors.reduce((a, b) => a + b, 0),
      inSharedMemory: shared ?? false,
    })),
    names: rows.map(({ name }) => name),
    dtypes: new Uint8Array(rows.length).fill(4),
    shapeStarts: Uint32Array.from({ length: rows.length + 1 }, (_, row) => row),
    dimensions: Float64Array.from(rows, ({ bytes }) => bytes),
    bytes: Float64Array.from(rows, ({ bytes }) => bytes),
    fileOf: Uint32Array.from(rows, ({ file }) => file),
    offsets: Float64Array.from(rows, ({ offset }) => offset),
  };
}

function randomIndex(random: SeededRandom): CheckpointIndex {
  return indexOf(
    Array.from({ length: random.whole(1, 5) }, () => ({
      tensors: Array.from({ length: random.whole(0, 20) }, () =>
        random.chance(0.1) ? 0 : random.pick([random.whole(1, 5000), 256 * random.whole(1, 9)]),
      ),
      shared: random.chance(0.3),
    })),
  );
}

test('every tensor is loaded once, each rank a contiguous run of whole ones', () => {
  forSeeds(300, (random) => {
    const index = randomIndex(random);
    const shares = planLoading(index, [...Array(random.whole(1, 9)).keys()]);
    assert.deepEqual(
      shares.flatMap(({ rows }) => [...rows]),
      [...index.names.keys()],
    );
  });
});

test('shares are even by bytes: none more than the average and the largest tensor', () => {
  forSeeds(300, (random) => {
    const index = randomIndex(random);
    const ranks = random.whole(1, 9);
    const total = index.bytes.reduce((a, b) => a + b, 0);
    for (const { rows } of planLoading(index, [...Array(ranks).keys()])) {
      const load = rows.reduce((sum, row) => sum + index.bytes[row]!, 0);
      assert.ok(load <= total / ranks + Math.max(0, ...index.bytes));
    }
  });
});

test('reading all ranges puts each tensor where the share says, and nothing else is read', () => {
  forSeeds(60, (random) => {
    const index = randomIndex(random);
    for (const share of planLoading(index, [0, 1, 2])) {
      // Segment offset → (file, file offset), byte by byte.
      const read = new Map<number, string>();
      for (const { file, ranges } of share.reads) {
        for (let at = 0; at < ranges.length; at += 3) {
          for (let byte = 0; byte < ranges[at + 2]!; byte += 1) {
            read.set(ranges[at + 1]! + byte, `${file}:${ranges[at]! + byte}`);
          }
        }
      }
      let expected = 0;
      for (const [position, row] of share.rows.entries()) {
        if (share.placeOf[position] !== 0) continue;
        assert.equal(share.offsets[position]! % 256, 0);
        assert.ok(share.offsets[position]! + index.bytes[row]! <= share.segmentBytes);
        for (let byte = 0; byte < index.bytes[row]!; byte += 1) {
          const source = `${index.fileOf[row]}:${index.offsets[row]! + byte}`;
          assert.equal(read.get(share.offsets[position]! + byte), source);
        }
        expected += index.bytes[row]!;
      }
      assert.equal(read.size, expected);
    }
  });
});

test('tensors that follow each other in file and segment are read in one range', () => {
  const [share] = planLoading(indexOf([{ tensors: [512, 256, 100, 256] }]), [0]);
  assert.deepEqual(share!.reads, [{ file: 0, ranges: Float64Array.of(100, 0, 868, 968, 1024, 256) }]);
  assert.deepEqual(share!.offsets, Float64Array.of(0, 512, 768, 1024));
});

test('files in shared memory are adopted where they are: no segment, nothing to read', () => {
  const index = indexOf([
    { tensors: [10, 20], shared: true },
    { tensors: [30], shared: true },
  ]);
  const [share] = planLoading(index, [5]);
  assert.deepEqual(share, {
    rank: 5,
    rows: Uint32Array.of(0, 1, 2),
    placeOf: Uint32Array.of(1, 1, 2),
    offsets: Float64Array.of(100, 110, 100),
    segmentBytes: 0,
    adopted: [0, 1],
    reads: [],
  });
});

test('with fewer tensors than ranks some ranks get nothing, and are left out of the dealing', () => {
  const index = indexOf([{ tensors: [10, 10] }]);
  const ranks = [0, 1, 2, 3].map((rank) => ({ rank, host: 'a', directory: '/dev/shm/w' }));
  assert.equal(planLoading(index, [0, 1, 2, 3]).filter(({ rows }) => rows.length === 0).length, 2);
  const dealt = dealFiles({ checkpoint: 'c', index, segmentName: '', ranks });
  assert.deepEqual(
    dealt.map(({ manifest }) => manifest.names),
    [['f0.t0'], ['f0.t1']],
  );
  assert.deepEqual(
    dealt.map(({ rank, manifest }) => manifest.segments[0]!.path === `/dev/shm/w/${rank}`),
    [true, true],
  );
});

test('a tensor without bytes has a place too', () => {
  const [share] = planLoading(indexOf([{ tensors: [0] }]), [0]);
  assert.equal(share!.segmentBytes, 256);
  assert.deepEqual(share!.reads, []);
});

test('the shares of all ranks are manifests that travel and merge into one of the whole checkpoint', () => {
  forSeeds(200, (random) => {
    const index = randomIndex(random);
    if (index.names.length === 0) return;
    const ranks = Array.from({ length: random.whole(1, 6) }, (_, rank) => {
      return { rank, host: `h${rank % 2}`, directory: '/dev/shm/w' };
    });
    const shares = dealFiles({ checkpoint: 'c', index, segmentName: '', ranks });
    const merged = mergeManifests(shares.map(({ manifest }) => decodeManifest(encodeManifest(manifest))));
    const sizes = new Map(index.names.map((name, row) => [name, index.bytes[row]]));
    assert.deepEqual(new Map(merged.names.map((name, row) => [name, merged.bytes[row]])), sizes);
    for (const { rank, manifest, reads } of shares) {
      if (reads.length > 0) assert.equal(manifest.segments[0]!.path, `/dev/shm/w/${rank}`);
    }
  });
});

test('tensors in memory are dealt to the ranks of the host that holds them', () => {
  const rows = [0, 1, 0, 1, 0, 1].map((segment, row) => ({
    name: `t${row}`,
    bytes: 256,
    segment,
    offset: row * 256,
  }));
  const manifest = manifestOf(rows, [segmentOf(0, 'a'), segmentOf(1, 'b')]);
  const ranks = ['a', 'b', 'a'].map((host, rank) => ({ rank, host }));
  const shares = dealManifest(manifest, ranks);
  assert.deepEqual(
    shares.map(({ rank, manifest: part, reads }) => [rank, part.names, reads]),
    [
      [0, ['t0', 't2'], []],
      [2, ['t4'], []],
      [1, ['t1', 't3', 't5'], []],
    ],
  );
  assert.deepEqual(mergeManifests(shares.map((share) => share.manifest)).names, [
    't0',
    't2',
    't4',
    't1',
    't3',
    't5',
  ]);
  assert.throws(() => dealManifest(manifest, ranks.slice(0, 1)), /"t1".*"b"/);
});
