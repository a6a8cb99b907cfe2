import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { alignUp } from '../../src/plan/alignment.ts';
import { planLoading } from '../../src/plan/loading.ts';
import { checkProperty } from '../check-property.ts';
import { indexOf, indices } from './indices.ts';

const rankCounts = fc.integer({ min: 1, max: 9 });

test('every tensor is loaded once', () => {
  checkProperty(
    fc.property(indices, rankCounts, (index, ranks) => {
      const shares = planLoading(index, [...Array(ranks).keys()]);
      assert.deepEqual(
        shares.flatMap(({ rows }) => [...rows]).sort((one, other) => one - other),
        [...index.names.keys()],
      );
    }),
    200,
  );
});

test('shares are even by bytes: none has much more than the average and the largest tensor', () => {
  checkProperty(
    fc.property(indices, rankCounts, (index, ranks) => {
      const sizes = Array.from(index.bytes, alignUp);
      const total = sizes.reduce((a, b) => a + b, 0);
      // Once for what is read, and once for what stays in files; stripes are a 32nd of a share.
      const most = (total / ranks) * (1 + 1 / 32) + 2 * Math.max(0, ...sizes);
      for (const { rows } of planLoading(index, [...Array(ranks).keys()])) {
        const load = rows.reduce((sum, row) => sum + sizes[row]!, 0);
        assert.ok(load <= most, `${load} of ${total} bytes`);
      }
    }),
    200,
  );
});

test('reading all ranges puts each tensor where the share says, and nothing else is read', () => {
  const property = fc.property(indices, (index) => {
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
  checkProperty(property, 60);
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

test('a tensor without bytes has a place too', () => {
  const [share] = planLoading(indexOf([{ tensors: [0] }]), [0]);
  assert.equal(share!.segmentBytes, 256);
  assert.deepEqual(share!.reads, []);
});
