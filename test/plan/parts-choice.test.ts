import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Cuts, cutAt, isKept, partBytes } from '../../src/checkpoint/cuts.ts';
import type { Manifest } from '../../src/checkpoint/manifest.ts';
import { sentParts } from '../../src/plan/kept-parts.ts';
import {
  costsOf,
  noRates,
  shareOf,
  type WholeAlternative,
  wholeMargin,
  whyNotParts,
} from '../../src/plan/parts-choice.ts';
import { checkProperty } from '../check-property.ts';
import {
  cutsOf,
  divided,
  halves,
  type Kept,
  keptBy,
  laidOut,
  members,
  nothing,
  sentHalves,
  type Tensor,
  tensors,
  whole,
} from './divided-models.ts';

const unmeasured: WholeAlternative = { sharing: 2, rates: noRates };

test('why parts are not sent is said by the tensor, the rank and the host', () => {
  const shares = (sent: readonly Cuts[]) => sent.map((cuts) => shareOf(divided, cuts));
  const ranks = [
    { rank: 4, host: 'a' },
    { rank: 5, host: 'b' },
  ];
  const why = (manifest: Manifest, count: number, sent: readonly Cuts[], whole = unmeasured) =>
    whyNotParts(manifest, ranks.slice(0, count), shares(sent), whole);
  assert.equal(why(divided, 1, sentHalves), null);
  assert.match(why(divided, 2, sentHalves)!, /"layers\.0\.weight".* rank 5 .* host a and not on b/);
  const all = cutsOf(halves.map(() => whole));
  assert.match(why(divided, 2, [all, all])!, /keeps all tensors whole/);
  const most = cutsOf([[1, 0, 128], whole, whole, whole]);
  assert.match(
    why(divided, 1, [most])!,
    /^rank 4 needs 88 % of the bytes, in 4 tensors, which take it and its worker as long as 88 %; whole tensors, which 2 ranks .* as long as 60 %$/,
  );
  const lost = { ...divided, segments: divided.segments.map((segment) => ({ ...segment, lost: true })) };
  assert.match(why(lost, 1, sentHalves)!, /layers\.0\.weight/);
});

test('several instances of a host get whole tensors where ranks broadcast much faster than they upload, and parts where not', () => {
  const shares = sentHalves.map((sent) => shareOf(divided, sent));
  const members = [0, 1].map((rank) => ({ rank, host: 'a' }));
  const why = (sharing: number, broadcast: number) =>
    whyNotParts(divided, members, shares, { sharing, rates: { ...noRates, upload: 50e3, broadcast } });
  // Half of the bytes for each, or an eighth of them and all from the others.
  assert.match(why(8, 400e3)!, /whole tensors, which 8 ranks upload in turns/);
  assert.equal(why(8, 50e3), null);
  assert.equal(why(2, 400e3), null, 'the only instance of its host');
});

test('tiny parts, and parts in short rows, cost more than their bytes', () => {
  const rates = { upload: 50e6, broadcast: 500e6, tensor: null };
  const costOf = (list: readonly Tensor[]) => {
    const manifest = laidOut(list);
    const shares = sentParts(manifest, keptBy(list)).map((sent) => shareOf(manifest, sent));
    const { parts } = costsOf(manifest, shares, { sharing: 4, rates });
    return { cost: parts[0]!, bytes: shares[0]!.bytes };
  };
  const quarters = (shape: readonly number[], dim: number): Tensor => {
    const size = shape[dim]! / members;
    return {
      dtype: 'U8',
      shape,
      kept: Array.from({ length: members }, (_, at): Kept => [dim, at * size, size]),
    };
  };
  const tiny = costOf(Array.from({ length: 10 }, () => quarters([32, 8], 0)));
  assert.ok(tiny.cost > 1_000 * tiny.bytes, `${tiny.cost} for ${tiny.bytes}`);
  const long = costOf([quarters([2 ** 16, 2 ** 10], 1)]);
  const short = costOf([quarters([2 ** 21, 2 ** 5], 1)]);
  assert.equal(short.bytes, long.bytes);
  assert.ok(short.cost > 30 * long.cost, `${short.cost} and ${long.cost}`);
});

test('a worker that takes long for a tensor gets whole ones, unless it keeps few of them', () => {
  const rates = { upload: 50e6, broadcast: 50e6, tensor: 0.3 };
  const why = (list: readonly Tensor[]) => {
    const manifest = laidOut(list);
    const ranks = Array.from({ length: members }, (_, rank) => ({ rank, host: 'a' }));
    const shares = sentParts(manifest, keptBy(list)).map((sent) => shareOf(manifest, sent));
    return whyNotParts(manifest, ranks, shares, { sharing: members, rates });
  };
  const divide = (kept: (tensor: number, member: number) => Kept) =>
    Array.from({ length: 40 }, (_, tensor): Tensor => {
      const each = Array.from({ length: members }, (_, member) => kept(tensor, member));
      return { dtype: 'BF16', shape: [256, 128], kept: each };
    });
  assert.match(
    why(divide((_, member) => [0, member * 64, 64]))!,
    /rank 0 needs 25 % of the bytes, in 40 tensors/,
  );
  assert.equal(why(divide((tensor, member) => (tensor % members === member ? whole : nothing))), null);
});

test('whatever is chosen, the other one would not have loaded the busiest link or worker by a quarter less', () => {
  const rate = fc.option(fc.double({ min: 1, max: 1e9, noNaN: true }), { nil: null });
  checkProperty(
    fc.property(
      fc.array(tensors, { minLength: 1, maxLength: 12 }),
      fc.integer({ min: members, max: 64 }),
      fc.record({
        upload: rate,
        broadcast: rate,
        tensor: fc.option(fc.double({ min: 0, max: 10, noNaN: true }), { nil: null }),
      }),
      (list, sharing, rates) => {
        const manifest = laidOut(list);
        const shares = sentParts(manifest, keptBy(list)).map((sent) => shareOf(manifest, sent));
        const ranks = shares.map((_, rank) => ({ rank, host: 'a' }));
        const why = whyNotParts(manifest, ranks, shares, { sharing, rates });
        // Counted here from the uploads themselves, and not by the planner's sums.
        const perCopy = rates.upload === null ? 0 : 0.003 * rates.upload;
        const uploaded = shares.map(({ sent }) => {
          const rows = [...manifest.names.keys()].filter((row) => isKept(sent, row));
          return rows.reduce((sum, row) => {
            const cut = cutAt(sent, row);
            if (cut === null) return sum + manifest.bytes[row]! + perCopy;
            const part = partBytes(manifest, row, cut)!;
            return (
              sum + part.rows * (part.rows === 1 ? part.rowBytes : Math.max(part.rowBytes, 256)) + perCopy
            );
          }, 0);
        });
        const all = manifest.bytes.reduce((sum, size) => sum + size, 0);
        const relative =
          rates.upload === null || rates.broadcast === null ? 0.6 : rates.upload / rates.broadcast;
        const perTensor = rates.upload === null || rates.tensor === null ? 0 : rates.upload * rates.tensor;
        const taken = shares.map(
          ({ sent }) => [...manifest.names.keys()].filter((row) => isKept(sent, row)).length,
        );
        const parts = Math.max(...uploaded, ...taken.map((count) => count * perTensor * 1.6));
        const instead = Math.max(
          (all + manifest.bytes.length * perCopy) / sharing,
          all * relative,
          manifest.bytes.length * perTensor,
        );
        if (why === null) assert.ok(parts <= instead * wholeMargin * 1.001);
        else if (!/keeps all tensors whole/.test(why)) assert.ok(instead <= parts * 1.001);
      },
    ),
    300,
  );
});
