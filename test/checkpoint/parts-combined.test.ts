import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { combineParts, type PartReport } from '../../src/checkpoint/parts.ts';
import { ProtocolError } from '../../src/errors.ts';
import { checkProperty } from '../check-property.ts';

/** What a worker holds of each tensor: `[digest, part, parts]`, or null for nothing. */
type Held = readonly [digest: bigint, part: number, parts: number] | null;

function report(rank: number, held: readonly Held[]): PartReport {
  return {
    rank,
    digests: BigUint64Array.from(held, (one) => one?.[0] ?? 0n),
    part: Uint16Array.from(held, (one) => one?.[1] ?? 0),
    parts: Uint16Array.from(held, (one) => one?.[2] ?? 0),
  };
}

const expected = BigUint64Array.of(100n, 2n ** 64n - 1n);

function assertBad(reports: PartReport[], row: number, reason: RegExp): void {
  const verdict = combineParts(reports, expected);
  assert.equal(verdict.ok, false);
  assert.equal(verdict.bad[0]!.row, row);
  assert.match(verdict.bad[0]!.reason, reason);
}

test('whole tensors on every worker are right when their digests are', () => {
  const held: Held[] = [
    [100n, 0, 1],
    [2n ** 64n - 1n, 0, 1],
  ];
  assert.deepEqual(combineParts([report(0, held), report(1, held)], expected), {
    ok: true,
    badCount: 0,
    bad: [],
  });
});

test('parts add up modulo 2^64, carries between the halves included', () => {
  const reports = [
    report(0, [
      [2n ** 64n - 5n, 0, 3],
      [2n ** 63n + 2n ** 32n - 1n, 1, 2],
    ]),
    report(1, [
      [2n ** 32n - 1n, 1, 3],
      [2n ** 63n - 2n ** 32n, 0, 2],
    ]),
    report(2, [[106n - 2n ** 32n + 2n ** 64n, 2, 3], null]),
  ];
  assert.deepEqual(combineParts(reports, expected).bad, []);
});

test('workers that hold the same part count once, if they agree', () => {
  const whole: Held = [2n ** 64n - 1n, 0, 1];
  const [first, second]: Held[] = [
    [60n, 0, 2],
    [40n, 1, 2],
  ];
  const reports = [first, second, first, second].map((held, rank) => report(rank, [held!, whole]));
  assert.equal(combineParts(reports, expected).ok, true);
  reports[3] = report(3, [[41n, 1, 2], whole]);
  assertBad(reports, 0, /differs between ranks 1 and 3.*part 1 of 2/);
});

test('a tensor that no worker holds is bad', () => {
  assertBad([report(0, [[100n, 0, 1], null])], 1, /held by no worker/);
  assertBad([], 0, /held by no worker/);
});

test('a missing part is named', () => {
  const whole: Held = [2n ** 64n - 1n, 0, 1];
  assertBad(
    [report(0, [[100n, 0, 3], whole]), report(1, [[0n, 2, 3], whole])],
    0,
    /2 of its 3 parts.*part 1 is missing/,
  );
});

test('another digest is bad, in whichever half of the word', () => {
  const last: Held = [2n ** 64n - 1n, 0, 1];
  assertBad([report(0, [[101n, 0, 1], last])], 0, /another digest/);
  assertBad([report(0, [[100n + 2n ** 32n, 0, 1], last])], 0, /another digest/);
  assertBad(
    [
      report(0, [
        [100n, 0, 1],
        [2n ** 64n - 2n, 0, 1],
      ]),
    ],
    1,
    /another digest/,
  );
});

test('each way of cutting a tensor must be complete and right for itself', () => {
  const last: Held = [2n ** 64n - 1n, 0, 1];
  const whole = report(0, [[100n, 0, 1], last]);
  const halves = (a: bigint, b: bigint) => [report(1, [[a, 0, 2], last]), report(2, [[b, 1, 2], last])];
  assert.equal(combineParts([whole, ...halves(30n, 70n)], expected).ok, true);
  assertBad([whole, ...halves(30n, 71n)], 0, /another digest.*sum of 2 parts/);
  assertBad([whole, halves(30n, 70n)[0]!], 0, /incomplete/);
  assertBad([report(0, [[99n, 0, 1], last]), ...halves(30n, 70n)], 0, /another digest/);
});

test('a part that one worker holds in several cuts does not stand in for a missing one', () => {
  const last: Held = [2n ** 64n - 1n, 0, 1];
  assertBad([report(0, [[40n, 0, 2], last]), report(1, [[60n, 1, 3], last])], 0, /incomplete/);
});

test('all bad tensors are counted, the first few named', () => {
  const many = new BigUint64Array(50).fill(5n);
  const verdict = combineParts(
    [
      report(
        0,
        Array.from(many, (_, row) => [row % 2 === 0 ? 5n : 6n, 0, 1] as const),
      ),
    ],
    many,
  );
  assert.equal(verdict.badCount, 25);
  assert.deepEqual(
    verdict.bad.map(({ row }) => row),
    [1, 3, 5, 7, 9, 11, 13, 15],
  );
});

test('a report of another length, or of a part beyond the last, is refused and names the rank', () => {
  assert.throws(
    () => combineParts([report(3, [[100n, 0, 1]])], expected),
    (error) => {
      return error instanceof ProtocolError && /rank 3/.test(error.message);
    },
  );
  assert.throws(() => combineParts([report(4, [[100n, 2, 2], null])], expected), ProtocolError);
});

const words = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

/** A tensor's digest, and the words of all parts but the last for each way in which it is cut. */
const cutTensors = fc.record({
  digest: words,
  cuts: fc.array(fc.array(words, { maxLength: 3 }), { minLength: 1, maxLength: 2 }),
});

/** Each tensor is cut in one or two ways and its parts are dealt to workers, so that all is right. */
function rightReports(tensors: readonly { digest: bigint; cuts: readonly (readonly bigint[])[] }[]) {
  const columns = tensors.map(({ digest, cuts }) => {
    // Two cuts into as many parts would be one cut that contradicts itself.
    const byCount = new Map(cuts.map((cut) => [cut.length, heldOf(digest, cut)]));
    return [...byCount.values()].flat();
  });
  const workers = Math.max(...columns.map((column) => column.length));
  return Array.from({ length: workers }, (_, worker) =>
    report(
      worker,
      columns.map((column) => column[worker] ?? null),
    ),
  );
}

function heldOf(digest: bigint, cut: readonly bigint[]): Held[] {
  const last = BigInt.asUintN(
    64,
    cut.reduce((rest, word) => rest - word, digest),
  );
  return [...cut, last].map((word, part) => [word, part, cut.length + 1]);
}

test('right reports pass, and a change of any single word is found', () => {
  const changes = fc.record({ tensor: fc.nat(), holder: fc.nat(), bit: fc.bigInt({ min: 0n, max: 63n }) });
  const property = fc.property(
    fc.array(cutTensors, { minLength: 1, maxLength: 6 }),
    changes,
    (tensors, change) => {
      const reports = rightReports(tensors);
      const digests = BigUint64Array.from(tensors, ({ digest }) => digest);
      assert.deepEqual(combineParts(reports, digests).bad, []);
      const row = change.tensor % digests.length;
      const holders = reports.filter(({ parts }) => parts[row] !== 0);
      const holder = holders[change.holder % holders.length]!;
      holder.digests[row] = holder.digests[row]! ^ (1n << change.bit);
      const { badCount, bad } = combineParts(reports, digests);
      assert.deepEqual([badCount, bad[0]?.row], [1, row]);
    },
  );
  checkProperty(property, 300);
});
