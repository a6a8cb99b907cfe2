/** What the planner keeps of registered checkpoints. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlannerActor, plannerSpawnOptions } from '../../../src/actors/planner/planner.ts';
import { ask } from '../../../src/actors/protocol/ask.ts';
import { type PlannerMessage, toPlanner } from '../../../src/actors/protocol/planner.ts';
import { arrivalDigest, encodeManifest } from '../../../src/checkpoint/manifest.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';
import { makeSystem, soon } from '../kernel/harness.ts';

test('two checkpoints of one file that was written in between are each expected as they were registered', async () => {
  const { system } = makeSystem();
  const ports = { openCheckpoint: () => Promise.reject(new Error('no files')), breathe: async () => {} };
  const planner = system.spawn<PlannerMessage>('planner', () => new PlannerActor(ports), plannerSpawnOptions);
  const rows = (digest: bigint) => [{ name: 't', bytes: 8, segment: 0, offset: 0, digest }];
  const [before, after] = [1n, 2n].map((digest, at) =>
    manifestOf(rows(digest), [segmentOf(0, 'a')], `checkpoint-${at}`),
  );
  const adopt = (manifest: typeof before) =>
    ask(system, planner, toPlanner.adopt, { manifest: encodeManifest(manifest!) }, soon);
  const expected = async (layout: string) => {
    const rank = { rank: 0, host: 'a', directory: '', nics: [] };
    const question = {
      layout,
      ranks: [{ ...rank, freeBytes: 2 ** 30 }],
      sources: [rank],
      copies: [],
      lost: [],
      mirrorName: 'mirror-',
      memoryFraction: 0.5,
      bucketBytes: 2 ** 20,
      fused: [],
    };
    return (await ask(system, planner, toPlanner.plan, question, soon)).expected;
  };

  const first = await adopt(before);
  const second = await adopt(after);
  assert.equal(await expected(first.layout), arrivalDigest(before!.digests));
  assert.equal(await expected(second.layout), arrivalDigest(after!.digests));
});
