/** What is compared of parts that have arrived. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Arrivals } from '../../../src/actors/planner/arrivals.ts';
import { arrivalDigest, layoutDigests } from '../../../src/checkpoint/manifest.ts';
import { fusedUnits } from '../../../src/plan/fused-tensors.ts';
import { planParts } from '../../../src/plan/parts-plan.ts';
import { divided, sentHalves } from '../../plan/divided-models.ts';

const { lasting } = layoutDigests(divided);
const rows = divided.names.length;
const halfOf = (row: number, member: number) => BigInt((row + 1) * 1_000 + member);
const manifest = {
  ...divided,
  digests: BigUint64Array.from(divided.names, (_, row) => halfOf(row, 0) + halfOf(row, 1)),
};

/** Of an instance with two ranks from `first` on; in full, and in short. */
function reportsOf(first: number) {
  const units = fusedUnits(divided, []);
  const limits = { fraction: 1, bucketBytes: 2 ** 20 };
  const full = sentHalves.map((sent, member) => {
    const rank = { rank: first + member, host: 'a', freeBytes: 2 ** 30 };
    const { plan } = planParts({ manifest, layout: lasting, rank, sent, units, ...limits });
    const digests = BigUint64Array.from(plan.tensorOrder, (row) => halfOf(row, member));
    const arrived = { digests, part: new Uint16Array(rows), parts: new Uint16Array(rows).fill(1) };
    return { rank: first + member, plan, arrived };
  });
  const short = full.map((one) => ({ ...one, arrived: { digest: arrivalDigest(one.arrived.digests) } }));
  return { full, short };
}

const arrivals = () => new Arrivals(async () => {});
const ask = (where: Arrivals, reports: Parameters<Arrivals['verify']>[1]['reports'], layout = 'one') =>
  where.verify(manifest, { layout, instance: 'engine', reports });

test('of instances that hold the same in the same parts one says all, and the others a digest each', async () => {
  const where = arrivals();
  const [one, other] = [reportsOf(0), reportsOf(2)];
  assert.deepEqual(await ask(where, one.short), { lacking: [0, 1] });
  assert.deepEqual(await ask(where, one.full), { lacking: [] });
  assert.deepEqual(await ask(where, other.short), { lacking: [] });
});

test('a digest counts for nothing with other content, in another order of the ranks, or if it is another one', async () => {
  const where = arrivals();
  await ask(where, reportsOf(0).full);
  const { short } = reportsOf(2);
  assert.deepEqual(await ask(where, short, 'two'), { lacking: [2, 3] });
  const swapped = short.map((report, at) => ({ ...report, arrived: short[1 - at]!.arrived }));
  assert.deepEqual(await ask(where, swapped), { lacking: [2, 3] });
  const spoilt = [short[0]!, { ...short[1]!, arrived: { digest: 'f'.repeat(64) } }];
  assert.deepEqual(await ask(where, spoilt), { lacking: [2, 3] });
});

test('what was found wrong is not remembered as right', async () => {
  const where = arrivals();
  const { full, short } = reportsOf(0);
  full[1]!.arrived.digests[0]! += 1n;
  const wrong = short.map((one, at) => ({
    ...one,
    arrived: { digest: arrivalDigest(full[at]!.arrived.digests) },
  }));
  await assert.rejects(ask(where, full), {
    name: 'VerificationError',
    message: /engine does not hold .*sum of 2 parts/,
  });
  assert.deepEqual(await ask(where, wrong), { lacking: [0, 1] });
});
