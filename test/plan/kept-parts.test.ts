import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Cuts, cutAt, isKept, partBytes, WHOLE } from '../../src/checkpoint/cuts.ts';
import { DTYPES, dtypeIndex } from '../../src/checkpoint/dtype.ts';
import { layoutDigests, type Manifest, shapeOf } from '../../src/checkpoint/manifest.ts';
import { combineParts } from '../../src/checkpoint/parts.ts';
import { arrivedReports } from '../../src/plan/arrived-order.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { firstGap, inManifestRows, sentParts } from '../../src/plan/kept-parts.ts';
import { planAlike, planParts, shareOf, stillFits, whyNotParts } from '../../src/plan/parts-plan.ts';
import { bucketTensors, slotMemory } from '../../src/plan/plan.ts';
import { rectangleBytes, transfersOf } from '../../src/plan/transfers.ts';
import { checkProperty } from '../check-property.ts';
import { manifestOf, segmentOf } from './manifests.ts';

/** What one member keeps of one tensor: dimension, start, length. */
type Kept = readonly [dim: number, start: number, length: number];
const nothing: Kept = [0, 0, 0];
const whole: Kept = [WHOLE, 0, 1];

function cutsOf(kept: readonly Kept[]): Cuts {
  return {
    dims: Uint8Array.from(kept, ([dim]) => dim),
    starts: Uint32Array.from(kept, ([, start]) => start),
    lengths: Uint32Array.from(kept, ([, , length]) => length),
  };
}

interface Tensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** By member. */
  readonly kept: readonly Kept[];
}

const members = 4;
const one = <T>(values: fc.Arbitrary<T>) => fc.array(values, { minLength: members, maxLength: members });

/** Divided evenly along a dimension, each part by one member or more; or anything. */
const tensors: fc.Arbitrary<Tensor> = fc
  .record({
    dtype: fc.constantFrom('U8', 'BF16', 'F32', 'F64'),
    dim: fc.nat(2),
    sizes: fc.array(fc.constantFrom(1, 3, 8), { minLength: 3, maxLength: 3 }),
    partSize: fc.constantFrom(1, 2, 4),
    holders: one(fc.constantFrom(0, 1, 2, 3)),
    odd: fc.option(
      one(fc.oneof(fc.constant(nothing), fc.constant(whole), fc.tuple(fc.nat(3), fc.nat(9), fc.nat(9)))),
      {
        freq: 2,
        nil: null,
      },
    ),
  })
  .map(({ dtype, dim, sizes, partSize, holders, odd }) => {
    const shape = sizes.map((size, axis) => (axis === dim ? partSize * 4 : size));
    const even = holders.map((part): Kept => [dim, part * partSize, partSize]);
    return { dtype, shape, kept: odd ?? even };
  });

const bytesOf = ({ dtype, shape }: Tensor) =>
  (shape.reduce((product, size) => product * size, 1) * DTYPES[dtypeIndex(dtype)]!.bits) / 8;

/** In two segments of one host, with gaps. */
function laidOut(list: readonly Tensor[]): Manifest {
  const ends = [0, 0];
  const rows = list.map((tensor, row) => {
    const bytes = bytesOf(tensor);
    const segment = row % 2;
    const offset = ends[segment]! + (row % 3) * 8;
    ends[segment] = offset + bytes;
    return { name: `layers.${row}.weight`, bytes, segment, offset, dtype: tensor.dtype, shape: tensor.shape };
  });
  return manifestOf(rows, [segmentOf(0, 'a'), segmentOf(1, 'a')]);
}

const keptBy = (list: readonly Tensor[]) =>
  Array.from({ length: members }, (_, member) => cutsOf(list.map(({ kept }) => kept[member]!)));

function forModels(
  property: (manifest: Manifest, kept: readonly Cuts[], sent: readonly Cuts[]) => void,
): void {
  checkProperty(
    fc.property(fc.array(tensors, { minLength: 1, maxLength: 12 }), (list) => {
      const manifest = laidOut(list);
      const kept = keptBy(list);
      property(manifest, kept, sentParts(manifest, kept));
    }),
    300,
  );
}

/** Positions in the tensor of the bytes of a part, in the order in which they are packed; element by element. */
function packedPositions(manifest: Manifest, row: number, sent: Cuts): number[] {
  const cut = cutAt(sent, row);
  const shape = shapeOf(manifest, row);
  const size = DTYPES[manifest.dtypes[row]!]!.bits / 8;
  const positions: number[] = [];
  for (let element = 0; element < manifest.bytes[row]! / size; element += 1) {
    let rest = element;
    const indices = [...shape].reverse().map((dimension) => {
      const index = rest % dimension;
      rest = Math.floor(rest / dimension);
      return index;
    });
    const index = cut === null ? 0 : indices[shape.length - 1 - cut.dim]!;
    if (cut !== null && (index < cut.start || index >= cut.start + cut.length)) continue;
    for (let byte = 0; byte < size; byte += 1) positions.push(element * size + byte);
  }
  return positions;
}

test('of each tensor the parts that are sent are one whole, or several that are disjoint and make it up', () => {
  forModels((manifest, _, sent) => {
    for (const row of manifest.names.keys()) {
      const counts = new Map<string, number[]>();
      for (const cuts of sent) {
        if (!isKept(cuts, row)) continue;
        const positions = packedPositions(manifest, row, cuts);
        counts.set(JSON.stringify(cutAt(cuts, row)), positions);
      }
      const all = [...counts.values()].flat().sort((a, b) => a - b);
      assert.deepEqual(
        all,
        Array.from({ length: manifest.bytes[row]! }, (_, at) => at),
      );
    }
  });
});

test('a member that keeps a part is sent at least that, and one that keeps nothing gets nothing unless nobody does', () => {
  forModels((manifest, kept, sent) => {
    for (const row of manifest.names.keys()) {
      const isKeptBySome = kept.some((cuts) => isKept(cuts, row));
      for (const [member, cuts] of kept.entries()) {
        if (isKept(cuts, row)) {
          const got = sent[member]!.dims[row] === WHOLE ? null : cutAt(sent[member]!, row);
          assert.ok(got === null || JSON.stringify(got) === JSON.stringify(cutAt(cuts, row)));
        }
        assert.equal(isKept(sent[member]!, row), isKept(cuts, row) || (!isKeptBySome && member === 0));
      }
    }
  });
});

test('a tensor of which workers read some is read whole by them together, or what is left out is found', () => {
  const gapOf = (...kept: readonly Kept[]) => {
    const tensor = { dtype: 'F64', shape: [8, 4], kept };
    return firstGap(
      laidOut([tensor]),
      kept.map((one) => cutsOf([one])),
    );
  };
  const [upper, lower]: Kept[] = [
    [0, 0, 4],
    [0, 4, 4],
  ];
  for (const kept of [[whole], [upper!, whole], [nothing, nothing], [lower!, upper!, lower!, nothing]])
    assert.equal(gapOf(...kept), null);
  // Rows that overlap, as where heads of keys are on several workers; and columns of some beside rows of others.
  assert.equal(gapOf([0, 0, 5], [0, 3, 5]), null);
  assert.equal(gapOf(upper!, [1, 0, 2]), null);
  assert.deepEqual(gapOf(upper!), { row: 0, dim: 0, start: 4, length: 4 });
  assert.deepEqual(gapOf([0, 5, 3], [0, 0, 4]), { row: 0, dim: 0, start: 4, length: 1 });
  assert.deepEqual(gapOf([1, 1, 1], [1, 2, 1]), { row: 0, dim: 1, start: 0, length: 1 });
});

test('parts begin and end on words of eight bytes', () => {
  forModels((manifest, _, sent) => {
    for (const cuts of sent) {
      for (const row of manifest.names.keys()) {
        const cut = isKept(cuts, row) ? cutAt(cuts, row) : null;
        if (cut === null) continue;
        const { offset, rowBytes, pitch } = partBytes(manifest, row, cut)!;
        for (const bytes of [offset, rowBytes, pitch]) assert.equal(bytes % 8, 0);
      }
    }
  });
});

test('uploads bring the bytes of each part, packed, to its place in the slot, and hardly any others', () => {
  forModels((manifest, _, sent) => {
    const { lasting: layout } = layoutDigests(manifest);
    const memory = [0, 1].map((segment) =>
      Uint8Array.from({ length: 40_000 }, (_, at) => (at * 31 + segment * 7) % 251),
    );
    const rest = { layout, units: fusedUnits(manifest, []), fraction: 1, bucketBytes: 2 ** 10 };
    for (const [member, cuts] of sent.entries()) {
      const rank = { rank: member, host: 'a', freeBytes: 2 ** 30 };
      const { plan } = planParts({ manifest, rank, sent: cuts, ...rest });
      const planned = new Set<number>();
      for (const bucket of plan.owners.keys()) {
        const slot = new Uint8Array(plan.bucketBytes[bucket]!);
        const { rows, offsets } = bucketTensors(plan, bucket);
        let uploaded = 0;
        for (const { segment, rectangles } of transfersOf(plan, manifest, bucket, 0)) {
          copyRectangles(memory[segment]!, slot, rectangles);
          uploaded += rectangleBytes(rectangles);
        }
        for (const [at, row] of rows.entries()) {
          planned.add(row);
          const tensor = memory[manifest.segmentOf[row]!]!.subarray(manifest.offsets[row]!);
          const expected = packedPositions(manifest, row, cuts).map((position) => tensor[position]!);
          assert.deepEqual([...slot.subarray(offsets[at], offsets[at]! + expected.length)], expected);
          uploaded -= expected.length;
        }
        assert.ok(uploaded < 256 * rows.length);
      }
      const rows = [...manifest.names.keys()].filter((row) => isKept(cuts, row));
      assert.deepEqual(
        [...planned].sort((a, b) => a - b),
        rows,
      );
    }
  });
});

function copyRectangles(source: Uint8Array, destination: Uint8Array, rectangles: Float64Array): void {
  for (let at = 0; at < rectangles.length; at += 6) {
    const [from, to, bytes, rows, fromPitch, toPitch] = rectangles.subarray(
      at,
      at + 6,
    ) as unknown as number[];
    for (let row = 0; row < rows!; row += 1) {
      const start = from! + row * fromPitch!;
      destination.set(source.subarray(start, start + bytes!), to! + row * toPitch!);
    }
  }
}

/** Adds up over bytes, as digests of tensors do; another one for each byte and each place. */
const digestOf = (row: number, positions: readonly number[]) =>
  positions.reduce(
    (sum, position) => BigInt.asUintN(64, sum + BigInt((row + 1) * 1_000_003 + position) ** 5n),
    0n,
  );

test('reports of parts add up to the digests of the checkpoint, and no wrong digest goes unnoticed', () => {
  forModels((manifest, _, sent) => {
    const { lasting: layout } = layoutDigests(manifest);
    const all = (row: number) => Array.from({ length: manifest.bytes[row]! }, (_, at) => at);
    const registered = BigUint64Array.from(manifest.names, (_, row) => digestOf(row, all(row)));
    const rest = { layout, units: fusedUnits(manifest, []), fraction: 1, bucketBytes: 2 ** 10 };
    const reports = sent.map((cuts, member) => {
      const rank = { rank: member, host: 'a', freeBytes: 2 ** 30 };
      const { plan } = planParts({ manifest, rank, sent: cuts, ...rest });
      const digests = BigUint64Array.from(plan.tensorOrder, (row) =>
        digestOf(row, packedPositions(manifest, row, cuts)),
      );
      const columns = {
        part: new Uint16Array(digests.length),
        parts: new Uint16Array(digests.length).fill(1),
      };
      return { rank: member, plan, arrived: { digests, ...columns } };
    });
    assert.ok(combineParts(arrivedReports(reports, registered), registered).ok);
    const [spoilt] = reports.filter(({ plan }) => plan.tensorOrder.length > 0);
    const row = spoilt!.plan.tensorOrder[0]!;
    spoilt!.arrived.digests[0]! ^= 1n;
    const verdict = combineParts(arrivedReports(reports, registered), registered);
    assert.deepEqual([verdict.badCount, verdict.bad[0]?.row], [1, row]);
  });
});

test('what workers say in the order of an announcement is known by the rows of the manifest', () => {
  const announced = Uint32Array.of(2, 0, 1);
  const cuts = inManifestRows(cutsOf([[1, 5, 6], whole, nothing]), announced);
  assert.deepEqual(cutAt(cuts, 2), { dim: 1, start: 5, length: 6 });
  assert.equal(cutAt(cuts, 0), null);
  assert.equal(isKept(cuts, 1), false);
});

/** Four tensors of 64 KiB, each divided by two members. */
const halves = Array.from({ length: 4 }, (): Tensor => {
  return { dtype: 'BF16', shape: [256, 128], kept: [0, 1].map((part): Kept => [1, part * 64, 64]) };
});
const divided = laidOut(halves);
const sentHalves = sentParts(
  divided,
  [0, 1].map((member) => cutsOf(halves.map(({ kept }) => kept[member]!))),
);

function planHalf(freeBytes: number, bucketBytes = 2 ** 20) {
  const { lasting: layout } = layoutDigests(divided);
  const rank = { rank: 0, host: 'a', freeBytes };
  const rest = { layout, units: fusedUnits(divided, []), fraction: 1, bucketBytes };
  return planParts({ manifest: divided, rank, sent: sentHalves[0]!, ...rest });
}

test('slots and what the worker takes for whole tensors stay within the memory that an update may take', () => {
  const { plan, scratchBytes } = planHalf(2 ** 30);
  assert.equal(scratchBytes, 4 * 2 ** 16, 'all whole tensors of the only bucket');
  const least = slotMemory(plan) + scratchBytes;
  assert.equal(planHalf(least).plan.digest, plan.digest);
  assert.throws(() => planHalf(least - 1), {
    name: 'MemoryError',
    message: /update of rank 0 by parts needs/,
  });
});

test('a kept plan is kept while it fits', () => {
  const planned = planHalf(2 ** 30);
  const least = slotMemory(planned.plan) + planned.scratchBytes;
  const fits = (freeBytes: number) =>
    stillFits(planned, { rank: { rank: 0, host: 'a', freeBytes }, fraction: 1, bucketBytes: 2 ** 20 });
  assert.ok(fits(2 ** 30) && fits(2 ** 29));
  assert.ok(!fits(least - 1));
});

test('buckets that were small because memory was short are planned anew when there is much more', () => {
  const short = 5 * 2 ** 16;
  const planned = planHalf(short, 2 ** 16);
  assert.ok(planned.choice.bucketBytes < 2 ** 17);
  const fits = (freeBytes: number, bucketBytes: number) =>
    stillFits(planned, { rank: { rank: 0, host: 'a', freeBytes }, fraction: 1, bucketBytes });
  assert.ok(fits(short, 2 ** 17) && !fits(2 ** 30, 2 ** 17));
  assert.ok(fits(2 ** 30, 2 ** 16), 'they are as large as they were to be');
});

test('a rank that is sent as much of each tensor has the same plan, with its own parts', () => {
  forModels((manifest, _, sent) => {
    const { lasting: layout } = layoutDigests(manifest);
    const rest = { manifest, layout, units: fusedUnits(manifest, []), fraction: 1, bucketBytes: 2 ** 10 };
    const inputs = sent.map((cuts, member) => {
      return { ...rest, rank: { rank: member, host: 'a', freeBytes: 2 ** 30 }, sent: cuts };
    });
    const first = planParts(inputs[0]!);
    for (const input of inputs) {
      const alike = planAlike(first, sent[0]!, input);
      if (alike !== null) assert.deepEqual(alike, planParts(input));
      else assert.notDeepEqual([input.sent.dims, input.sent.lengths], [sent[0]!.dims, sent[0]!.lengths]);
    }
    assert.equal(
      planAlike(first, sent[0]!, { ...inputs[0]!, rank: { rank: 0, host: 'a', freeBytes: 0 } }),
      null,
    );
  });
});

test('why parts are not sent is said by the tensor, the rank and the host', () => {
  const shares = (sent: readonly Cuts[]) => sent.map((cuts) => shareOf(divided, cuts));
  const ranks = [
    { rank: 4, host: 'a' },
    { rank: 5, host: 'b' },
  ];
  assert.equal(whyNotParts(divided, [ranks[0]!], shares([sentHalves[0]!])), null);
  assert.match(
    whyNotParts(divided, ranks, shares(sentHalves))!,
    /"layers\.0\.weight".* rank 5 .* host a and not on b/,
  );
  const all = cutsOf(halves.map(() => whole));
  assert.match(whyNotParts(divided, ranks, shares([all, all]))!, /keeps all tensors whole/);
  const most = cutsOf([[1, 0, 64], whole, whole, whole]);
  assert.match(whyNotParts(divided, [ranks[0]!], shares([most]))!, /rank 4 needs 88 % of the bytes/);
  const lost = { ...divided, segments: divided.segments.map((segment) => ({ ...segment, lost: true })) };
  assert.match(whyNotParts(lost, [ranks[0]!], shares([sentHalves[0]!]))!, /layers\.0\.weight/);
});
