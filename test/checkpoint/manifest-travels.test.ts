import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decode, encode } from '@msgpack/msgpack';
import fc from 'fast-check';
import { packDocument } from '../../src/checkpoint/document-codec.ts';
import { decodeManifest, encodeManifest } from '../../src/checkpoint/manifest.ts';
import { packPaths, unpackPaths } from '../../src/checkpoint/segment-paths.ts';
import { ProtocolError } from '../../src/errors.ts';
import { checkProperty } from '../check-property.ts';
import { clusters, manifestOf, segmentOf } from '../plan/manifests.ts';

const small = manifestOf(
  [
    {
      name: 'größe 🜁',
      bytes: 12,
      segment: 1,
      offset: 256,
      dtype: 'F32',
      shape: [3, 1],
      digest: 2n ** 64n - 1n,
    },
    { name: '', bytes: 4, segment: 0, offset: 2 ** 40, dtype: 'F32', shape: [], digest: 7n },
    { name: '__proto__', bytes: 0, segment: 0, offset: 0, dtype: 'BF16', shape: [0, 9] },
  ],
  [segmentOf(0, 'a', 2 ** 41), segmentOf(1, 'b', 4096)],
);

test('a manifest arrives as it was sent, whatever its names', () => {
  assert.deepEqual(decodeManifest(encodeManifest(small)), small);
});

test('any manifest arrives as it was sent', () => {
  checkProperty(
    fc.property(clusters, ({ manifest }) => {
      assert.deepEqual(decodeManifest(encodeManifest(manifest)), manifest);
    }),
  );
});

test('what arrives does not share memory with the message', () => {
  const message = encodeManifest(small);
  const manifest = decodeManifest(message);
  message.fill(0xff);
  assert.deepEqual(manifest, small);
});

test('bytes at an odd address are decoded all the same', () => {
  const message = encodeManifest(small);
  const shifted = new Uint8Array(message.length + 1);
  shifted.set(message, 1);
  assert.deepEqual(decodeManifest(shifted.subarray(1)), small);
});

const bytes = (column: ArrayBufferView) =>
  new Uint8Array(column.buffer, column.byteOffset, column.byteLength);
const broken: readonly (readonly [title: string, change: Record<string, unknown>, words: RegExp])[] = [
  ['of another form', { form: 2 }, /form/],
  ['with a missing column', { offsets: undefined }, /offsets/],
  ['with a column of another type', { dtypes: [1, 2, 3] }, /dtypes/],
  ['with a short column', { offsets: bytes(Float64Array.of(0, 0)) }, /length/],
  ['with a column that ends within a number', { offsets: new Uint8Array(23) }, /within a number/],
  ['with names that do not add up', { nameLengths: bytes(Uint32Array.of(1, 0, 9)) }, /names/],
  ['with a dtype out of range', { dtypes: Uint8Array.of(17, 99, 14) }, /dtype 99/],
  ['with shapes that run backwards', { shapeStarts: bytes(Uint32Array.of(0, 2, 1, 4)) }, /before it begins/],
  ['with shapes that do not begin at 0', { shapeStarts: bytes(Uint32Array.of(1, 2, 2, 4)) }, /shapes/],
  ['with shapes beyond the dimensions', { shapeStarts: bytes(Uint32Array.of(0, 2, 2, 5)) }, /shapes/],
  ['with a negative dimension', { dimensions: bytes(Float64Array.of(-3, -1, 0, 9)) }, /dimension of -3/],
  ['with a size that contradicts its shape', { bytes: bytes(Float64Array.of(13, 4, 0)) }, /takes 13 bytes/],
  ['with a size that is no number', { bytes: bytes(Float64Array.of(Number.NaN, 4, 0)) }, /takes NaN bytes/],
  ['with a segment out of range', { segmentOf: bytes(Uint32Array.of(1, 2, 0)) }, /segment 2 of 2/],
  ['with a tensor beyond its segment', { offsets: bytes(Float64Array.of(4090, 0, 0)) }, /within segment/],
  ['with a negative offset', { offsets: bytes(Float64Array.of(-256, 0, 0)) }, /within segment/],
  ['with a name twice', { names: 'aa', nameLengths: bytes(Uint32Array.of(1, 1, 0)) }, /twice/],
  ['with segments of another form', { segments: [['path', -1, 'a', 0]] }, /segments/],
];

for (const [title, change, words] of broken) {
  test(`a manifest ${title} is refused in one line`, () => {
    const message = encode({ ...(decode(encodeManifest(small)) as object), ...change });
    assert.throws(
      () => decodeManifest(message),
      (error) => error instanceof ProtocolError && words.test(error.message) && !error.message.includes('\n'),
    );
  });
}

test('bytes that are no MessagePack are refused, and so is a message cut short', () => {
  const message = encodeManifest(small);
  for (const wrong of [new Uint8Array(0), Uint8Array.of(0xc1), message.subarray(0, 90), encode('manifest')]) {
    assert.throws(() => decodeManifest(wrong), ProtocolError);
  }
});

test('the paths of segments arrive as they were sent, and anything else in their place is refused', () => {
  const paths = ['/models/größe 🜁.safetensors', '/dev/shm/"\n', ''];
  const segments = paths.map((path, rank) => ({ ...segmentOf(rank, 'a'), path }));
  assert.deepEqual(unpackPaths(packPaths({ segments })), paths);
  for (const other of ['[1]', '{}', '[', ''])
    assert.throws(() => unpackPaths(packDocument(Buffer.from(other))), ProtocolError);
});
