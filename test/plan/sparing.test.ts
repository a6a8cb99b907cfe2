import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { arrivedAnswer } from '../../src/actors/rank/arrived.ts';
import { isKept } from '../../src/checkpoint/cuts.ts';
import { arrivalDigest } from '../../src/checkpoint/manifest.ts';
import { combineParts } from '../../src/checkpoint/parts.ts';
import { arrivedReports } from '../../src/plan/arrived-order.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { sentParts } from '../../src/plan/kept-parts.ts';
import { announcedRows, arrivalOf, unclaimedRows } from '../../src/plan/sparing.ts';
import { checkProperty } from '../check-property.ts';
import { keptBy, laidOut, tensors } from './divided-models.ts';

test('whatever workers keep, each tensor is announced to one of them at least, and what all got as it is registered proves it', () => {
  checkProperty(
    fc.property(fc.array(tensors, { minLength: 1, maxLength: 12 }), fc.nat(), (list, seed) => {
      const bare = laidOut(list);
      const rows = bare.names.length;
      const digests = BigUint64Array.from(bare.names, (_, row) => BigInt(row + 1) * 0x9e37_79b9n);
      const manifest = { ...bare, digests };
      const kept = keptBy(list);
      const sent = sentParts(manifest, kept);
      const ranks = kept.map((_, rank) => ({ rank, host: 'a', freeBytes: 2 ** 30 }));
      const plan = planUpdate({ manifest, ranks, fraction: 0.5, bucketBytes: 2 ** 12 });
      const wrong = seed % rows;
      const holders: number[] = [];
      const reports = kept.map((own, rank) => {
        const also = rank === 0 ? unclaimedRows(own, sent[0]!) : new Uint32Array();
        const announcement = {
          rows: announcedRows(own, also),
          expected: arrivalOf(digests, (row) => isKept(sent[rank]!, row)),
        };
        const entries = plan.tensorOrder.filter((row) => announcement.rows[row] === 1);
        const said = (flipped: number) => ({
          digests: BigUint64Array.from(entries, (row) => digests[row]! ^ (row === flipped ? 1n : 0n)),
          part: new Uint16Array(entries.length),
          parts: new Uint16Array(entries.length).fill(1),
        });
        const options = { plan, expected: arrivalDigest(digests), announcement };
        assert.equal(arrivedAnswer(said(-1), options), 'as registered');
        if (entries.includes(wrong)) holders.push(rank);
        return { rank, plan, arrived: arrivedAnswer(said(wrong), options) };
      });
      assert.ok(holders.length > 0, 'somebody is given it');
      for (const { rank, arrived } of reports)
        assert.equal(arrived === 'as registered', !holders.includes(rank));
      const full = reports as Parameters<typeof arrivedReports>[0];
      const { ok, bad } = combineParts(arrivedReports(full, digests), digests);
      assert.ok(!ok);
      assert.deepEqual(
        bad.map(({ row }) => row),
        [wrong],
      );
    }),
  );
});
