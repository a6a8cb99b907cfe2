import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CheckpointError } from '../../src/errors.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { type FabricRank, planReception, withLost } from '../../src/plan/reception.ts';
import { cutSlices } from '../../src/plan/slices.ts';
import { checkProperty } from '../check-property.ts';
import { clusters, manifestOf, segmentOf } from './manifests.ts';

const mebibyte = 2 ** 20;

/** Ranks of one host, a NIC each. */
const group = (host: string, ...ranks: number[]): FabricRank[] =>
  ranks.map((rank, place) => ({ rank, host, directory: '/shm', nics: [`mlx5_${place}`] }));

/** Two ranks of host a that hold four tensors of 12 MiB each. */
function heldByTwo() {
  const rows = [0, 1].flatMap((segment) =>
    [0, 1, 2, 3].map((index) => ({
      name: `s${segment}.${index}`,
      bytes: 12 * mebibyte,
      segment,
      offset: index * 12 * mebibyte,
    })),
  );
  return manifestOf(rows, [segmentOf(0, 'a'), segmentOf(1, 'a')]);
}

test('slices cover every tensor whole, each in one, and follow the placement', () => {
  const property = fc.property(clusters, ({ manifest }) => {
    const { slices, sliceOf } = cutSlices(manifest);
    for (const [row, number] of sliceOf.entries()) {
      const slice = slices[number]!;
      assert.equal(slice.segment, manifest.segmentOf[row]);
      assert.ok(slice.offset <= manifest.offsets[row]!);
      assert.ok(manifest.offsets[row]! + manifest.bytes[row]! <= slice.offset + slice.bytes);
    }
    for (const segment of manifest.segments.keys()) {
      const own = slices.filter((slice) => slice.segment === segment);
      for (const [index, slice] of own.slice(1).entries()) {
        assert.ok(own[index]!.offset + own[index]!.bytes <= slice.offset, 'slices do not overlap');
      }
    }
  });
  checkProperty(property);
});

test('a small checkpoint still has slices for several receivers', () => {
  const { slices } = cutSlices(heldByTwo());
  assert.deepEqual(
    slices.map(({ segment, offset, bytes }) => [segment, offset / mebibyte, bytes / mebibyte]),
    [
      [0, 0, 12],
      [0, 12, 12],
      [0, 24, 12],
      [0, 36, 12],
      [1, 0, 12],
      [1, 12, 12],
      [1, 24, 12],
      [1, 36, 12],
    ],
  );
});

test('a group that has everything receives nothing', () => {
  const manifest = heldByTwo();
  const order = {
    manifest,
    slices: cutSlices(manifest),
    units: fusedUnits(manifest, []),
    copies: [],
    mirrorName: 'm-',
  };
  assert.equal(planReception({ ...order, ranks: group('a', 4, 5), sources: group('a', 0, 1) }), null);
});

test('what a host has lost its ranks receive from those that have a copy', () => {
  const manifest = heldByTwo();
  const slices = cutSlices(manifest);
  const lost = manifest.segments.slice(0, 1);
  const order = {
    manifest: withLost(manifest, lost),
    slices,
    units: fusedUnits(manifest, []),
    ranks: group('a', 0, 1),
    sources: [...group('a', 0, 1), ...group('b', 4)],
    mirrorName: 'm-',
  };
  assert.throws(() => planReception({ ...order, copies: [] }), {
    name: 'CheckpointError',
    message: /on host "a", which lost its memory, and no other host has a copy/,
  });
  const missing = [...slices.slices.keys()].filter((slice) => slices.slices[slice]!.segment === 0);
  const copies = missing.map((slice) => ({ slice, path: `/copy-${slice}`, host: 'b', rank: 4 }));
  const { mirrors } = planReception({ ...order, copies })!;
  assert.deepEqual(
    mirrors.map(({ slice }) => slice).sort((one, other) => one - other),
    missing,
  );
});

test('a group without any of it receives all, through as many ranks as both sides have NICs', () => {
  const manifest = heldByTwo();
  const slices = cutSlices(manifest);
  const ranks = group('b', 4, 5, 6);
  const sources = group('a', 0, 1);
  const reception = planReception({
    manifest,
    slices,
    units: fusedUnits(manifest, []),
    ranks,
    sources,
    copies: [],
    mirrorName: 'm-',
  })!;
  assert.deepEqual(
    reception.mirrors.map(({ slice }) => slice).sort((a, b) => a - b),
    [...slices.slices.keys()],
  );
  const received = new Map<number, number>();
  for (const { receiver, bytes } of reception.mirrors) {
    received.set(receiver, (received.get(receiver) ?? 0) + bytes);
  }
  assert.deepEqual([...received].sort(), [
    [4, 48 * mebibyte],
    [5, 48 * mebibyte],
  ]);
  for (const [row, name] of manifest.names.entries()) {
    const { path, host } = reception.manifest.segments[reception.manifest.segmentOf[row]!]!;
    const slice = slices.sliceOf[row]!;
    assert.deepEqual([path, host], [`/shm/m-${slice}`, 'b'], name);
    assert.equal(reception.manifest.offsets[row], manifest.offsets[row]! - slices.slices[slice]!.offset);
  }
  const plan = planUpdate({
    manifest: reception.manifest,
    ranks: ranks.map(({ rank, host }) => ({ rank, host, freeBytes: 2 ** 30 })),
    fraction: 1,
    bucketBytes: 32 * mebibyte,
    arriving: new Set(reception.mirrors.map(({ path }) => path)),
  });
  const receiverOf = new Map(reception.mirrors.map(({ slice, receiver }) => [slice, receiver]));
  for (const [bucket, owner] of plan.owners.entries()) {
    for (const row of plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1])) {
      assert.equal(owner, receiverOf.get(slices.sliceOf[row]!), 'who receives a slice feeds it');
    }
  }
});

test('what lies on the own host stays, and what was received earlier is not received again', () => {
  const manifest = manifestOf(
    [
      { name: 'near', bytes: 20 * mebibyte, segment: 0, offset: 0 },
      { name: 'far', bytes: 20 * mebibyte, segment: 1, offset: 0 },
      { name: 'farther', bytes: 20 * mebibyte, segment: 1, offset: 20 * mebibyte },
    ],
    [segmentOf(0, 'a'), segmentOf(1, 'b')],
  );
  const slices = cutSlices(manifest);
  const order = {
    manifest,
    slices,
    units: fusedUnits(manifest, []),
    ranks: group('a', 0),
    sources: group('b', 1),
    mirrorName: 'm-',
  };
  const copies = [{ slice: 1, path: '/kept', host: 'a', rank: 0 }];
  const reception = planReception({ ...order, copies })!;
  assert.deepEqual(reception.mirrors, [{ slice: 2, receiver: 0, path: '/shm/m-2', bytes: 20 * mebibyte }]);
  const paths = [...reception.manifest.segmentOf].map(
    (segment) => reception.manifest.segments[segment]!.path,
  );
  assert.deepEqual(paths, [manifest.segments[0]!.path, '/kept', '/shm/m-2']);
  const elsewhere = [{ slice: 1, path: '/kept', host: 'c', rank: 7 }];
  assert.equal(
    planReception({ ...order, copies: elsewhere })!.mirrors.length,
    2,
    'a copy of another host is none',
  );
});

test('when the owner of a segment is gone another rank of its host is read from; when all are, a tensor is named', () => {
  const manifest = heldByTwo();
  const order = {
    manifest,
    slices: cutSlices(manifest),
    units: fusedUnits(manifest, []),
    ranks: group('b', 4),
    copies: [],
    mirrorName: 'm-',
  };
  assert.equal(planReception({ ...order, sources: group('a', 1) })!.mirrors.length, 8);
  assert.throws(
    () => planReception({ ...order, sources: group('c', 0, 1) }),
    (error) => {
      assert.ok(error instanceof CheckpointError);
      assert.match(error.message, /tensor "s0\.0" lies in .* on host "a", where no rank can be read from/);
      return true;
    },
  );
});
