import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { adoptedFile, adoptedSegment, segmentFile } from '../../src/checkpoint/file-identity.ts';
import {
  contentDigest,
  decodeManifest,
  encodeManifest,
  layoutDigests,
  ManifestMerger,
  mergeManifests,
} from '../../src/checkpoint/manifest.ts';
import { assignFiles, assignWritten, FileAssigner } from '../../src/plan/load-assignment.ts';
import { planLoading } from '../../src/plan/loading.ts';
import { findSet } from '../../src/plan/segment-sets.ts';
import { placeTensors, shareTensors } from '../../src/plan/tensor-shares.ts';
import { checkProperty } from '../check-property.ts';
import { indexOf, indices } from './indices.ts';
import { manifestOf, reordered, segmentOf } from './manifests.ts';

const fresh = {
  checkpoint: 'c',
  segmentName: 's',
  spare: [],
  identitiesOf: new Map(['a', 'h0', 'h1'].map((host) => [host, identitiesOn(host)])),
};

/** Of as many files as an index has at most. */
function identitiesOn(host: string): string[] {
  return Array.from({ length: 5 }, (_, file) => `${host}:${file}:0:0:0:header`);
}

/** One to six, on two hosts. */
const rankLists = fc
  .integer({ min: 1, max: 6 })
  .map((count) =>
    Array.from({ length: count }, (_, rank) => ({ rank, host: `h${rank % 2}`, directory: '/dev/shm/w' })),
  );
const filled = indices.filter(({ names }) => names.length > 0);

test('with fewer tensors than ranks some ranks get nothing, and are left out', () => {
  const index = indexOf([{ tensors: [10, 10] }]);
  const ranks = [0, 1, 2, 3].map((rank) => ({ rank, host: 'a', directory: '/dev/shm/w' }));
  assert.equal(planLoading(index, [0, 1, 2, 3]).filter(({ rows }) => rows.length === 0).length, 2);
  const { shares: dealt } = assignFiles({ ...fresh, index, ranks });
  assert.deepEqual(
    dealt.map(({ manifest }) => manifest.names),
    [['f0.t0'], ['f0.t1']],
  );
  assert.deepEqual(
    dealt.map(({ rank, manifest }) => manifest.segments[0]!.path === `/dev/shm/w/s${rank}`),
    [true, true],
  );
});

test('the shares of all ranks are manifests that travel and merge into one of the whole checkpoint', () => {
  const property = fc.property(filled, rankLists, (index, ranks) => {
    const { shares, segments, reused } = assignFiles({ ...fresh, index, ranks });
    assert.equal(reused, null);
    const merged = mergeManifests(shares.map(({ manifest }) => decodeManifest(encodeManifest(manifest))));
    const sizes = new Map(index.names.map((name, row) => [name, index.bytes[row]]));
    assert.deepEqual(new Map(merged.names.map((name, row) => [name, merged.bytes[row]])), sizes);
    for (const { rank, manifest, reads } of shares) {
      if (reads.length > 0) assert.equal(manifest.segments[0]!.path, `/dev/shm/w/s${rank}`);
      const identities = identitiesOn(`h${rank % 2}`);
      const found = new Map(index.files.map(({ path }, file) => [path, identities[file]]));
      for (const { path, identity } of reads) assert.equal(identity, found.get(path));
      for (const { path } of manifest.segments.filter((one) => adoptedFile(one.path) !== null)) {
        assert.equal(path, adoptedSegment(segmentFile(path), found.get(segmentFile(path))!));
      }
      const own = manifest.segments.filter(({ path }) => path.startsWith('/dev/shm/w/'));
      assert.deepEqual(
        segments.filter((segment) => segment.rank === rank),
        own,
      );
    }
  });
  checkProperty(property, 200);
});

test('a checkpoint goes into the first spare set that has its sizes, and has the layout of what was there before', () => {
  const property = fc.property(filled, rankLists, fc.array(fc.nat(9)), (index, ranks, keys) => {
    const before = assignFiles({ ...fresh, index, ranks });
    fc.pre(before.segments.length > 0);
    const other = before.segments.map((segment) => ({ ...segment, bytes: segment.bytes + 256 }));
    const spare = [other, before.segments.slice(1), reordered(before.segments, keys)];
    const after = assignFiles({ ...fresh, segmentName: 'new', index, ranks, spare });
    assert.equal(after.reused, 2);
    const layoutOf = ({ shares }: typeof after) =>
      layoutDigests(mergeManifests(shares.map(({ manifest }) => manifest))).layout;
    assert.equal(layoutOf(after), layoutOf(before));
    assert.deepEqual(
      after.shares.map(({ segment, reads }) => [segment, reads]),
      before.shares.map(({ segment, reads }) => [segment, reads]),
    );
    const none = assignFiles({ ...fresh, index, ranks, spare: spare.slice(0, 2) });
    assert.equal(none.reused, null);
  });
  checkProperty(property, 200);
});

test('a checkpoint whose files are all adopted takes no spare set', () => {
  const index = indexOf([{ tensors: [10, 10], shared: true }]);
  const ranks = [{ rank: 0, host: 'a', directory: '/dev/shm/w' }];
  assert.equal(planLoading(index, [0])[0]!.segmentBytes, 0);
  const { segments, reused } = assignFiles({ ...fresh, index, ranks, spare: [[]] });
  assert.deepEqual([segments, reused], [[], null]);
});

test('a set can replace another if hosts, ranks and sizes are the same', () => {
  const set = [0, 1].map((rank) => ({ path: `p${rank}`, host: 'a', rank, bytes: 10 + rank }));
  assert.equal(findSet([set], [...set].reverse()), 0);
  for (const [index, change] of [{ host: 'b' }, { rank: 5 }, { bytes: 12 }].entries()) {
    const changed = set.map((segment, at) => (at === 0 ? { ...segment, ...change } : segment));
    assert.equal(findSet([changed], set), null, `change ${index}`);
  }
  assert.equal(findSet([], set), null);
  assert.equal(findSet([set], [...set, set[0]!]), null);
});

test('tensors from memory are distributed in runs, even by bytes and aligned', () => {
  const bytes = Float64Array.of(1000, 0, 300, 256, 1, 900);
  const shares = shareTensors(bytes, [3, 7]);
  assert.deepEqual(shares, [
    { rank: 3, tensors: 3, bytes: 1024 + 256 + 512 },
    { rank: 7, tensors: 3, bytes: 256 + 256 + 1024 },
  ]);
  assert.deepEqual(placeTensors(bytes.subarray(0, 3)), {
    offsets: Float64Array.of(0, 1024, 1280),
    end: 1792,
  });
  const few = shareTensors(Float64Array.of(5), [0, 1, 2]);
  assert.deepEqual(
    few.map((share) => [share.tensors, share.bytes]),
    [[1, 256]],
  );
});

test('what was written for ranks is assigned to them, each its own segment', () => {
  const rows = [0, 1, 0, 1, 0, 1].map((segment, row) => ({
    name: `t${row}`,
    bytes: 256,
    segment,
    offset: row * 256,
  }));
  const manifest = manifestOf(rows, [segmentOf(0, 'a'), segmentOf(1, 'a')]);
  const shares = assignWritten(manifest, [{ rank: 1 }, { rank: 0 }, { rank: 2 }]);
  assert.deepEqual(
    shares.map(({ rank, manifest: part, segment, reads }) => [rank, part.names, segment, reads]),
    [
      [0, ['t0', 't2', 't4'], null, []],
      [1, ['t1', 't3', 't5'], null, []],
    ],
  );
  assert.deepEqual(
    shares.map(({ manifest: part }) => part.segments),
    manifest.segments.map((segment) => [segment]),
  );
  assert.equal(layoutDigests(mergeManifests(shares.map((share) => share.manifest))).layout.length, 64);
  assert.throws(() => assignWritten(manifest, [{ rank: 1 }]), {
    name: 'CheckpointError',
    message: /was written for rank 0, which is gone/,
  });
});

test('shares of the next version of a layout are those that would be assigned anew, in columns that they share', () => {
  const property = fc.property(filled, rankLists, (made, ranks) => {
    const version = (name: string) => ({
      ...made,
      files: made.files.map((file, at) => ({
        ...file,
        path: `/dev/shm/${name}-${at}`,
        inSharedMemory: true,
      })),
    });
    const identitiesOf = (name: string) =>
      new Map(
        ['h0', 'h1'].map((host) => [host, made.files.map((_, file) => `${name}:${file}:0:1:1:header`)]),
      );
    const order = (name: string) => {
      return { ...fresh, checkpoint: name, index: version(name), identitiesOf: identitiesOf(name), ranks };
    };
    const assigner = new FileAssigner();
    const merger = new ManifestMerger();
    const parts = (name: string) =>
      assigner.assign(order(name)).shares.map(({ manifest }) => {
        return { ...manifest, digests: BigUint64Array.from(manifest.names, (_, row) => BigInt(row + 7)) };
      });
    const [, second] = ['one', 'two'].map((name) => ({ parts: parts(name), name }));
    const first = merger.merge(parts('one'));
    const again = assignFiles(order('two')).shares.map(({ manifest }) => manifest);
    assert.deepEqual(
      second!.parts.map((part) => ({ ...part, digests: null })),
      again.map((part) => ({ ...part, digests: null })),
    );
    const merged = merger.merge(second!.parts);
    assert.deepEqual(merged, mergeManifests(second!.parts));
    assert.equal(merged.names, first.names, 'nothing was merged again');
    const fromBytes = decodeManifest(encodeManifest(merged));
    assert.deepEqual(layoutDigests(merged), layoutDigests(fromBytes));
    assert.equal(contentDigest(merged), contentDigest(fromBytes));
  });
  checkProperty(property, 100);
});
