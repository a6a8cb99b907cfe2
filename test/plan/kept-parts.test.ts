import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Cuts, cutAt, isKept, partBytes, WHOLE } from '../../src/checkpoint/cuts.ts';
import { packCuts, unpackCuts } from '../../src/checkpoint/cuts-codec.ts';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { layoutDigests, type Manifest, shapeOf } from '../../src/checkpoint/manifest.ts';
import { combineParts } from '../../src/checkpoint/parts.ts';
import { arrivedReports } from '../../src/plan/arrived-order.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { firstGap, inManifestRows } from '../../src/plan/kept-parts.ts';
import { planAlike, planParts, stillFits } from '../../src/plan/parts-plan.ts';
import { bucketTensors, slotMemory } from '../../src/plan/plan.ts';
import { rectangleBytes, transfersOf } from '../../src/plan/transfers.ts';
import {
  cutsOf,
  divided,
  forModels,
  halves,
  type Kept,
  laidOut,
  nothing,
  sentHalves,
  whole,
} from './divided-models.ts';

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

test('what workers keep is packed for its way, whatever it is, and of a large model to a fiftieth', () => {
  forModels((_, kept) => {
    for (const cuts of kept) assert.deepEqual(unpackCuts(packCuts(cuts)), cuts);
  });
  const large = cutsOf(Array.from({ length: 100_000 }, (_, row) => halves[row % 4]!.kept[row % 2]!));
  assert.ok(packCuts(large).byteLength < (9 * 100_000) / 50);
  assert.throws(() => unpackCuts(packCuts(large).subarray(1)), { code: 'WEIGHTCAST_PROTOCOL' });
});
