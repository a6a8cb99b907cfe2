import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { adoptedSegment, encodeIdentity } from '../../src/checkpoint/file-identity.ts';
import {
  contentDigest,
  layoutDigests,
  type Manifest,
  mergeManifests,
  tensorAt,
} from '../../src/checkpoint/manifest.ts';
import { selectRows } from '../../src/checkpoint/manifest-rows.ts';
import { CheckpointError } from '../../src/errors.ts';
import { checkProperty } from '../check-property.ts';
import { clusters, manifestOf, reordered, segmentOf } from '../plan/manifests.ts';
import { assertClear } from './safetensors-files.ts';

const row = (name: string, offset: number, bytes = 100, segment = 0) => ({ name, bytes, segment, offset });

function tensors(manifest: Manifest) {
  return new Map(
    manifest.names.map((name, index) => {
      const segment = manifest.segments[manifest.segmentOf[index]!]!;
      return [name, { ...tensorAt(manifest, index), segment, offset: manifest.offsets[index] }];
    }),
  );
}

const orders = fc.array(fc.nat(99), { maxLength: 40 });

test('cut into parts in any way and merged in any order, a manifest is the same, and loses nothing', () => {
  const cuts = fc.array(fc.nat(4), { minLength: 1, maxLength: 40 });
  const property = fc.property(clusters, cuts, orders, ({ manifest }, partOf, keys) => {
    fc.pre(manifest.names.length > 0);
    const rowsOf = Array.from({ length: Math.max(...partOf) + 1 }, () => [] as number[]);
    for (const index of manifest.names.keys()) rowsOf[partOf[index % partOf.length]!]!.push(index);
    const pieces = rowsOf.map((rows) => selectRows(manifest, Uint32Array.from(rows)));
    const merged = mergeManifests(pieces);
    assert.deepEqual(mergeManifests(reordered(pieces, keys)), merged);
    assert.deepEqual(mergeManifests([manifest]), merged);
    assert.deepEqual(tensors(merged), tensors(manifest));
  });
  checkProperty(property);
});

test('tensors come in the order of their segments and offsets, those without bytes before others', () => {
  const merged = mergeManifests([
    manifestOf([row('d', 100), row('c', 0)], [segmentOf(1, 'a')]),
    manifestOf([row('b', 100), row('a', 100, 0), row('z', 100, 0), row('y', 0)], [segmentOf(0, 'a')]),
  ]);
  assert.deepEqual(merged.names, ['y', 'a', 'z', 'b', 'c', 'd']);
  assert.deepEqual(
    merged.segments.map(({ rank }) => rank),
    [0, 1],
  );
  assert.deepEqual(merged.segmentOf, Uint32Array.of(0, 0, 0, 0, 1, 1));
});

test('a file that several ranks of a host adopted is one segment; of another host it is another', () => {
  const file = (rank: number, host: string) => ({ path: '/dev/shm/m', bytes: 1000, host, rank });
  const merged = mergeManifests([
    manifestOf([row('b', 100)], [file(1, 'a')]),
    manifestOf([row('a', 0)], [file(0, 'a')]),
    manifestOf([row('c', 0)], [file(2, 'b')]),
  ]);
  assert.deepEqual(merged.segments, [file(0, 'a'), file(2, 'b')]);
  assert.deepEqual(merged.names, ['a', 'b', 'c']);
});

test('a tensor that two ranks hold is refused, with both ranks', () => {
  const parts = [0, 1].map((rank) => manifestOf([row('w', 0)], [segmentOf(rank, 'a')]));
  assert.throws(
    () => mergeManifests(parts),
    (error) => assertClear(error, '"w"', 'rank 0', 'rank 1', '/dev/shm/test/a/0', '/dev/shm/test/a/1'),
  );
});

test('ranks that disagree about a segment, or hold different checkpoints, are refused', () => {
  const segment = segmentOf(0, 'a');
  const [a, b] = [
    manifestOf([row('v', 0)], [segment]),
    manifestOf([row('w', 100)], [{ ...segment, bytes: 7 }]),
  ];
  assert.throws(() => mergeManifests([a, b]), CheckpointError);
  const other = manifestOf([row('w', 0)], [segmentOf(1, 'a')], 'other');
  assert.throws(
    () => mergeManifests([a, other]),
    (error) => assertClear(error, '"test"', '"other"'),
  );
});

const base = [
  { ...row('a', 0), shape: [10, 10], digest: 1n },
  { ...row('b', 256), shape: [100], digest: 2n },
];

/** Manifests that differ from the base in one thing each. */
const variants: Record<string, Manifest> = {
  base: manifestOf(base, [segmentOf(0, 'a')]),
  name: manifestOf([base[0]!, { ...base[1]!, name: 'c' }], [segmentOf(0, 'a')]),
  boundary: manifestOf(
    [
      { ...base[0]!, name: 'ab' },
      { ...base[1]!, name: '' },
    ],
    [segmentOf(0, 'a')],
  ),
  dtype: manifestOf([{ ...base[0]!, dtype: 'I8' }, base[1]!], [segmentOf(0, 'a')]),
  shape: manifestOf([{ ...base[0]!, shape: [5, 20] }, base[1]!], [segmentOf(0, 'a')]),
  offset: manifestOf([base[0]!, { ...base[1]!, offset: 512 }], [segmentOf(0, 'a')]),
  host: manifestOf(base, [{ ...segmentOf(0, 'a'), host: 'b' }]),
  content: manifestOf([base[0]!, { ...base[1]!, digest: 3n }], [segmentOf(0, 'a')]),
  swapped: manifestOf(
    [
      { ...base[0]!, digest: 2n },
      { ...base[1]!, digest: 1n },
    ],
    [segmentOf(0, 'a')],
  ),
};

test('the layout digest tells apart all that a plan depends on, and not what tensors contain', () => {
  const digests = Object.entries(variants).map(
    ([name, manifest]) => [name, layoutDigests(manifest).layout] as const,
  );
  const same = digests
    .filter(([, digest]) => digest === layoutDigests(variants.base!).layout)
    .map(([name]) => name);
  assert.deepEqual(same, ['base', 'content', 'swapped']);
  assert.equal(new Set(digests.map(([, digest]) => digest)).size, digests.length - 2);
  assert.match(layoutDigests(variants.base!).layout, /^[0-9a-f]{64}$/);
});

test('the content digest tells apart what tensors are, and not where they lie', () => {
  const digests = Object.entries(variants).map(
    ([name, manifest]) => [name, contentDigest(manifest)] as const,
  );
  const same = digests.filter(([, digest]) => digest === contentDigest(variants.base!)).map(([name]) => name);
  assert.deepEqual(same, ['base', 'offset', 'host']);
  assert.equal(new Set(digests.map(([, digest]) => digest)).size, digests.length - 2);
});

test('the content digest does not depend on the order of rows', () => {
  const property = fc.property(clusters, orders, ({ manifest }, keys) => {
    const order = Uint32Array.from(reordered([...manifest.names.keys()], keys));
    assert.equal(contentDigest(selectRows(manifest, order)), contentDigest(manifest));
  });
  checkProperty(property, 50);
});

test('what lies in a file that its publisher has written again has the same lasting layout', () => {
  const written = (at: number, header = 'f00', directory = '/dev/shm/weightcast-1-2/session-3') => {
    const identity = encodeIdentity({
      device: '1',
      inode: '7',
      bytes: 1024,
      modified: String(at),
      changed: String(at),
      header,
    });
    return manifestOf(base, [{ ...segmentOf(0, 'a'), path: adoptedSegment(directory, identity) }]);
  };
  const [first, second] = [layoutDigests(written(1)), layoutDigests(written(2))];
  assert.notEqual(first.layout, second.layout, 'each has a content of its own');
  assert.equal(first.lasting, second.lasting);
  assert.notEqual(layoutDigests(written(1, 'ba2')).lasting, first.lasting, 'another header');
  const [one, other] = [1, 2].map((at) => layoutDigests(written(at, 'f00', '/dev/shm/model.safetensors')));
  assert.notEqual(
    one!.lasting,
    other!.lasting,
    'a file of a user, of which nobody says that it is written again',
  );
});
